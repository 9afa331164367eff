"""An engine of lines, in this process: each line of its answer is a token, `.` ends it.

Real HTTP over a real socket, so that jobs.py is driven as by any engine, and a test decides when
each byte comes.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import trio
from attrs import define, field

from orchd.config.pool import Watchdog
from orchd.kit import http
from orchd.kit.client import Client, Target
from orchd.kit.fds import bind_unix
from orchd.kit.http import Request, Sink, Streaming
from orchd.kit.pipe import Pipe, PipeClosed
from orchd.wire import link as wire
from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import EngineId, PoolId, ReplicaId
from orchd.wire.shapes import FinishReason, Workload
from poolmgr.core.fit import Need
from poolmgr.core.slots import Slots
from poolmgr.dialects.exchange import Usage
from poolmgr.edge.jobs import Jobs
from poolmgr.edge.link import Link, Side
from poolmgr.engines.base import (
    Broken,
    Call,
    Event,
    Finished,
    Job,
    Launch,
    Load,
    Pieces,
    Props,
    Reply,
    Tuning,
)

Script = Callable[[Sink, str], Awaitable[None]]


class Lines:
    """The adapter. Has the methods of engines.base.Adapter."""

    engine_id = EngineId("lines")
    sampler_profiles = ("v1",)
    strict_slots = None

    def launch(self, *_arguments: object) -> Launch:
        raise NotImplementedError

    def need(self, *_arguments: object) -> Need:
        raise NotImplementedError

    def telling(self, line: str) -> bool:
        raise NotImplementedError

    def out_of_vram(self, lines: Sequence[str]) -> str | None:
        raise NotImplementedError

    def why_on_cpu(self, lines: Sequence[str]) -> str | None:
        raise NotImplementedError

    def serving(self, _pool: object) -> tuple[str, ...]:
        return ()

    def tuning(self, arguments: Sequence[str]) -> Tuning:
        raise NotImplementedError

    def health(self) -> Call:
        return Call(method="GET", path="/health")

    def load_state(self, status: int, body: bytes) -> tuple[Load, str]:
        return (Load.SERVING if status == 200 else Load.LOADING), body.decode()

    def props(self) -> tuple[Call, ...]:
        return (Call(method="GET", path="/props"),)

    def read_props(self, replies: Sequence[Reply]) -> Props:
        assert replies[0].status == 200
        return Props(engine_version=replies[0].body.decode(), slots=None, ctx_max=None)

    def usage(self) -> Call | None:
        return Call(method="GET", path="/usage")

    def read_usage(self, body: bytes) -> Usage:
        raise NotImplementedError

    def tokenize(self, text: str) -> Call | None:
        if text == "untold":
            return None
        return Call(method="POST", path="/tokenize", body=text.encode(), repeatable=True)

    def read_tokenize(self, status: int, body: bytes) -> tuple[int, ...]:
        assert status == 200
        return tuple(body)

    def submit(self, job: Job) -> Call:
        if job.prompt is not None and job.prompt.startswith("impossible"):
            raise OrchError(Kind.INVALID_PARAMS, f"this engine cannot do that: {job.prompt}")
        return Call(method="POST", path="/go", body=(job.prompt or "").encode())

    def reader(self, job: Job, status: int) -> LineReader:  # noqa: ARG002
        if job.prompt == "bug":
            raise RuntimeError("a fault of the adapter")
        return LineReader()


class LineReader:
    def __init__(self) -> None:
        self._rest = b""
        self._count = 0
        self._over = False

    def feed(self, data: bytes) -> list[Event]:
        *lines, self._rest = (self._rest + data).split(b"\n")
        events: list[Event] = []
        if b"." in lines:
            lines = lines[: lines.index(b".")]
            self._over = True
        self._count += len(lines)
        if lines:
            events.append(Pieces(tuple(line.decode() for line in lines)))
        if self._over:
            end = Finished(tokens_in=1, tokens_out=self._count, finish_reason=FinishReason.STOP)
            events.append(end)
        return events

    def eof(self) -> list[Event]:
        if self._over:
            return []
        return [Broken(OrchError(Kind.ENGINE_DIED, "the engine broke off"))]


@define
class Bench:
    """Jobs of two slots on the engine, and links to them."""

    jobs: Jobs
    side: Side
    nursery: trio.Nursery
    open_answers: int = 0
    changes: int = 0
    pipes: list[Pipe] = field(factory=list)

    async def link(self) -> Pipe:
        """Return orchd's end of a new link."""
        ours, theirs = socket.socketpair()
        pipe = Pipe(ours)
        self.pipes.append(pipe)
        self.nursery.start_soon(Link(pipe, self.side).run, b"")
        return Pipe(theirs)


@asynccontextmanager
async def bench(
    folder: Path,
    script: Script,
    slots: int = 2,
    watchdog: Watchdog = Watchdog(),  # noqa: B008  (frozen)
) -> AsyncIterator[Bench]:
    """Run the engine with `script` for every job."""
    path = folder / "e.sock"

    async def handle(request: Request) -> Streaming:
        prompt = request.body.decode()

        async def run(sink: Sink) -> None:
            here.open_answers += 1
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(leave_with_peer, sink, nursery.cancel_scope)
                    with suppress(PipeClosed):  # the peer left before its leaving was seen
                        await script(sink, prompt)
                    nursery.cancel_scope.cancel()
            finally:
                here.open_answers -= 1

        return Streaming("text/plain", run)

    async def leave_with_peer(sink: Sink, scope: trio.CancelScope) -> None:
        await sink.wait_closed()
        scope.cancel()

    def changed() -> None:
        here.changes += 1

    listener = bind_unix(path)
    client = Client(Target.unix(path))
    async with trio.open_nursery() as nursery:
        jobs = Jobs(Lines(), Slots(slots), (Workload.COMPLETION,), changed, watchdog)
        state = wire.encode_json(wire.Type.STATE, 0, STATE)
        side = Side(PoolId("p"), ReplicaId("p:0"), jobs, lambda: state, set())
        here = Bench(jobs, side, nursery)
        await nursery.start(http.serve, [listener], handle)
        await nursery.start(jobs.serve)
        jobs.attach(client)
        jobs.refusal = None
        try:
            yield here
        finally:
            nursery.cancel_scope.cancel()
            client.close()
            listener.close()


STATE = {
    "seq": 1, "pool_id": "p", "replica_id": "p:0", "device_mask": [0], "phase": "ready",
    "ready": True, "draining": False, "status": "Ready", "engine": "lines", "engine_version": "1",
    "sampler_profile_version": "v1", "model_ref": "m", "ctx_max": 1, "slots_total": 2,
    "slots_active": 0,
}  # fmt: skip
