"""Slow and greedy clients, the cap on connections, the orderly stop: on the test's clock."""

from __future__ import annotations

import contextlib
import resource

import orjson
import pytest
import trio
import trio.testing

from orchd.kit import http, log
from orchd.kit.pipe import PipeClosed
from orchd.kit.sink import Sink
from tests.fakes.peers import RawPeer, serving

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n"


async def empty(request: http.Request) -> http.Response:
    """Answer 204."""
    return http.Response(204)


async def test_a_new_connection_that_says_nothing_is_closed(autojump_clock: object) -> None:
    async with serving(empty) as served:
        peer = await served.connect()
        began = trio.current_time()
        assert await peer.to_end() == b""
        assert trio.current_time() - began == pytest.approx(10)


async def test_an_idle_connection_is_closed_after_keep_alive_s(autojump_clock: object) -> None:
    async with serving(empty) as served:
        peer = await served.connect()
        await peer.ask()
        began = trio.current_time()
        assert await peer.to_end() == b""
        assert trio.current_time() - began == pytest.approx(75)


@pytest.mark.parametrize("data", [GET[:-1], POST + b"hell", b"\r\n" * 40])
async def test_a_byte_every_second_is_cut_off(data: bytes, autojump_clock: object) -> None:
    async with serving(empty, limits=http.Limits(body_s=10)) as served:
        peer = await served.connect()
        began = trio.current_time()
        got = b""

        async def trickle() -> None:
            for i in range(len(data)):
                try:
                    peer.pipe.send_nowait(data[i : i + 1])
                except PipeClosed:
                    return
                await trio.sleep(1)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trickle)
            with contextlib.suppress(PipeClosed):  # a byte that nobody read makes it a reset
                got = await peer.to_end()
            nursery.cancel_scope.cancel()
        assert trio.current_time() - began <= 13
        if data[0] != 13:  # a client that sends only line ends has not begun a request
            assert got.startswith(b"HTTP/1.1 408 ")
            assert orjson.loads(got.partition(b"\r\n\r\n")[2])["code"] == "INVALID_PARAMS"


async def test_a_slow_body_is_cut_off(autojump_clock: object) -> None:
    async with serving(empty) as served:
        peer = await served.connect()
        await peer.say(POST + b"hell")
        began = trio.current_time()
        got = await peer.answer()
        assert got.status == 408
        assert "body" in orjson.loads(got.body)["message"]
        assert trio.current_time() - began == pytest.approx(30)


async def test_a_slow_handler_is_left_alone(autojump_clock: object) -> None:
    async def handler(request: http.Request) -> http.Response:
        await trio.sleep(3600)
        return http.Response(204)

    async with serving(handler) as served:
        assert (await (await served.connect()).ask()).status == 204


async def test_a_peer_that_reads_nothing_is_reset(autojump_clock: object) -> None:
    async def handler(request: http.Request) -> http.Response:
        return http.Response(body=b"x" * (4 << 20))

    async with serving(handler) as served:
        peer = await served.connect()
        await peer.say(GET)
        await trio.sleep(31)
        assert len(await peer.to_end()) < (4 << 20)


async def test_a_slow_reader_that_reads_gets_all_of_it(autojump_clock: object) -> None:
    async def handler(request: http.Request) -> http.Response:
        return http.Response(body=b"x" * (4 << 20))

    async with serving(handler) as served:
        peer = await served.connect()
        await peer.say(GET)
        size = 0
        while size < (4 << 20):
            size += len(await peer.recv())
            await trio.sleep(1)
        assert trio.current_time() > 31


async def test_a_stream_behind_is_its_own_business(autojump_clock: object) -> None:
    async def run(sink: Sink) -> None:
        while sink.send_nowait(b"x" * 65536):
            pass
        await sink.flush()

    async def handler(request: http.Request) -> http.Answer:
        return http.Streaming("text/plain", run)

    async with serving(handler) as served:
        peer = await served.connect()
        await peer.say(GET)
        await trio.sleep(3600)
        assert (await peer.answer()).status == 200


