"""HTTP/2 bodies: each write at once, windows, readers that are behind, leave or are cut off."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from h2.errors import ErrorCodes
from h2.settings import SettingCodes

from orchd.kit import http, log
from orchd.kit.pipe import MAX_PENDING, PipeClosed
from orchd.kit.sink import Sink
from tests.fakes.h2_peer import H2Peer
from tests.fakes.peers import Served, serving
from tests.kit.test_http1_streams import streaming

WINDOW = 65535
"""A stream's window until its reader opens it."""

pytestmark = pytest.mark.req("OC-CTRL-2025", "ORCH-3450")


async def connect_narrow(served: Served, window: int) -> H2Peer:
    """A client whose streams have small windows."""
    peer = await H2Peer.connect(served)
    peer.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: window})
    await peer.flush()
    await peer.ask("/other")  # by then the settings hold
    return peer


@pytest.mark.req("SSE-1001", "SSE-1005")
async def test_each_write_leaves_at_once_and_the_head_with_the_first() -> None:
    go = trio.Event()

    async def run(sink: Sink) -> None:
        assert sink.send_nowait(b"one")
        await go.wait()
        assert sink.send_nowait(b"two")
        assert sink.send_nowait(b"")
        assert sink.send_nowait(b"three")

    async with serving(streaming(run)) as served:
        peer = await H2Peer.connect(served)
        await peer.ask("/other")
        stream_id = await peer.send()
        assert await peer.receive()
        answer = peer.answers[stream_id]
        assert (answer.status, answer.body) == (200, b"one")
        assert answer.headers["cache-control"] == "no-cache"
        assert "content-encoding" not in answer.headers
        go.set()
        assert (await peer.answer(stream_id)).body == b"onetwothree"


@pytest.mark.parametrize("wait", ["wait_closed", "flush", "flush_some"])
async def test_the_head_goes_out_without_a_write(wait: str) -> None:
    async def run(sink: Sink) -> None:
        await getattr(sink, wait)()
        await trio.sleep_forever()

    async with serving(streaming(run)) as served:
        peer = await H2Peer.connect(served)
        await peer.ask("/other")
        await trio.testing.wait_all_tasks_blocked()
        stream_id = await peer.send()
        while not peer.answers[stream_id].headers:
            await peer.receive()


async def test_an_empty_stream_is_a_whole_answer() -> None:
    async def run(sink: Sink) -> None:
        pass

    async with serving(streaming(run)) as served:
        peer = await H2Peer.connect(served)
        got = await peer.ask()
        assert (got.status, got.body, got.ended) == (200, b"", True)


async def test_a_reader_that_does_not_read_holds_up_no_other() -> None:
    """One of ten streams is not read at all; nine get everything."""
    total = 4 * WINDOW
    stuck: list[Sink] = []

    async def run(sink: Sink) -> None:
        stuck.append(sink)
        sent = 0
        while sent < total:
            if not sink.send_nowait(b"z" * 1000):
                await sink.flush()
            sent += 1000

    async with serving(streaming(run)) as served:
        peer = await H2Peer.connect(served)
        deaf = await peer.send()
        peer.idle.add(deaf)
        await peer.body_of(deaf, WINDOW)
        others = [await peer.send() for _ in range(9)]
        for stream_id in others:
            assert len((await peer.answer(stream_id)).body) >= total
        assert len(peer.answers[deaf].body) == WINDOW
        assert 0 < stuck[0].pending <= 1000
        assert (await peer.ask("/other")).status == 204
        # and it goes on when it reads again
        peer.idle.discard(deaf)
        peer.h2.acknowledge_received_data(WINDOW, deaf)
        await peer.flush()
        assert len((await peer.answer(deaf)).body) >= total


async def test_pending_until_the_window_opens() -> None:
    flushed = trio.Event()

    async def run(sink: Sink) -> None:
        assert sink.send_nowait(b"a" * 100)
        assert not sink.send_nowait(b"b" * 100)
        assert sink.pending == 50
        assert not sink.send_nowait(b"c" * 10)
        assert sink.pending == 60
        await sink.flush()
        assert sink.pending == 0
        flushed.set()
        assert sink.send_nowait(b"d")

    async with serving(streaming(run)) as served:
        peer = await connect_narrow(served, 150)
        stream_id = await peer.send()
        peer.idle.add(stream_id)
        assert await peer.body_of(stream_id, 150) == b"a" * 100 + b"b" * 50
        await trio.testing.wait_all_tasks_blocked()
        assert not flushed.is_set()
        peer.h2.increment_flow_control_window(70, stream_id)
        await peer.flush()
        assert (await peer.answer(stream_id)).body == b"a" * 100 + b"b" * 100 + b"c" * 10 + b"d"


