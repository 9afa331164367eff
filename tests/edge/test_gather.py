"""Micro-batches and sentences on progress: when they are written, and what never waits."""

from __future__ import annotations

import orjson
import pytest
import trio
import trio.testing

from orchd.config.serving import Sse
from orchd.edge.gather import Gather
from orchd.edge.relay import Stream
from orchd.wire import sse
from orchd.wire.ids import Count
from tests.edge.conftest import Opener
from tests.edge.test_relay import END, Client, names, new_stream, reading
from tests.edge.test_tasks import stream as read_stream

PERIOD_S = 0.02


def fed(gather: Gather, stream: Stream, *texts: str) -> None:
    frames = sse.token_frames(stream.next_id, stream.tokens, texts)
    stream.feed(len(texts), frames)
    gather.take([stream])


def fresh(client: Client) -> bytes:
    """What has left for the client since it was last asked."""
    before = len(client.bytes)
    client.take()
    return bytes(client.bytes[before:])


@pytest.mark.req("ORCH-3400", "OC-CTRL-2026")
async def test_tokens_leave_together_and_the_first_and_the_end_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    gather, stream = Gather(PERIOD_S), new_stream()
    client = Client(stream)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gather.run)
        async with reading(client):
            fresh(client)
            fed(gather, stream, "first")
            assert b'"t":"first"' in fresh(client), "the first waits for nothing"
            fed(gather, stream, "a")
            await trio.sleep(PERIOD_S / 2)
            fed(gather, stream, "b")
            assert fresh(client) == b""
            await trio.sleep(PERIOD_S * 0.6)
            written = fresh(client)
            assert b'"t":"a"' in written
            assert b'"t":"b"' in written
            fed(gather, stream, "c")
            stream.heartbeat()
            assert fresh(client).index(b'"t":"c"') >= 0, "what is behind goes first"
            fed(gather, stream, "d")
            stream.finish(("end", END))
            last = fresh(client)
            assert names(sse.Decoder().feed(last)) == ["token", "end"]
            await trio.sleep(PERIOD_S * 3)
            assert fresh(client) == b"", "nothing is written twice"
        nursery.cancel_scope.cancel()


@pytest.mark.req("ORCH-3026")
async def test_what_waits_is_not_written_after_a_cancel(
    autojump_clock: trio.testing.MockClock,
) -> None:
    gather, stream = Gather(PERIOD_S), new_stream()
    client = Client(stream)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gather.run)
        async with reading(client):
            fed(gather, stream, "first")
            fresh(client)
            fed(gather, stream, "gone")
            stream.seal()
            stream.finish(("end", END))
            await trio.sleep(PERIOD_S * 2)
            assert b"gone" not in fresh(client)
        nursery.cancel_scope.cancel()


async def test_a_task_is_told_whole_with_micro_batches(front: Opener) -> None:
    async with front(sse=Sse(microbatch_ms=Count(50))) as it:
        task = await it.submit()
        job = await it.peer.next_job()
        async with it.client.open("GET", f"/v1/tasks/{task}/stream") as incoming:
            job.tokens("a")
            for text in "bcdef":
                job.tokens(text)
            data = b""
            with trio.fail_after(5):
                while b'"t":"f"' not in data:
                    data += await incoming.read_some()
            job.end()
            while more := await incoming.read_some():
                data += more
        tokens = [e for e in sse.Decoder().feed(data) if e.name == "token"]
        assert [orjson.loads(e.data)["t"] for e in tokens] == [*"abcdef"]
        assert await read_stream(it, task) == sse.Decoder().feed(data), "and so is a replay"


@pytest.mark.req("ORCH-3308", "SSE-1004")
async def test_progress_is_told_in_words_every_period_and_never_for_a_token(front: Opener) -> None:
    async with front(sse=Sse(narration_period_ms=Count(500))) as it:
        task = await it.submit(max_tokens=1000)
        job = await it.peer.next_job()
        began = trio.current_time()
        async with it.client.open("GET", f"/v1/tasks/{task}/stream") as incoming:
            data = b""
            with trio.fail_after(10):
                while data.count(b'"action":"progress"') < 2:
                    job.tokens("word ")
                    with trio.move_on_after(0.02):
                        data += await incoming.read_some()
            took = trio.current_time() - began
            job.end()
            while more := await incoming.read_some():
                data += more
        assert took > 0.9, "not more often than configured"
        events = sse.Decoder().feed(data)
        told = [e for e in events if e.name == "narration"]
        said = [orjson.loads(e.data) for e in told]
        assert [each["action"] for each in said] == ["start", "progress", "progress", "end"]
        assert "tokens so far" in said[1]["human"]
        ids = [int(e.id or 0) for e in events if e.name == "token"]
        assert ids == list(range(ids[0], ids[0] + len(ids))), "the ids of tokens are the pool's"
        assert b"progress" not in bytes(it.app.stream(task).log), "it is not kept"


async def test_without_a_period_nothing_is_said_in_between(front: Opener) -> None:
    async with front() as it:
        task = await it.submit()
        job = await it.peer.next_job()
        job.tokens("a")
        async with it.client.open("GET", f"/v1/tasks/{task}/stream") as incoming:
            data = b""
            with trio.move_on_after(0.8):
                while True:
                    data += await incoming.read_some()
            assert b'"action":"progress"' not in data
