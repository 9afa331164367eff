"""Streaming answers: the first send, framing, hanging up, what comes behind."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from orchd.kit import http, log
from orchd.kit.h1_sink import MAX_REST
from orchd.kit.pipe import PipeClosed
from orchd.kit.sink import Sink
from tests.fakes.peers import serving

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


def streaming(run: Callable[[Sink], Awaitable[None]]) -> http.Handler:
    """A handler that streams, and answers 204 for every other path than /."""

    async def handler(request: http.Request) -> http.Answer:
        if request.path != "/":
            return http.Response(204)
        return http.Streaming("text/event-stream", run, headers=(("Cache-Control", "no-cache"),))

    return handler


@pytest.mark.req("SSE-1001")
async def test_each_write_leaves_at_once_and_the_head_with_the_first() -> None:
    go = trio.Event()

    async def run(sink: Sink) -> None:
        assert sink.send_nowait(b"one")
        await go.wait()
        assert sink.send_nowait(b"two")
        assert sink.send_nowait(b"")  # no chunk: it would be the last
        assert sink.send_nowait(b"three")

    async with serving(streaming(run)) as served:
        peer = await served.connect()
        await peer.say(GET)
        first = await peer.recv()
        assert first.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"\r\nTransfer-Encoding: chunked\r\n" in first
        assert b"\r\nCache-Control: no-cache\r\n" in first
        assert first.endswith(b"\r\n\r\n3\r\none\r\n")
        go.set()
        assert await peer.until(b"0\r\n\r\n") == b"3\r\ntwo\r\n5\r\nthree\r\n0\r\n\r\n"


async def test_the_head_goes_out_without_a_write_when_the_sink_is_waited_on() -> None:
    async def run(sink: Sink) -> None:
        await sink.wait_closed()

    async with serving(streaming(run)) as served:
        peer = await served.connect()
        await peer.say(GET)
        assert (await peer.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")


async def test_the_connection_goes_on_after_a_stream() -> None:
    async def run(sink: Sink) -> None:
        sink.send_nowait(b"x")

    async with serving(streaming(run)) as served:
        peer = await served.connect()
        for _ in range(3):
            assert (await peer.ask("/")).body == b"x"
            assert (await peer.ask("/other")).status == 204


async def test_an_empty_stream_is_a_whole_answer() -> None:
    async def run(sink: Sink) -> None:
        pass

    async with serving(streaming(run)) as served:
        peer = await served.connect()
        assert (await peer.ask("/")).body == b""
        assert (await peer.ask("/other")).status == 204


async def test_head_of_a_stream_does_not_run_it() -> None:
    async def run(sink: Sink) -> None:
        pytest.fail("ran")

    async with serving(streaming(run)) as served:
        peer = await served.connect()
        got = await peer.ask("/", "HEAD")
        assert got.headers["content-type"] == "text/event-stream"
        assert (await peer.ask("/other")).status == 204


async def test_http10_gets_bare_bytes_until_the_end() -> None:
    async def run(sink: Sink) -> None:
        sink.send_nowait(b"one")
        sink.send_nowait(b"two")

    async with serving(streaming(run)) as served:
        peer = await served.connect()
        await peer.say(b"GET / HTTP/1.0\r\n\r\n")
        data = await peer.to_end()
        assert b"chunked" not in data
        assert data.endswith(b"\r\n\r\nonetwo")


@pytest.mark.parametrize("how", ["close", "abort", "shutdown"])
async def test_wait_closed_returns_when_the_peer_hangs_up(how: str) -> None:
    left = trio.Event()

    async def run(sink: Sink) -> None:
        sink.send_nowait(b"x")
        await sink.wait_closed()
        with pytest.raises(PipeClosed):
            sink.send_nowait(b"y")
        with pytest.raises(PipeClosed):
            await sink.flush()
        await sink.wait_closed()  # at once, the second time
        left.set()

    with log.capture() as events:
        async with serving(streaming(run)) as served:
            peer = await served.connect()
            await peer.say(GET)
            await peer.recv()
            await trio.testing.wait_all_tasks_blocked()
            assert not left.is_set()
            getattr(peer.pipe, how)()
            await left.wait()
    assert [event for event in events if event["level"] != "debug"] == []


async def test_pipelined_requests_do_not_count_as_hanging_up() -> None:
    go = trio.Event()

    async def run(sink: Sink) -> None:
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                await sink.wait_closed()
                pytest.fail("nobody hung up")

            nursery.start_soon(watch)
            await go.wait()
            sink.send_nowait(b"done")
            nursery.cancel_scope.cancel()

    async with serving(streaming(run)) as served:
        peer = await served.connect()
        other = b"GET /other HTTP/1.1\r\nHost: x\r\n\r\n"
        await peer.say(GET + other)
        await peer.say(other[:10])
        await trio.testing.wait_all_tasks_blocked()
        await peer.say(other[10:])
        await trio.testing.wait_all_tasks_blocked()
        go.set()
        assert (await peer.answer()).body == b"done"
        assert (await peer.answer()).status == 204
        assert (await peer.answer()).status == 204


async def test_a_client_that_floods_behind_a_stream_is_reset() -> None:
    ended = trio.Event()

    async def run(sink: Sink) -> None:
        await sink.wait_closed()
        ended.set()

    async with serving(streaming(run)) as served:
        peer = await served.connect()
        await peer.say(GET)
        await peer.until(b"\r\n\r\n")
        await peer.say(b"x" * (MAX_REST + 1))
        await ended.wait()
        with pytest.raises(PipeClosed):
            await peer.say(b"y")


async def test_a_reader_that_is_behind_is_pending_until_flushed() -> None:
    size = 0

    async def run(sink: Sink) -> None:
        nonlocal size
        while sink.send_nowait(b"z" * 10_000):
            size += 10_000
        size += 10_000
        assert sink.pending
        await sink.flush()
        assert not sink.pending
        sink.send_nowait(b"end")

    async with serving(streaming(run)) as served:
        peer = await served.connect()
        await peer.say(GET)
        await trio.testing.wait_all_tasks_blocked()
        assert len((await peer.answer()).body) == size + 3


async def test_abort_leaves_no_whole_body() -> None:
    async def run(sink: Sink) -> None:
        sink.send_nowait(b"half")
        sink.abort()

    async with serving(streaming(run)) as served:
        peer = await served.connect()
        await peer.say(GET)
        assert (await peer.to_end()).endswith(b"4\r\nhalf\r\n")


async def test_an_error_in_the_middle_is_logged_and_cuts_the_body() -> None:
    async def run(sink: Sink) -> None:
        sink.send_nowait(b"half")
        async with trio.open_nursery():
            raise RuntimeError("broke")

    with log.capture() as events:
        async with serving(streaming(run)) as served:
            peer = await served.connect()
            await peer.say(GET)
            assert (await peer.to_end()).endswith(b"4\r\nhalf\r\n")
            assert (await (await served.connect()).ask("/other")).status == 204
    failed = [event for event in events if event["event"] == "stream_failed"]
    assert [event["human"] for event in failed] == [
        "A stream broke on an unexpected error: RuntimeError"
    ]


async def test_a_sink_kept_after_the_end_writes_nothing() -> None:
    kept: list[Sink] = []

    async def run(sink: Sink) -> None:
        kept.append(sink)

    async with serving(streaming(run)) as served:
        peer = await served.connect()
        assert (await peer.ask("/")).body == b""
        with pytest.raises(PipeClosed):
            kept[0].send_nowait(b"late")
        assert (await peer.ask("/other")).status == 204


async def test_streams_that_hang_are_cancelled_with_the_server() -> None:
    started: list[int] = []
    cancelled: list[str] = []

    async def run(sink: Sink) -> None:
        number = len(started)
        started.append(number)
        waits: list[Callable[[], Awaitable[None]]] = [
            trio.sleep_forever,
            sink.wait_closed,
            lambda: _forever_behind(sink),
        ]
        try:
            await waits[number]()
        except trio.Cancelled:
            cancelled.append("yes")
            raise

    with log.capture() as events:
        async with serving(streaming(run), drain_s=0) as served:
            for _ in range(3):
                await (await served.connect()).say(GET)
            await trio.testing.wait_all_tasks_blocked()
            assert len(started) == 3
            served.stop.set()
            await served.ended.wait()
    assert cancelled == ["yes"] * 3
    assert [event for event in events if event["level"] != "debug"] == []


async def _forever_behind(sink: Sink) -> None:
    while sink.send_nowait(b"z" * 10_000):
        pass
    await sink.flush()


async def test_a_handlers_nursery_that_breaks_while_it_is_cancelled_ends_quietly() -> None:
    """Its group holds Cancelled and PipeClosed together: only the first may pass on."""

    async def run(sink: Sink) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_gone_when_cancelled)
            await sink.wait_closed()

    with log.capture() as events:
        async with serving(streaming(run), drain_s=0) as served:
            await (await served.connect()).say(GET)
            await trio.testing.wait_all_tasks_blocked()
            served.stop.set()
            await served.ended.wait()
    assert [event for event in events if event["level"] != "debug"] == []


async def _gone_when_cancelled() -> None:
    try:
        await trio.sleep_forever()
    finally:
        raise PipeClosed("the peer left meanwhile")