@pytest.mark.parametrize("window", [1, 7, 16384, 1 << 20])
async def test_windows_of_all_sizes(window: int) -> None:
    body = bytes(range(256)) * (20 if window > 1 else 1)

    async def handler(request: http.Request) -> http.Answer:
        return http.Response(204) if request.path == "/other" else http.Response(body=body)

    async with serving(handler) as served:
        peer = await connect_narrow(served, window)
        stream_id = await peer.send()
        peer.idle.add(stream_id)
        got = peer.answers[stream_id]
        while not got.over:
            seen = len(got.body)
            await peer.receive()
            if len(got.body) > seen and not got.over:
                peer.h2.increment_flow_control_window(len(got.body) - seen, stream_id)
                await peer.flush()
        assert got.body == body


async def test_settings_open_and_shut_the_windows_of_open_streams() -> None:
    async def handler(request: http.Request) -> http.Answer:
        return http.Response(204) if request.path == "/other" else http.Response(body=b"x" * 1000)

    async with serving(handler) as served:
        peer = await connect_narrow(served, 0)
        stream_id = await peer.send()
        await peer.ask("/other")
        assert peer.answers[stream_id].body == b""
        peer.idle.add(stream_id)
        peer.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 600})
        await peer.flush()
        assert len(await peer.body_of(stream_id, 600)) == 600
        peer.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 100})  # -500 now
        await peer.flush()
        await peer.ask("/other")
        peer.h2.increment_flow_control_window(500, stream_id)  # 0 now
        await peer.flush()
        await peer.ask("/other")
        assert len(peer.answers[stream_id].body) == 600
        peer.h2.increment_flow_control_window(400, stream_id)
        await peer.flush()
        assert len((await peer.answer(stream_id)).body) == 1000


async def test_a_sink_keeps_no_more_than_its_bound() -> None:
    kept: list[int] = []

    async def run(sink: Sink) -> None:
        with pytest.raises(PipeClosed):
            while True:
                sink.send_nowait(b"z" * 10_000)
                kept.append(sink.pending)

    async with serving(streaming(run)) as served:
        peer = await H2Peer.connect(served)
        stream_id = await peer.send()
        peer.idle.add(stream_id)
        got = await peer.answer(stream_id)
        assert got.reset == ErrorCodes.INTERNAL_ERROR
        assert max(kept) <= MAX_PENDING + 10_000
        assert (await peer.ask("/other")).status == 204


@pytest.mark.parametrize("how", ["reset", "close", "abort", "shutdown"])
async def test_wait_closed_returns_when_the_reader_leaves(how: str) -> None:
    left = trio.Event()

    async def run(sink: Sink) -> None:
        sink.send_nowait(b"x")
        await sink.wait_closed()
        with pytest.raises(PipeClosed):
            sink.send_nowait(b"y")
        with pytest.raises(PipeClosed):
            await sink.flush()
        sink.abort()
        await sink.wait_closed()  # at once, the second time
        left.set()

    with log.capture() as events:
        async with serving(streaming(run)) as served:
            peer = await H2Peer.connect(served)
            stream_id = await peer.send()
            await peer.body_of(stream_id, 1)
            await trio.testing.wait_all_tasks_blocked()
            assert not left.is_set()
            if how == "reset":
                await peer.reset(stream_id)
            else:
                getattr(peer.pipe, how)()
            with trio.fail_after(5):
                await left.wait()
            if how == "reset":
                assert (await peer.ask("/other")).status == 204
    assert [event for event in events if event["level"] != "debug"] == []


async def test_a_flush_ends_when_the_reader_leaves() -> None:
    ended = trio.Event()

    async def run(sink: Sink) -> None:
        while sink.send_nowait(b"z" * 1000):
            pass
        with pytest.raises(PipeClosed):
            await sink.flush()
        ended.set()

    async with serving(streaming(run)) as served:
        peer = await H2Peer.connect(served)
        stream_id = await peer.send()
        peer.idle.add(stream_id)
        await peer.body_of(stream_id, WINDOW)
        await peer.reset(stream_id)
        with trio.fail_after(5):
            await ended.wait()


async def test_abort_resets_the_stream_and_no_other() -> None:
    async def run(sink: Sink) -> None:
        sink.send_nowait(b"half")
        sink.abort()

    async with serving(streaming(run)) as served:
        peer = await H2Peer.connect(served)
        got = await peer.ask()
        assert (got.body, got.ended, got.reset) == (b"half", False, ErrorCodes.INTERNAL_ERROR)
        assert (await peer.ask("/other")).status == 204


