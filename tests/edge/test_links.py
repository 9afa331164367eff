"""A link's own life: wrong peers, silence, credit, a registration that ends the back-off."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import trio
import trio.testing

from orchd.core.events import Event, JobEnded, ReplicaLost, ReplicaSeen
from orchd.edge.links import RECV_BYTES, RETRY_MAX_S, Link
from orchd.edge.relay import Stream
from orchd.kit import fds, http
from orchd.kit.http import Request, Response, Upgraded
from orchd.kit.pipe import Pipe
from orchd.wire import codec
from orchd.wire import link as wire
from orchd.wire.errors import Kind
from orchd.wire.ids import PoolId, ReplicaId, TaskId
from orchd.wire.shapes import TaskRequest
from tests.edge.pool_peer import PoolPeer, snapshot_of
from tests.fakes.tasks import task_body

REPLICA = ReplicaId("demo:0")


class Desk:
    """Where the link reports to."""

    def __init__(self) -> None:
        self.send, self.events = trio.open_memory_channel[Event](1000)

    def report(self, event: Event) -> None:
        self.send.send_nowait(event)

    async def next(self) -> Event:
        with trio.fail_after(60):  # of mock time, in some tests
            return await self.events.receive()


async def lost(desk: Desk) -> ReplicaLost:
    while True:
        event = await desk.next()
        if isinstance(event, ReplicaLost):
            return event


async def test_a_socket_that_is_not_there_is_said_so(folder: Path) -> None:
    desk = Desk()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Link(REPLICA, folder / "no.sock", desk.report).run)
        assert "its socket does not exist" in (await lost(desk)).cause.message
        nursery.cancel_scope.cancel()


async def test_a_socket_that_nobody_listens_on_is_said_so(folder: Path) -> None:
    desk = Desk()
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(folder / "stale.sock"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Link(REPLICA, folder / "stale.sock", desk.report).run)
        assert "nobody listens" in (await lost(desk)).cause.message
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "answer", ["404", "garbage", "other replica", "unknown message", "short frames"]
)
async def test_a_peer_that_is_no_pool_of_ours_is_refused(folder: Path, answer: str) -> None:
    desk = Desk()
    listener = fds.bind_unix(folder / "p.sock")

    async def serve_link(pipe: Pipe, _rest: bytes) -> None:
        if answer == "garbage":
            pipe.send_nowait(b"\xff" * 100)
        elif answer == "unknown message":
            pipe.send_nowait(wire.encode(wire.Type.HELLO, 0, b"{}"))
        elif answer == "short frames":
            pipe.send_nowait(wire.encode(wire.Type.FRAMES, 1, b"\0"))
        else:
            other = snapshot_of(ReplicaId("demo:1"))
            pipe.send_nowait(wire.encode_json(wire.Type.STATE, 0, other))
        await trio.sleep_forever()

    async def handle(_request: Request) -> Response | Upgraded:
        return Response(404) if answer == "404" else Upgraded(wire.PROTOCOL, serve_link)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(http.serve, [listener], handle)
        nursery.start_soon(Link(REPLICA, folder / "p.sock", desk.report).run)
        assert (await lost(desk)).cause.kind is Kind.ENGINE_PROTOCOL
        nursery.cancel_scope.cancel()
    listener.close()


@pytest.mark.req("ORCH-3330")
async def test_a_poolmgr_that_dies_before_it_answers_speaks_no_wrong_protocol(folder: Path) -> None:
    """So it is for a moment whenever one was killed: systemd's socket takes the connection."""
    desk = Desk()
    listener = fds.bind_unix(folder / "p.sock")

    async def die() -> None:
        while True:
            await trio.lowlevel.wait_readable(listener)
            listener.accept()[0].close()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(die)
        nursery.start_soon(Link(REPLICA, folder / "p.sock", desk.report).run)
        cause = (await lost(desk)).cause
        assert (cause.kind, cause.message) == (
            Kind.POOL_UNREADY, "its poolmgr closed without an answer"
        )  # fmt: skip
        nursery.cancel_scope.cancel()
    listener.close()


