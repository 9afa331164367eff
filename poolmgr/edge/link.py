"""One link of one orchd: its messages in, jobs and snapshots out (specs/04-link.md).

What a job does is in jobs.py, what a snapshot says in board.py. A malformed message closes its
link and no other; the jobs of a link that is gone are stopped at once, their slots are free.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Final

import trio
from attrs import frozen

from orchd import __version__
from orchd.kit import log
from orchd.kit.pipe import Pipe, PipeClosed
from orchd.wire import link as wire
from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import PoolId, ReplicaId
from orchd.wire.words import many
from poolmgr.edge.jobs import Jobs
from poolmgr.edge.running import LOST, Running

HELLO_S: Final = 10.0  # a peer that upgrades and then says nothing holds a connection for nothing


@frozen
class Side:
    """What a link needs of its replica."""

    pool_id: PoolId
    replica_id: ReplicaId
    jobs: Jobs
    state: Callable[[], bytes]
    """The STATE message of now."""
    links: set[Link]
    """Those that stand; each puts itself in and out."""


class Link:
    """The link on `pipe`."""

    def __init__(self, pipe: Pipe, side: Side) -> None:
        self._pipe = pipe
        self._side = side
        self._jobs: dict[int, Running] = {}
        self._last = 0
        self._instance = ""

    def send(self, message: bytes) -> None:
        """Send a message of job 0. A link that is broken is seen by its own task."""
        try:
            self._pipe.send_nowait(message)
        except PipeClosed:
            self._pipe.close()

    async def flush(self) -> None:
        """Return when everything is sent, or the link is broken."""
        with contextlib.suppress(PipeClosed):
            await self._pipe.flush()

    async def run(self, rest: bytes) -> None:
        """Serve the link until it ends; `rest` came behind the upgrade request."""
        why = "the peer closed it"
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._flush)
                await self._serve(rest)
                nursery.cancel_scope.cancel()
        except* PipeClosed as group:
            why = str(group.exceptions[0]) or "the peer is gone"
        except* OrchError as group:
            why = str(group.exceptions[0])
        except* trio.TooSlowError:
            why = f"no HELLO came within {HELLO_S:.0f} s"
        finally:
            self._side.links.discard(self)
            running_on = [running for running in self._jobs.values() if not running.over]
            for running in running_on:
                running.stop(LOST)
            self._pipe.close()
        stopped = len(running_on)
        log.event(
            "link_closed",
            f"The link to orchd ended: {why}; {many(stopped, 'job')} stopped.",
            level="warning" if stopped else "info",
            instance=self._instance,
            reason=why,
            jobs_stopped=stopped,
        )

    async def _flush(self) -> None:
        await self._pipe.keep_flushing()

    async def _serve(self, data: bytes) -> None:
        decoder = wire.Decoder()
        with trio.fail_after(HELLO_S):
            messages = decoder.feed(data)
            while not messages:
                data = await self._pipe.recv()
                if not data:
                    return
                messages = decoder.feed(data)
        self._hello(messages.pop(0))
        while True:
            for kind, number, body in messages:
                self._take(kind, number, body)
            data = await self._pipe.recv()
            if not data:
                return
            messages = decoder.feed(data)

    def _hello(self, message: wire.Message) -> None:
        kind, _, body = message
        if kind != wire.Type.HELLO:
            raise OrchError(Kind.ENGINE_PROTOCOL, f"message {kind} came before HELLO")
        hello = wire.body(wire.Hello, body)
        self._instance = hello.instance
        welcome = wire.Welcome(
            version=__version__,
            pool_id=self._side.pool_id,
            replica_id=self._side.replica_id,
        )
        self._pipe.send_nowait(wire.encode_json(wire.Type.WELCOME, 0, welcome))
        self._pipe.send_nowait(self._side.state())
        self._side.links.add(self)
        log.event("link_opened", "orchd is linked.", instance=hello.instance, version=hello.version)

    def _take(self, kind: int, number: int, body: bytes) -> None:
        match kind:
            case wire.Type.CREDIT:
                running = self._jobs.get(number)
                if running is not None:  # it may have ended while the credit was on its way
                    running.grant(wire.body(wire.Credit, body).bytes)
            case wire.Type.OPEN:
                self._open(number, wire.body(wire.Open, body))
            case wire.Type.CANCEL:
                running = self._jobs.get(number)
                if running is not None:  # else its END or FAIL crossed this, and is the answer
                    running.stop(wire.Type.FREED)
            case wire.Type.ACK:
                self._jobs.pop(number, None)
            case _:
                raise OrchError(
                    Kind.ENGINE_PROTOCOL, f"orchd does not send messages of type {kind}"
                )

    def _open(self, number: int, order: wire.Open) -> None:
        if number <= self._last:
            raise OrchError(Kind.ENGINE_PROTOCOL, f"job number {number} was used before")
        self._last = number
        running = self._side.jobs.open(number, order, self._pipe)
        if running is not None:
            self._jobs[number] = running
