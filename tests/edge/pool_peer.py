"""A poolmgr in the test's own process: the pool's end of a link, driven by the test step by step.

It decides nothing: the test says when a token, an end or a state leaves. The real poolmgr at the
end of a real link is in tests/sockets.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import trio
from attrs import evolve

from orchd.kit import fds, http
from orchd.kit.http import Request, Response, Upgraded, json_response
from orchd.kit.pipe import Pipe, PipeClosed
from orchd.wire import codec, link, sse
from orchd.wire.control import PoolTokenize, Tokens
from orchd.wire.errors import Kind
from orchd.wire.ids import Count, DeviceMask, EngineId, JobNo, Positive, ReplicaId, parse_replica_id
from orchd.wire.shapes import FinishReason
from orchd.wire.snapshot import GpuProof, Phase, Snapshot


def snapshot_of(
    replica_id: ReplicaId, *, slots: int = 1, model_ref: str = "mock:lorem"
) -> Snapshot:
    pool_id, mask = parse_replica_id(replica_id)
    return Snapshot(
        seq=Count(0),
        pool_id=pool_id,
        replica_id=replica_id,
        device_mask=mask if isinstance(mask, DeviceMask) else DeviceMask((0,)),
        phase=Phase.READY,
        ready=True,
        draining=False,
        status="Ready",
        engine=EngineId("mock"),
        engine_version="mock-1",
        sampler_profile_version="v1",
        model_ref="mock:lorem",
        gpu_proof=GpuProof.SIMULATED,
        ctx_max=Positive(8192),
        slots_total=Positive(slots),
        slots_active=Count(0),
        vram_total_bytes=Count(24 << 30),
        vram_free_bytes=Count(20 << 30),
        tokens_per_s=50.0,  # type: ignore[arg-type]
        first_token_ms=20.0,  # type: ignore[arg-type]
    )


class Job:
    """One OPEN, and what the test makes of it."""

    def __init__(self, peer: PoolPeer, number: int, job: link.Open) -> None:
        self.peer, self.number, self.open = peer, number, job
        self.sent = 0
        self.canceled = trio.Event()

    def tokens(self, *texts: str) -> None:
        frames = sse.token_frames(self.open.first_id + self.sent, self.sent, texts)
        self.peer.send(link.encode_frames(self.number, self.sent, len(texts), frames))
        self.sent += len(texts)

    async def result(self, result: bytes) -> None:
        for message in link.encode_result(self.number, result):
            self.peer.send(message)
            assert self.peer.pipe is not None
            await self.peer.pipe.flush()

    def end(self, reason: FinishReason = FinishReason.STOP) -> None:
        end = link.End(
            tokens_in=Count(3),
            tokens_out=Count(self.sent),
            first_token_ms=Count(1),
            decode_ms=Count(10),
            finish_reason=reason,
        )
        self.peer.send(link.encode_json(link.Type.END, self.number, end))

    def fail(self, kind: Kind, message: str) -> None:
        fail = link.Fail(kind=kind, message=message, tokens_out=Count(self.sent))
        self.peer.send(link.encode_json(link.Type.FAIL, self.number, fail))

    def freed(self) -> None:
        freed = link.Freed(tokens_out=Count(self.sent))
        self.peer.send(link.encode_json(link.Type.FREED, self.number, freed))


async def words(asked: PoolTokenize) -> Response:
    """Each word is a token."""
    tokens = tuple(Count(len(word)) for word in asked.text.split())
    told = Tokens(count=Count(len(tokens)), tokens=tokens if asked.tokens else None)
    return json_response(told)


class PoolPeer:
    """Listens on the pool's socket; takes one link at a time."""

    def __init__(self, path: Path, snapshot: Snapshot) -> None:
        self.listener = fds.bind_unix(path)
        self.snapshot = snapshot
        self.pipe: Pipe | None = None
        self.linked = trio.Event()
        self.jobs: dict[int, Job] = {}
        self.credit: dict[int, int] = {}
        self.acks: list[int] = []
        self.asked: list[PoolTokenize] = []
        self.tokenize: Callable[[PoolTokenize], Awaitable[Response]] = words
        self._opened: trio.MemorySendChannel[Job]
        self._opened, self.opened = trio.open_memory_channel[Job](1000)

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        try:
            await http.serve([self.listener], self._handle, task_status=task_status)
        finally:
            self.listener.close()
            self._opened.close()
            self.opened.close()

    def send(self, message: bytes) -> None:
        assert self.pipe is not None, "no link"
        self.pipe.send_nowait(message)

    def state(self, **changes: Any) -> None:
        self.snapshot = evolve(self.snapshot, seq=Count(self.snapshot.seq + 1), **changes)
        self.send(link.encode_json(link.Type.STATE, 0, self.snapshot))

    def hang_up(self) -> None:
        assert self.pipe is not None
        self.pipe.close()
        self.linked = trio.Event()

    async def next_job(self) -> Job:
        with trio.fail_after(5):
            return await self.opened.receive()

    async def _handle(self, request: Request) -> Upgraded | Response:
        if request.path == "/tokenize":
            self.asked.append(codec.loads(PoolTokenize, request.body))
            return await self.tokenize(self.asked[-1])
        assert request.path == "/link"
        assert request.headers["upgrade"] == link.PROTOCOL
        return Upgraded(link.PROTOCOL, self._link)

    async def _link(self, pipe: Pipe, rest: bytes) -> None:
        self.pipe = pipe
        pool_id, _ = parse_replica_id(self.snapshot.replica_id)
        welcome = link.Welcome(version="0", pool_id=pool_id, replica_id=self.snapshot.replica_id)
        self.send(link.encode_json(link.Type.WELCOME, 0, welcome))
        self.state()
        self.linked.set()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._heartbeat)
            try:
                await self._receive(pipe, rest)
            except PipeClosed:
                pass
            nursery.cancel_scope.cancel()

    async def _heartbeat(self) -> None:
        while True:
            await trio.sleep(1)
            self.state()

    async def _receive(self, pipe: Pipe, rest: bytes) -> None:
        decoder, data = link.Decoder(), rest
        while True:
            for kind, number, body in decoder.feed(data):
                self._message(kind, number, body)
            data = await pipe.recv()
            if not data:
                return

    def _message(self, kind: int, number: int, body: bytes) -> None:
        match kind:
            case link.Type.OPEN:
                job = self.jobs[number] = Job(self, number, link.body(link.Open, body))
                self.credit[number] = job.open.credit
                self._opened.send_nowait(job)
            case link.Type.CANCEL:
                self.jobs[number].canceled.set()
            case link.Type.CREDIT:
                self.credit[number] += link.body(link.Credit, body).bytes
            case link.Type.ACK:
                self.acks.append(JobNo(number))
