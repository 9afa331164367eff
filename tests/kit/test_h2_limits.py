"""HTTP/2's limits and deadlines, and the orderly stop: on the test's clock where time matters."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from h2.errors import ErrorCodes
from h2.settings import SettingCodes

from orchd.kit import http, log
from orchd.kit.h2_connection import BODIES
from orchd.kit.sink import Sink
from tests.fakes.h2_peer import HELLO, H2Peer, frame
from tests.fakes.peers import serving

pytestmark = pytest.mark.req("OC-CTRL-2025", "ORCH-3450")


async def size(request: http.Request) -> http.Answer:
    """Answer how long the body was."""
    return http.Response(200, str(len(request.body)).encode())


@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_over_the_limit_is_413_and_the_connection_goes_on(declared: bool) -> None:
    async with serving(size, limits=http.Limits(body_bytes=1000)) as served:
        peer = await H2Peer.connect(served)
        assert (await peer.ask("/", "POST", b"x" * 1000)).body == b"1000"
        headers = {"content_length": "1001"} if declared else {}
        got = await peer.ask("/", "POST", b"x" * 1001, **headers)
        assert (got.status, got.json["code"]) == (413, "INVALID_PARAMS")
        assert (await peer.ask("/", "POST", b"x" * 1000)).body == b"1000"


async def test_a_client_that_goes_on_sending_behind_413_is_told_to_stop(
    autojump_clock: object,
) -> None:
    async with serving(size, limits=http.Limits(body_bytes=1000)) as served:
        peer = await H2Peer.connect(served)
        stream_id = await peer.send("/", "POST", b"x" * 1001, end=False)
        got = await peer.answer(stream_id)
        assert (got.status, got.ended, got.reset) == (413, True, None)
        began = trio.current_time()
        while got.reset is None:
            await peer.receive()
        assert got.reset == ErrorCodes.NO_ERROR
        assert trio.current_time() - began == pytest.approx(2)
        assert (await peer.ask("/", "POST", b"x")).body == b"1"


async def test_a_client_that_sends_much_behind_413_is_told_at_once(
    autojump_clock: object,
) -> None:
    async with serving(size, limits=http.Limits(body_bytes=1000)) as served:
        peer = await H2Peer.connect(served)
        stream_id = await peer.send("/", "POST", b"x" * 1001, end=False)
        got = await peer.answer(stream_id)
        began = trio.current_time()
        peer.h2.send_data(stream_id, b"x" * 1001)
        await peer.flush()
        while got.reset is None:
            await peer.receive()
        assert got.reset == ErrorCodes.NO_ERROR
        assert trio.current_time() == began


async def test_a_large_body_comes_through_the_window() -> None:
    async with serving(size) as served:
        peer = await H2Peer.connect(served)
        assert (await peer.ask("/", "POST", b"x" * (1 << 20))).body == b"1048576"


async def test_unfinished_bodies_of_one_connection_have_a_bound() -> None:
    async with serving(size, limits=http.Limits(body_bytes=10_000)) as served:
        peer = await H2Peer.connect(served)
        asked = [await peer.send("/", "POST", b"x" * 9000, end=False) for _ in range(BODIES + 1)]
        over = await peer.answer(asked[-1])
        assert over.reset == ErrorCodes.ENHANCE_YOUR_CALM
        for stream_id in asked[:-1]:
            peer.h2.end_stream(stream_id)
        await peer.flush()
        for stream_id in asked[:-1]:
            assert (await peer.answer(stream_id)).body == b"9000"


async def test_headers_over_the_limit_are_431() -> None:
    async with serving(size) as served:
        peer = await H2Peer.connect(served)
        await peer.ask()
        assert peer.h2.remote_settings[SettingCodes.MAX_HEADER_LIST_SIZE] == 32 << 10
        got = await peer.ask(x="y" * 70_000, x_correlation_id="mine")
        assert (got.status, got.json["code"]) == (431, "INVALID_PARAMS")
        assert got.headers["x-correlation-id"] == "mine"
        got = await peer.ask("/", "GET", b"", **{f"x{i}": "y" for i in range(101)})
        assert got.status == 431
        assert (await peer.ask("/", "GET", b"", **{f"x{i}": "y" for i in range(100)})).status == 200


async def test_a_slow_body_is_408_and_the_others_go_on(autojump_clock: object) -> None:
    async with serving(size) as served:
        peer = await H2Peer.connect(served)
        slow = await peer.send("/", "POST", b"half", end=False)
        assert (await peer.ask("/", "POST", b"x")).body == b"1"
        began = trio.current_time()
        got = await peer.answer(slow)
        assert (got.status, got.json["code"]) == (408, "INVALID_PARAMS")
        assert trio.current_time() - began == pytest.approx(30)
        assert (await peer.ask("/", "POST", b"x")).body == b"1"


async def test_a_body_that_comes_after_its_time_is_not_kept(autojump_clock: object) -> None:
    async with serving(size) as served:
        peer = await H2Peer.connect(served)
        slow = await peer.send("/", "POST", b"half", end=False)
        assert (await peer.answer(slow)).status == 408
        peer.h2.send_data(slow, b"late", end_stream=True)
        await peer.flush()
        assert (await peer.ask("/", "POST", b"x")).body == b"1"


@pytest.mark.parametrize("data", [b"", HELLO[:5], HELLO, HELLO + frame(1, 0, 1, b"\x82")])
async def test_a_client_without_a_request_is_sent_away(data: bytes, autojump_clock: object) -> None:
    async with serving(size) as served:
        peer = await served.connect()
        if data:
            await peer.say(data)
        began = trio.current_time()
        got = await peer.to_end()
        assert 10 <= trio.current_time() - began < 13
        if data.startswith(HELLO):
            assert got.endswith(frame(7, 0, 0, bytes(8)))  # GOAWAY, NO_ERROR


async def test_an_idle_connection_is_ended_after_keep_alive_s(autojump_clock: object) -> None:
    async with serving(size) as served:
        peer = await H2Peer.connect(served)
        await peer.ask()
        began = trio.current_time()
        async with trio.open_nursery() as nursery:

            async def ping() -> None:
                while True:
                    await trio.sleep(20)
                    peer.h2.ping(bytes(8))
                    await peer.flush()

            nursery.start_soon(ping)
            await peer.to_end()
            nursery.cancel_scope.cancel()
        assert trio.current_time() - began == pytest.approx(75)
        assert peer.goaway is not None
        assert peer.goaway.error_code == ErrorCodes.NO_ERROR


async def test_an_open_stream_is_not_idle(autojump_clock: object) -> None:
    async def run(sink: Sink) -> None:
        await trio.sleep(3600)
        sink.send_nowait(b"done")

    async def handler(request: http.Request) -> http.Answer:
        return http.Streaming("text/plain", run)

    async with serving(handler) as served:
        peer = await H2Peer.connect(served)
        assert (await peer.ask()).body == b"done"


async def test_an_answer_that_nobody_reads_is_reset_alone(autojump_clock: object) -> None:
    async def handler(request: http.Request) -> http.Answer:
        return http.Response(body=b"x" * 100_000)

    async with serving(handler) as served:
        peer = await H2Peer.connect(served)
        deaf = await peer.send()
        peer.idle.add(deaf)
        began = trio.current_time()
        got = await peer.answer(deaf)
        assert (len(got.body), got.reset) == (65535, ErrorCodes.INTERNAL_ERROR)
        assert trio.current_time() - began == pytest.approx(30)
        assert len((await peer.ask()).body) == 100_000


async def test_a_peer_that_reads_nothing_at_all_is_reset(autojump_clock: object) -> None:
    async def handler(request: http.Request) -> http.Answer:
        return http.Response(body=b"x" * (4 << 20))

    async with serving(handler) as served:
        peer = await H2Peer.connect(served)
        peer.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 1 << 30})
        await peer.send()
        await trio.sleep(31)
        total = 0
        while data := await peer.pipe.recv():
            total += len(data)
        assert total < (4 << 20)


async def test_stop_says_goaway_and_lets_open_streams_end(autojump_clock: object) -> None:
    go = trio.Event()

    async def handler(request: http.Request) -> http.Answer:
        if request.path == "/slow":
            await go.wait()
        return http.Response(200, b"ok")

    async with serving(handler) as served:
        idle, busy = await H2Peer.connect(served), await H2Peer.connect(served)
        await idle.ask()
        slow = await busy.send("/slow")
        await trio.testing.wait_all_tasks_blocked()
        served.stop.set()
        await idle.to_end()
        assert idle.goaway is not None
        assert (idle.goaway.error_code, idle.goaway.last_stream_id) == (ErrorCodes.NO_ERROR, 1)
        # the library will not open another one behind a GOAWAY: by hand
        await busy.say(frame(1, 5, slow + 2, b"\x82\x86\x84\x41\x01x"))
        await trio.testing.wait_all_tasks_blocked()
        assert not served.ended.is_set()
        go.set()
        data = b""
        while more := await busy.pipe.recv():
            data += more
        assert frame(7, 0, 0, b"\0\0\0\x01" + bytes(4)) in data
        assert frame(3, 0, slow + 2, b"\0\0\0\x07") in data  # REFUSED_STREAM
        assert data.endswith(frame(0, 1, slow, b"ok"))
        await served.ended.wait()


@pytest.mark.parametrize("_again", range(8))  # who wakes first is trio's dice
async def test_a_request_that_is_there_at_the_stop_is_answered(
    _again: int, autojump_clock: object
) -> None:
    async with serving(size) as served:
        peer = await H2Peer.connect(served)
        await peer.ask()
        await trio.testing.wait_all_tasks_blocked()
        stream_id = await peer.send("/", "POST", b"x")
        served.stop.set()
        assert (await peer.answer(stream_id)).body == b"1"
        await peer.to_end()
        assert peer.goaway is not None
        assert peer.goaway.last_stream_id == stream_id
        await served.ended.wait()


async def test_stop_waits_drain_s_at_most(autojump_clock: object) -> None:
    async def handler(request: http.Request) -> http.Answer:
        await trio.sleep_forever()
        raise AssertionError

    with log.capture() as events:
        async with serving(handler, drain_s=7) as served:
            peer = await H2Peer.connect(served)
            await peer.send()
            await trio.testing.wait_all_tasks_blocked()
            began = trio.current_time()
            served.stop.set()
            await served.ended.wait()
            assert trio.current_time() - began == pytest.approx(7)
            await peer.to_end()
    assert [event for event in events if event["level"] != "debug"] == []
