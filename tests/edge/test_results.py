"""Results from a pool to a client: as they came, in one `end` frame, however large."""

from __future__ import annotations

from contextlib import suppress

import orjson
import pytest
import trio

from orchd.kit.client import Incoming
from orchd.kit.pipe import PipeClosed
from orchd.wire import sse
from orchd.wire.results import MAX_NUMBERS, MAX_RESULT_BYTES, embeddings
from orchd.wire.shapes import Workload
from tests.edge.conftest import Front, Opener, read_json
from tests.fakes.tasks import task_body

EMBEDDING = {"workload": "embedding", "prompt": None, "inputs": ["a", "b"]}
SMALL = b'{"dimension":2,"embeddings":[[0.5,-1.0],[1.0,0.0]]}'


async def serve_vectors(it: Front) -> None:
    it.peer.state(workloads=tuple(Workload), embedding_dim=2)
    while Workload.EMBEDDING not in it.app.capabilities().engines[0].supported_workloads:
        await trio.sleep(0.001)


async def events(incoming: Incoming) -> list[sse.Event]:
    decoder, found = sse.Decoder(limit=2 * MAX_RESULT_BYTES), []
    with trio.fail_after(20):
        while data := await incoming.read_some():
            found += decoder.feed(data)
    return found


async def stream(it: Front, task: str) -> list[sse.Event]:
    async with it.client.open("GET", f"/v1/tasks/{task}/stream") as incoming:
        return await events(incoming)


async def test_a_result_comes_in_the_end_frame_and_again_on_replay(front: Opener) -> None:
    async with front() as it:
        await serve_vectors(it)
        task = await it.submit(**EMBEDDING)
        job = await it.peer.next_job()
        assert (job.open.workload, job.open.inputs) == (Workload.EMBEDDING, ("a", "b"))
        await job.result(SMALL[:10])
        await job.result(SMALL[10:])
        job.end()
        first = await stream(it, task)
        end = orjson.loads(first[-1].data)
        assert first[-1].name == "end"
        assert (end["tokens_out"], end["result"]) == (0, orjson.loads(SMALL))
        assert await stream(it, task) == first
        status = read_json(await it.get(f"/v1/tasks/{task}"))
        assert status["state"] == "ended"
        assert "result" not in orjson.dumps(status).decode(), "output is in the stream only"


async def test_the_largest_result_reaches_a_slow_reader_and_holds_up_no_stream(
    front: Opener,
) -> None:
    size = 4096
    result = embeddings([[-0.012345678901234567] * size] * (MAX_NUMBERS // size))
    async with front(slots=2) as it:
        await serve_vectors(it)
        embed = await it.submit(**EMBEDDING)
        large = await it.peer.next_job()
        text = await it.submit()
        plain = await it.peer.next_job()
        async with it.client.open("GET", f"/v1/tasks/{embed}/stream") as slow:
            await large.result(result)
            large.end()
            plain.tokens("beside it")
            plain.end()
            with trio.fail_after(2):
                assert [e.name for e in await stream(it, text)][-1] == "end"
            found = await events(slow)
        assert orjson.loads(found[-1].data)["result"] == orjson.loads(result)


async def test_a_result_that_crosses_a_cancel_reaches_nobody(front: Opener) -> None:
    async with front() as it:
        await serve_vectors(it)
        task = await it.submit(**EMBEDDING)
        job = await it.peer.next_job()
        await job.result(SMALL[:10])
        assert (await it.post(f"/v1/tasks/{task}/cancel")).status == 204
        await job.result(SMALL[10:])
        job.end()
        end = orjson.loads((await stream(it, task))[-1].data)
        assert end["finish_reason"] == "canceled"
        assert "result" not in end


async def test_a_pool_that_sends_a_result_without_end_loses_its_link(front: Opener) -> None:
    async with front() as it:
        await serve_vectors(it)
        task = await it.submit(**EMBEDDING)
        job = await it.peer.next_job()
        with suppress(PipeClosed):
            await job.result(b"x" * (2 * MAX_RESULT_BYTES))
        with trio.fail_after(5):
            while read_json(await it.get(f"/v1/tasks/{task}"))["state"] == "running":
                await trio.sleep(0.01)


@pytest.mark.req("OC-CORE-1021", "ORCH-3016")
async def test_each_input_is_counted_where_it_could_be_too_long(front: Opener) -> None:
    async with front() as it:
        await serve_vectors(it)
        texts = ["short", "word " * 250, "word " * 300]
        body = EMBEDDING | {"inputs": texts, "ctx": 300}
        await it.submit(**body)
        assert [asked.text for asked in it.peer.asked] == texts[1:]
        it.peer.asked.clear()
        refused = await it.post("/v1/tasks", task_body(**body | {"ctx": 299}))
        said = read_json(refused)
        assert (refused.status, said["code"]) == (400, "INVALID_PARAMS")
        assert "$.inputs[2]: has 300 tokens" in said["message"]
        rank = {"workload": "rerank", "inputs": ["word " * 100, "word " * 250], "ctx": 349}
        said = read_json(await it.post("/v1/tasks", task_body(**EMBEDDING | rank)))
        assert "$.inputs[1]: has 350 tokens with the query" in said["message"]
