"""Tokens counted by a pool: before admission where it matters, and for whoever asks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import orjson
import pytest
import trio
import trio.testing

from orchd.edge.tokens import AT_ONCE
from orchd.kit import log
from orchd.kit.client import Answer
from orchd.kit.http import Response, json_response
from orchd.wire.control import MAX_TEXT_BYTES, PoolTokenize
from orchd.wire.errors import Kind, OrchError
from tests.edge.conftest import Front, Opener, read_json
from tests.edge.pool_peer import words
from tests.fakes.tasks import task_body

LONG = "word " * 240  # 1200 bytes


@pytest.mark.req("OC-CORE-1021", "ORCH-3016", "ORCH-3014")
async def test_a_prompt_that_is_too_long_is_refused_with_its_figures_and_never_queued(
    front: Opener,
) -> None:
    async with front() as it:
        answer = await it.post("/v1/tasks", task_body(prompt=LONG, ctx=255, max_tokens=16))
        said = read_json(answer)
        assert (answer.status, said["code"]) == (400, "INVALID_PARAMS")
        assert "a prompt of 240 tokens and max_tokens 16 do not fit into 255" in said["message"]
        assert read_json(await it.get("/v1/tasks"))["tasks"] == []
        await it.submit(prompt=LONG, ctx=256, max_tokens=16)
        assert (await it.peer.next_job()).open.prompt == LONG
        assert it.peer.asked == [PoolTokenize(text=LONG, tokens=False)] * 2


@pytest.mark.req("OC-CORE-1021")
async def test_a_prompt_that_fits_whatever_it_holds_asks_nobody(front: Opener) -> None:
    async with front() as it:
        await it.submit(prompt="x" * 1005, ctx=1024, max_tokens=16)
        assert it.peer.asked == []
        await it.submit(prompt="x" * 1006, ctx=1024, max_tokens=16)
        assert len(it.peer.asked) == 1


@pytest.mark.req("ORCH-3024")
async def test_a_task_that_is_sent_again_while_it_is_counted_is_one_task(front: Opener) -> None:
    gate = trio.Event()

    async def late(asked: PoolTokenize) -> Response:
        await gate.wait()
        return await words(asked)

    async with front() as it:
        it.peer.tokenize = late
        body = task_body(prompt=LONG, ctx=300)
        answers: list[Answer] = []

        async def send(**changes: object) -> None:
            answers.append(await it.post("/v1/tasks", body | changes))

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(send)
            with trio.fail_after(5):
                while len(it.peer.asked) < 3:
                    await trio.sleep(0.001)
            gate.set()
        await send()
        await send(max_tokens=17)
        assert [answer.status for answer in answers] == [202] * 4 + [409]
        assert len({answer.body for answer in answers[:4]}) == 1
        assert len(read_json(await it.get("/v1/tasks"))["tasks"]) == 1
        assert len(it.peer.asked) == 3, "who sends a known task again asks nobody"


async def test_a_pool_gets_few_texts_at_a_time_and_the_rest_in_turn(front: Opener) -> None:
    gate = trio.Event()

    async def late(asked: PoolTokenize) -> Response:
        await gate.wait()
        return await words(asked)

    async with front() as it:
        it.peer.tokenize = late
        async with trio.open_nursery() as nursery:
            for _ in range(AT_ONCE + 4):
                nursery.start_soon(ask, it)
            with trio.fail_after(5):
                while len(it.peer.asked) < AT_ONCE:
                    await trio.sleep(0.001)
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert len(it.peer.asked) == AT_ONCE
            gate.set()
        assert len(it.peer.asked) == AT_ONCE + 4


async def silent(_asked: PoolTokenize) -> Response:
    await trio.sleep(60)
    raise AssertionError("nobody waits for so long")


async def unready(_asked: PoolTokenize) -> Response:
    raise OrchError(Kind.POOL_UNREADY, "it drains")


async def nonsense(_asked: PoolTokenize) -> Response:
    return json_response({"count": -1})


@pytest.mark.req("ORCH-3016")
@pytest.mark.parametrize(
    ("tokenize", "words_"), [(silent, "within 2 s"), (unready, "it drains"), (nonsense, "$.count")]
)
async def test_a_prompt_that_nobody_counts_in_time_is_left_to_its_engine(
    front: Opener,
    autojump_clock: trio.testing.MockClock,
    tokenize: Callable[[PoolTokenize], Awaitable[Response]],
    words_: str,
) -> None:
    async with front() as it:
        it.peer.tokenize = tokenize
        with log.capture() as events:
            began = trio.current_time()
            await it.submit(prompt=LONG, ctx=255, max_tokens=16)
            assert trio.current_time() - began < 2.5
        (said,) = [event for event in events if event["event"] == "prompt_not_counted"]
        assert words_ in said["human"]
        assert "word" not in said["human"]
        job = await it.peer.next_job()
        job.fail(Kind.INVALID_PARAMS, "the prompt has 240 tokens")


@pytest.mark.req("ORCH-3390", "ORCH-3391")
async def test_a_text_is_told_in_tokens(front: Opener) -> None:
    async with front(replicas=2) as it:
        answer = await ask(it, text="To be or not")
        assert answer.status == 200
        assert answer.headers["content-type"] == "application/json"
        assert read_json(answer) == {"count": 4, "tokens": [2, 2, 2, 3]}
        assert read_json(await ask(it, text="")) == {"count": 0, "tokens": []}
        await it.submit()
        assert [len(peer.asked) for peer in it.peers.values()] == [2, 0]
        await it.peer.next_job()
        await ask(it, text="a")
        assert [len(peer.asked) for peer in it.peers.values()] == [2, 1], "the idlest is asked"


@pytest.mark.req("ORCH-3391")
@pytest.mark.parametrize(
    ("changes", "status", "words_"),
    [
        ({"text": None}, 400, "$.text: must be a string"),
        ({"text": 1}, 400, "$.text: must be a string"),
        ({"model_ref": ""}, 400, "$.model_ref"),
        ({"tokens": False}, 400, "$.tokens: is not a known key"),
        ({"text": "é" * (MAX_TEXT_BYTES // 2) + "a"}, 413, str(MAX_TEXT_BYTES)),
        ({"model_ref": "mock:other"}, 404, "no pool serves mock:other (served: mock:lorem)"),
    ],
)
async def test_what_cannot_be_told_is_refused_before_a_pool_is_asked(
    front: Opener, changes: dict[str, object], status: int, words_: str
) -> None:
    async with front() as it:
        answer = await ask(it, **changes)
        assert answer.status == status
        assert words_ in read_json(answer)["message"]
        assert it.peer.asked == []


@pytest.mark.req("ORCH-3391")
async def test_a_pool_that_does_not_tell_is_named_and_retriable(front: Opener) -> None:
    async with front() as it:
        it.peer.tokenize = unready
        said = read_json(await ask(it))
        assert (said["code"], said["pool_id"], said["message"]) == (
            "POOL_UNREADY", "demo", "it drains",
        )  # fmt: skip
    async with front(ready=False) as it:
        answer = await ask(it)
        said = read_json(answer)
        assert (answer.status, said["code"], said["retriable"]) == (503, "POOL_UNREADY", True)


async def test_the_longest_text_fits_however_it_is_escaped(front: Opener) -> None:
    async with front() as it:
        text = "\x01" * MAX_TEXT_BYTES
        assert len(orjson.dumps(text)) > 6 * MAX_TEXT_BYTES
        assert read_json(await ask(it, text=text))["count"] == 1


async def ask(front: Front, **changes: object) -> Answer:
    return await front.post("/v1/tokenize", {"model_ref": "mock:lorem", "text": "a b"} | changes)