async def test_connections_over_the_cap_are_told_so(autojump_clock: object) -> None:
    with log.capture() as events:
        async with serving(empty, limits=http.Limits(connections=2)) as served:
            first, second = await served.connect(), await served.connect()
            assert (await first.ask()).status == 204
            assert (await second.ask()).status == 204
            for _ in range(3):
                third = await served.connect()
                await third.say(GET)
                got = await third.answer()
                assert (got.status, got.headers["connection"]) == (503, "close")
                assert orjson.loads(got.body)["retriable"] is True
                assert got.headers["retry-after"] == "1"
            first.pipe.close()
            await trio.testing.wait_all_tasks_blocked()
            assert (await (await served.connect()).ask()).status == 204
    assert [event["event"] for event in events].count("connections_full") == 1


async def test_no_more_refusals_than_connections_hang_about(autojump_clock: object) -> None:
    async with serving(empty, limits=http.Limits(connections=1)) as served:
        peers = [await served.connect() for _ in range(100)]
        await trio.testing.wait_all_tasks_blocked()
        told = [len(await peer.recv()) for peer in peers[1:]]
        assert 0 < sum(size > 0 for size in told) <= 64


async def test_stop_closes_the_idle_and_lets_the_others_finish(autojump_clock: object) -> None:
    go = trio.Event()

    async def handler(request: http.Request) -> http.Response:
        if request.path == "/slow":
            await go.wait()
        return http.Response(200, b"ok")

    async with serving(handler) as served:
        idle, busy, fresh = [await served.connect() for _ in range(3)]
        assert (await idle.ask()).status == 200
        await busy.say(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n" + GET)
        await trio.testing.wait_all_tasks_blocked()
        served.stop.set()
        assert await idle.to_end() == b""
        assert await fresh.to_end() == b""
        assert not served.ended.is_set()
        go.set()
        got = await busy.answer()
        assert (got.body, got.headers["connection"]) == (b"ok", "close")
        assert await busy.to_end() == b""
        await served.ended.wait()


async def test_a_request_that_is_there_at_the_stop_is_answered(autojump_clock: object) -> None:
    async with serving(empty) as served:
        peer = await served.connect()
        await peer.ask()
        await trio.testing.wait_all_tasks_blocked()
        peer.pipe.send_nowait(GET)
        served.stop.set()
        assert (await peer.answer()).status == 204
        assert await peer.to_end() == b""
        await served.ended.wait()


async def test_stop_waits_drain_s_at_most(autojump_clock: object) -> None:
    async def handler(request: http.Request) -> http.Response:
        await trio.sleep_forever()
        raise AssertionError

    async with serving(handler, drain_s=7) as served:
        peer = await served.connect()
        await peer.say(GET)
        await trio.testing.wait_all_tasks_blocked()
        began = trio.current_time()
        served.stop.set()
        await served.ended.wait()
        assert trio.current_time() - began == pytest.approx(7)
        assert await peer.to_end() == b""


async def test_the_listener_is_left_open_for_the_next_start() -> None:
    async with serving(empty) as served:
        served.stop.set()
        await served.ended.wait()
        peer = await served.connect()  # in the backlog: refused would raise
        peer.pipe.send_nowait(GET)


async def test_out_of_descriptors_is_waited_out(
    autojump_clock: object,
) -> None:
    with log.capture() as events:
        async with serving(empty) as served:
            peer = await served.connect()
            assert (await peer.ask()).status == 204
            _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            late = [await served.target.connect() for _ in range(2)]
            # the server's next accept() finds the table full
            resource.setrlimit(resource.RLIMIT_NOFILE, (late[-1].sock.fileno() + 1, hard))
            try:
                await trio.sleep(1)
                assert (await peer.ask()).status == 204  # those who are in are served
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (_soft, hard))
            for pipe in late:
                assert (await RawPeer(pipe).ask()).status == 204
                pipe.close()
    assert [event["event"] for event in events].count("accept_failed") == 1