async def test_an_error_in_the_middle_is_logged_and_resets_the_stream() -> None:
    async def run(sink: Sink) -> None:
        sink.send_nowait(b"half")
        async with trio.open_nursery():
            raise RuntimeError("broke")

    with log.capture() as events:
        async with serving(streaming(run)) as served:
            peer = await H2Peer.connect(served)
            got = await peer.ask()
            assert (got.body, got.reset) == (b"half", ErrorCodes.INTERNAL_ERROR)
            assert (await peer.ask("/other")).status == 204
    failed = [event for event in events if event["event"] == "stream_failed"]
    assert [event["human"] for event in failed] == [
        "A stream broke on an unexpected error: RuntimeError"
    ]


async def test_a_sink_kept_after_the_end_writes_nothing() -> None:
    kept: list[Sink] = []

    async def run(sink: Sink) -> None:
        kept.append(sink)

    async with serving(streaming(run)) as served:
        peer = await H2Peer.connect(served)
        assert (await peer.ask()).body == b""
        with pytest.raises(PipeClosed):
            kept[0].send_nowait(b"late")
        kept[0].abort()
        assert (await peer.ask("/other")).status == 204


@pytest.mark.req("ORCH-3026")
async def test_abort_of_a_half_sent_frame_lets_no_byte_out() -> None:
    """The kernel is full: what it has of a stream cannot be taken back, so the rest must not go."""
    go, done = trio.Event(), trio.Event()
    half_sent: list[bool] = []

    async def run(sink: Sink) -> None:
        while not half_sent:
            if not sink.send_nowait(b"z" * 16384):
                half_sent.append(True)
        await go.wait()
        assert sink.pending
        sink.abort()
        done.set()

    async with serving(streaming(run)) as served:
        peer = await H2Peer.connect(served)
        peer.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 1 << 30})
        await peer.flush()
        await peer.ask("/other")
        stream_id = await peer.send()
        await trio.testing.wait_all_tasks_blocked()
        assert half_sent
        go.set()
        await done.wait()
        with pytest.raises((AssertionError, PipeClosed)):  # the connection is cut, mid-frame
            await peer.answer(stream_id)


async def test_a_full_kernel_delays_all_and_loses_nothing() -> None:
    size = 3 << 20

    async def run(sink: Sink) -> None:
        for _ in range(size >> 14):
            if not sink.send_nowait(b"z" * 16384):
                await sink.flush()

    async with serving(streaming(run)) as served:
        peer = await H2Peer.connect(served)
        peer.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 1 << 30})
        await peer.flush()
        await peer.ask("/other")
        asked = [await peer.send() for _ in range(5)]
        await trio.testing.wait_all_tasks_blocked()
        await peer.say(b"\x00\x00\x08\x06\x00\x00\x00\x00\x00--ping--")
        for stream_id in asked:
            assert len((await peer.answer(stream_id)).body) == size


async def test_streams_that_hang_are_cancelled_with_the_server() -> None:
    cancelled: list[str] = []

    async def run(sink: Sink) -> None:
        try:
            if not cancelled:
                while sink.send_nowait(b"z" * 10_000):
                    pass
                await sink.flush()
            await sink.wait_closed()
        except trio.Cancelled:
            cancelled.append("yes")
            raise

    with log.capture() as events:
        async with serving(streaming(run), drain_s=0) as served:
            peer = await H2Peer.connect(served)
            for _ in range(3):
                peer.idle.add(await peer.send())
            await trio.testing.wait_all_tasks_blocked()
            served.stop.set()
            await served.ended.wait()
    assert cancelled == ["yes"] * 3
    assert [event for event in events if event["level"] != "debug"] == []


async def test_streams_take_turns() -> None:
    """A large answer that was asked for first does not hold up a small one."""

    async def handler(request: http.Request) -> http.Answer:
        return http.Response(body=b"x" * (8 << 20 if request.path == "/big" else 100))

    async with serving(handler) as served:
        peer = await H2Peer.connect(served)
        peer.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 1 << 30})
        await peer.flush()
        await peer.ask("/small")
        big = await peer.send("/big")
        await trio.testing.wait_all_tasks_blocked()
        small = await peer.send("/small")
        assert len((await peer.answer(small)).body) == 100
        assert not peer.answers[big].over
        assert len((await peer.answer(big)).body) == 8 << 20


async def test_a_table_of_headers_is_kept_small_however_large_it_may_be() -> None:
    async def run(sink: Sink) -> None:
        sink.send_nowait(b"x")

    async with serving(streaming(run)) as served:
        peer = await H2Peer.connect(served)
        peer.h2.update_settings({SettingCodes.HEADER_TABLE_SIZE: 1 << 20})
        await peer.flush()
        for _ in range(3):
            assert (await peer.ask()).body == b"x"
        assert peer.h2.decoder.header_table_size == 4096