@pytest.mark.req("ORCH-3971")
async def test_a_pool_that_falls_silent_is_lost(
    folder: Path, autojump_clock: trio.testing.MockClock
) -> None:
    desk = Desk()
    listener = fds.bind_unix(folder / "p.sock")

    async def silent(pipe: Pipe, _rest: bytes) -> None:
        pipe.send_nowait(wire.encode_json(wire.Type.STATE, 0, snapshot_of(REPLICA)))
        await trio.sleep_forever()

    async def handle(_request: Request) -> Upgraded:
        return Upgraded(wire.PROTOCOL, silent)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(http.serve, [listener], handle)
        nursery.start_soon(Link(REPLICA, folder / "p.sock", desk.report).run)
        assert isinstance(await desk.next(), ReplicaSeen)
        assert "silent" in (await lost(desk)).cause.message
        nursery.cancel_scope.cancel()
    listener.close()


async def test_a_registration_ends_the_back_off(
    folder: Path, autojump_clock: trio.testing.MockClock
) -> None:
    desk = Desk()
    link = Link(REPLICA, folder / "p.sock", desk.report)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run)
        for _ in range(10):  # the back-off has grown to its bound
            await lost(desk)
        peer = PoolPeer(folder / "p.sock", snapshot_of(REPLICA))
        await nursery.start(peer.run)
        before = trio.current_time()
        link.nudge()
        assert isinstance(await desk.next(), ReplicaSeen)
        assert trio.current_time() - before < RETRY_MAX_S / 2
        assert link.up
        nursery.cancel_scope.cancel()


async def test_frames_of_a_job_that_is_over_are_ignored(folder: Path) -> None:
    desk = Desk()
    peer = PoolPeer(folder / "p.sock", snapshot_of(REPLICA))
    link = Link(REPLICA, folder / "p.sock", desk.report)
    request = codec.structure(TaskRequest, task_body())
    stream = Stream(TaskId(request.task_id), PoolId("demo"), 0.0)
    async with trio.open_nursery() as nursery:
        await nursery.start(peer.run)
        nursery.start_soon(link.run)
        with trio.fail_after(5):
            await peer.linked.wait()
        assert isinstance(await desk.next(), ReplicaSeen)
        link.open(request, "c", stream)
        job = await peer.next_job()
        job.tokens("a")
        job.end()
        job.tokens("after the end")
        peer.state()
        while not isinstance(await desk.next(), ReplicaSeen) or not stream.tokens:
            pass
        assert stream.tokens == 1
        assert link.up
        nursery.cancel_scope.cancel()


async def test_what_a_peer_said_before_it_left_is_heard_although_nothing_can_be_sent(
    folder: Path,
) -> None:
    desk = Desk()
    peer = PoolPeer(folder / "p.sock", snapshot_of(REPLICA, slots=2))
    link = Link(REPLICA, folder / "p.sock", desk.report)
    async with trio.open_nursery() as nursery:
        await nursery.start(peer.run)
        nursery.start_soon(link.run)
        with trio.fail_after(5):
            await peer.linked.wait()
        assert isinstance(await desk.next(), ReplicaSeen)
        jobs = []
        for _ in range(2):
            request = codec.structure(TaskRequest, task_body())
            link.open(request, "c", Stream(TaskId(request.task_id), PoolId("demo"), 0.0))
            jobs.append(await peer.next_job())
        jobs[0].end()
        peer.state()  # makes the link send its ACK, which nobody takes any more
        jobs[1].tokens("x" * RECV_BYTES)  # so the rest comes with a later receive
        jobs[1].end()
        assert peer.pipe is not None
        peer.pipe.close()
        ended = 0
        while not isinstance(event := await desk.next(), ReplicaLost):
            ended += isinstance(event, JobEnded)
        assert ended == 2
        nursery.cancel_scope.cancel()
