"""The pipe: socket first, a bounded rest, and every way to end."""

from __future__ import annotations

import socket

import pytest
import trio
import trio.testing

from orchd.kit.pipe import FAIR, Pipe, PipeClosed
from tests.fakes.peers import pipe_pair


async def test_what_is_sent_arrives_and_the_end_is_empty() -> None:
    a, b = pipe_pair()
    assert a.send_nowait(b"hello")
    assert await b.recv() == b"hello"
    a.close()
    assert await b.recv() == b""
    b.close()


async def test_recv_waits_for_data() -> None:
    a, b = pipe_pair()
    async with trio.open_nursery() as nursery:

        async def later() -> None:
            await trio.testing.wait_all_tasks_blocked()
            a.send_nowait(b"x")

        nursery.start_soon(later)
        assert await b.recv() == b"x"
    a.close()
    b.close()


async def test_a_busy_reader_lets_others_run_and_is_cancelled() -> None:
    a, b = pipe_pair()
    a.send_nowait(b"x" * (FAIR * 4))
    got = 0
    with trio.CancelScope() as scope:
        scope.cancel()
        while True:
            got += len(await b.recv(1))
    assert got < FAIR
    a.close()
    b.close()


async def test_a_rest_is_kept_in_order_and_flushed() -> None:
    a, b = pipe_pair()
    sent = b""
    number = 0
    while not a.pending:
        piece = b"%d," % number * 100
        a.send_nowait(piece)
        sent += piece
        number += 1
    assert not a.send_nowait(b"last")
    sent += b"last"
    got = b""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(a.flush)
        nursery.start_soon(a.flush)  # two may: they wait for each other
        while len(got) < len(sent):
            got += await b.recv()
    assert got == sent
    assert a.pending == 0
    a.close()
    b.close()


async def test_the_rest_is_bounded_and_overflow_resets() -> None:
    left, right = socket.socketpair()
    a = Pipe(left, max_pending=1000)
    with pytest.raises(PipeClosed, match="1000 bytes unread"):
        for _ in range(100_000):
            a.send_nowait(b"x" * 100)
    assert a.closed
    right.close()


async def test_one_message_larger_than_the_bound_is_taken() -> None:
    left, right = socket.socketpair()
    a, b = Pipe(left, max_pending=1000), Pipe(right)
    message = bytes(range(256)) * 8192
    assert not a.send_nowait(message)
    got = b""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(a.flush)
        while len(got) < len(message):
            got += await b.recv()
    assert got == message
    a.close()
    b.close()


async def test_keep_flushing_sends_whatever_is_left_until_the_pipe_closes() -> None:
    a, b = pipe_pair()
    done = trio.Event()

    async def service() -> None:
        with pytest.raises(PipeClosed):
            await a.keep_flushing()
        done.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(service)
        for _ in range(3):
            size = 0
            while not a.pending:
                a.send_nowait(b"y" * 65536)
                size += 65536
            while size:
                size -= len(await b.recv())
            await trio.testing.wait_all_tasks_blocked()
            assert a.pending == 0
        a.close()
        await done.wait()
    b.close()


async def test_keep_flushing_ends_when_the_peer_goes_while_it_waits() -> None:
    a, b = pipe_pair()
    while not a.pending:
        a.send_nowait(b"y" * 65536)
    async with trio.open_nursery() as nursery:

        async def leave() -> None:
            await trio.testing.wait_all_tasks_blocked()
            b.close()

        nursery.start_soon(leave)
        with pytest.raises(PipeClosed):
            await a.keep_flushing()
    a.close()


@pytest.mark.parametrize("end", ["close", "abort"])
async def test_closing_wakes_the_reader(end: str) -> None:
    a, b = pipe_pair()
    async with trio.open_nursery() as nursery:

        async def leave() -> None:
            await trio.testing.wait_all_tasks_blocked()
            getattr(b, end)()

        nursery.start_soon(leave)
        with pytest.raises(PipeClosed):
            await b.recv()
    for call in (b.recv, b.flush):
        with pytest.raises(PipeClosed):
            await call()
    with pytest.raises(PipeClosed):
        b.send_nowait(b"x")
    b.close()
    assert await a.recv() == b""
    a.close()


async def test_abort_on_tcp_is_a_reset() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        left = socket.create_connection(listener.getsockname())
        right, _ = listener.accept()
    a, b = Pipe(left), Pipe(right)
    a.abort()
    with pytest.raises(PipeClosed):
        await b.recv()
    b.close()


async def test_sending_to_a_peer_that_left_raises() -> None:
    a, b = pipe_pair()
    b.close()
    with pytest.raises(PipeClosed):
        a.send_nowait(b"x")
    a.close()


async def test_quiet_tells_a_usable_pipe_from_a_dead_one() -> None:
    a, b = pipe_pair()
    assert a.quiet()
    b.send_nowait(b"?")
    assert not a.quiet()
    assert await a.recv() == b"?"
    assert a.quiet()
    b.close()
    assert not a.quiet()
    a.close()
    assert not a.quiet()


async def test_receiving_on_a_closed_pipe_is_told_each_time() -> None:
    for _ in range(2):
        ours, theirs = pipe_pair()
        theirs.send_nowait(b"short")
        assert await ours.recv() == b"short"
        ours.close()
        with pytest.raises(PipeClosed):
            await ours.recv()
        theirs.close()
