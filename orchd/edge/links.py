"""One link per replica: connecting to its poolmgr, and the conversation of wire/link.py.

A link turns messages into events of core and copies token frames into streams. What to dispatch or
cancel is decided in core; what a stream does with frames is in relay.py.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final
from uuid import uuid4

import trio
from attrs import evolve

from orchd import __version__
from orchd.core.events import (
    Event,
    JobEnded,
    JobFailed,
    JobFreed,
    Progress,
    ReplicaLost,
    ReplicaSeen,
)
from orchd.edge.gather import Gather
from orchd.edge.relay import WINDOW_BYTES, Stream
from orchd.edge.units import ASK_S, Units
from orchd.kit import log
from orchd.kit.client import Client, PeerError, Target
from orchd.kit.pipe import Pipe, PipeClosed
from orchd.kit.redact import redact_short
from orchd.wire import link as wire
from orchd.wire.errors import TABLE, Kind, OrchError
from orchd.wire.ids import Digest, JobNo, Positive, ReplicaId, TaskId
from orchd.wire.results import MAX_RESULT_BYTES, Ready
from orchd.wire.shapes import TaskRequest
from orchd.wire.snapshot import FRESH_S, HEARTBEAT_S, Cause, Snapshot

RETRY_FIRST_S: Final = 0.1
RETRY_MAX_S: Final = 0.25
"""A pool that fails to load is there for half a second: long enough to be asked why."""
UPGRADE_S: Final = 10.0  # systemd may have to start the poolmgr first; its socket answers early
FREED_S: Final = 30.0
"""A pool that has not freed a cancelled job's slot by then is taken for broken."""
MAX_PENDING: Final = 4 * wire.MAX_BODY
"""Bytes that may wait for a poolmgr to read them: OPENs with long prompts for all its slots."""
TOLD_MAX: Final = 256
"""Fetched models of one replica that are remembered: it had as many reloads before one is again."""
RECV_BYTES: Final = 64 << 10  # larger is slower (specs/benchmarks.md)

Report = Callable[[Event], object]
Fetched = Callable[[str, Digest], object]
"""Told of a model's reference and digest that a pool has fetched."""


def _nothing(_ref: str, _digest: Digest) -> None:
    """Nobody wants to know."""


class Link:
    """The link to one replica. `report` takes what happened to core, at once; `fetched` hears
    of models that the pool fetched."""

    def __init__(
        self,
        replica_id: ReplicaId,
        path: Path,
        report: Report,
        gather: Gather | None = None,
        units: Units | None = None,
        fetched: Fetched = _nothing,
    ) -> None:
        self.replica_id = replica_id
        self._client = Client(Target.unix(path))
        self._report = report
        self._gather = gather
        self._units = units
        self._fetched = fetched
        self._told_of: deque[tuple[str | None, str, str]] = deque(maxlen=TOLD_MAX)
        """Fetched models that were told of: in which life of the poolmgr, reference, digest."""
        self._asked_at = -ASK_S
        self._given_up: Cause | None = None
        """Why systemd starts it no more, as it said last."""
        self._pipe: Pipe | None = None
        self._acks: list[bytes] = []
        self._jobs: dict[int, Stream] = {}
        self._results: dict[int, bytearray] = {}
        """What has come of a job's result: its END completes it."""
        self._numbers: dict[TaskId, JobNo] = {}
        self._cancelled: dict[int, float] = {}
        self._last_job = 0
        self._model_ref: str | None = None
        """What the replica said last that it serves: what core placed on."""
        self._nudge = trio.Event()

    @property
    def up(self) -> bool:
        """Whether the link stands."""
        return self._pipe is not None

    def nudge(self) -> None:
        """Connect now rather than after the back-off: the poolmgr has registered."""
        self._nudge.set()

    # what core asks for

    def open(self, request: TaskRequest, correlation_id: str, stream: Stream) -> None:
        """Send OPEN for this task."""
        self._last_job += 1
        number = JobNo(self._last_job)
        first_id = stream.opened(lambda owed: self._credit(number, owed), self._first_token)
        self._jobs[number] = stream
        self._numbers[request.task_id] = number
        job = wire.Open(
            task_id=request.task_id,
            correlation_id=correlation_id,
            workload=request.workload,
            max_tokens=request.max_tokens,
            determinism=request.determinism,
            first_id=Positive(first_id),
            credit=Positive(WINDOW_BYTES),
            ctx=request.ctx,
            seed=request.seed,
            prompt=request.prompt,
            inputs=request.inputs,
            model_ref=self._model_ref,
        )
        self._send(wire.encode_json(wire.Type.OPEN, number, job))

    def cancel(self, task_id: TaskId) -> None:
        """Send CANCEL; FREED will tell when the slot is free."""
        number = self._numbers.get(task_id)
        if number is not None and number not in self._cancelled:
            self._cancelled[number] = trio.current_time()
            self._send(wire.encode(wire.Type.CANCEL, number))

    def _first_token(self, task_id: TaskId) -> None:
        self._report(Progress(task_id, 1))

    def _credit(self, number: JobNo, owed: int) -> None:
        self._send(wire.encode_json(wire.Type.CREDIT, number, {"bytes": owed}))

    def _send(self, message: bytes) -> None:
        """Send, and with it the ACKs that wait: nobody hurries for one, and each costs a call."""
        if self._acks:
            message = b"".join((*self._acks, message))
            self._acks.clear()
        if self._pipe is not None:
            # A peer that is gone may have said more before it went: what the kernel still holds is
            # received first, then the receive loop sees the end and says what was lost.
            with contextlib.suppress(PipeClosed):
                self._pipe.send_nowait(message)

    # the life of the link

    async def run(self) -> None:
        """Connect, serve, and connect again, for ever."""
        try:
            await self._keep_linked()
        finally:
            self._close()
            self._client.close()

    async def _keep_linked(self) -> None:
        delay = RETRY_FIRST_S
        cause: Cause | None = None
        while True:
            self._nudge = trio.Event()
            try:
                await self._session()
                raise OrchError(Kind.POOL_UNREADY, "its poolmgr closed the link")
            except _BREAKS as exc:
                was_up, fresh = self._pipe is not None, _cause(exc)
                self._close()
                fresh = await self._rests(exc) or fresh
                if was_up:
                    delay = RETRY_FIRST_S
                if was_up or fresh != cause:
                    log.event(
                        "link_down",
                        f"Replica {self.replica_id} is out of reach: {fresh.message}.",
                        level="warning",
                        replica_id=self.replica_id,
                        reason=fresh.kind,
                    )
                cause = fresh
                self._report(ReplicaLost(self.replica_id, fresh))
            with trio.move_on_after(delay):
                await self._nudge.wait()
            delay = min(delay * 2, RETRY_MAX_S)

    async def _rests(self, exc: Exception) -> Cause | None:
        """Return why nobody starts the poolmgr, where nobody is there and systemd says so.

        A socket that gave up while it was being made may leave a file that is root's alone.
        """
        if self._units is None or type(exc.__cause__) not in (
            FileNotFoundError, ConnectionRefusedError, PermissionError
        ):  # fmt: skip
            self._given_up = None
            return None
        now = trio.current_time()
        if now - self._asked_at >= ASK_S:
            self._given_up = await self._units.given_up(self.replica_id)
            self._asked_at = trio.current_time()
        return self._given_up

    def _close(self) -> None:
        if self._pipe is not None:
            self._pipe.close()
        self._pipe = None
        self._acks.clear()
        self._jobs.clear()
        self._results.clear()
        self._numbers.clear()
        self._cancelled.clear()

    async def _session(self) -> None:
        pipe, rest = await self._client.upgrade("/link", wire.PROTOCOL, deadline_s=UPGRADE_S)
        pipe.max_pending = MAX_PENDING
        self._pipe = pipe
        broke: Exception | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_flush, pipe)
            hello = wire.Hello(version=__version__, instance=_INSTANCE)
            self._send(wire.encode_json(wire.Type.HELLO, 0, hello))
            try:
                await self._receive(pipe, rest)
            except _BREAKS as exc:
                broke = exc  # raised outside, where the nursery does not wrap it
            nursery.cancel_scope.cancel()
        if broke is not None:
            raise broke

    async def _receive(self, pipe: Pipe, rest: bytes) -> None:
        """Until the peer is gone. The loop of the whole relay: nothing is parsed per token."""
        decoder, jobs, head = wire.Decoder(), self._jobs, wire.FRAMES_HEAD
        unpack, skip, frames_type = head.unpack_from, head.size, int(wire.Type.FRAMES)
        data, heard = rest, trio.current_time()
        fed: list[Stream] = []
        gather = self._gather
        # one scope whose deadline is moved: a scope for each read cost a fifth of the loop
        with trio.fail_after(FRESH_S) as patience:
            while True:
                for kind, number, body in decoder.feed(data):
                    if kind == frames_type:
                        stream = jobs.get(number)
                        if stream is not None:
                            stream.feed(unpack(body)[1], body[skip:])
                            fed.append(stream)
                    else:
                        self._control(kind, JobNo(number), body)
                if gather is None:
                    for stream in fed:  # one write for all that this receive brought a reader
                        stream.pump()
                else:
                    gather.take(fed)
                fed.clear()
                data = await pipe.recv(RECV_BYTES)
                if not data:
                    return
                now = trio.current_time()
                if now - heard > HEARTBEAT_S:  # so often a STATE comes; moving costs 1.5 us
                    heard, patience.deadline = now, now + FRESH_S
                if self._cancelled and now - min(self._cancelled.values()) > FREED_S:
                    raise OrchError(Kind.ENGINE_UNHEALTHY, "a cancelled job did not free its slot")

    def _control(self, kind: int, number: JobNo, body: bytes) -> None:
        match kind:
            case wire.Type.STATE:
                snapshot = wire.body(Snapshot, body)
                if snapshot.replica_id != self.replica_id:
                    raise OrchError(
                        Kind.ENGINE_PROTOCOL, f"its socket is answered by {snapshot.replica_id}"
                    )
                self._model_ref = snapshot.model_ref
                if snapshot.fetched_digest is not None:
                    self._has_fetched(snapshot, snapshot.fetched_digest)
                self._report(ReplicaSeen(_clean(snapshot)))
                if self._acks:
                    self._send(b"")
            case wire.Type.WELCOME:
                welcome = wire.body(wire.Welcome, body)
                log.event(
                    "link_up",
                    f"Linked to replica {welcome.replica_id}.",
                    replica_id=welcome.replica_id,
                    version=welcome.version,
                )
            case wire.Type.END:
                ended = wire.body(wire.End, body)
                result = self._results.pop(number, None)
                ready = Ready(bytes(result)) if result is not None else None
                self._gone(number, lambda t: JobEnded(t, ended, ready))
            case wire.Type.RESULT:
                self._result(number, body)
            case wire.Type.FAIL:
                self._gone(number, lambda t: JobFailed(t, wire.body(wire.Fail, body)))
            case wire.Type.FREED:
                self._gone(number, lambda t: JobFreed(t, wire.body(wire.Freed, body).tokens_out))
            case _:
                raise OrchError(Kind.ENGINE_PROTOCOL, f"it sent a message of type {kind}")

    def _has_fetched(self, snapshot: Snapshot, digest: Digest) -> None:
        """Tell of a fetched model once in each life of a poolmgr: whoever removes it from the
        catalog is not contradicted at the next heartbeat."""
        fetched = (snapshot.instance, snapshot.model_ref, digest)
        if fetched not in self._told_of:
            self._told_of.append(fetched)
            self._fetched(snapshot.model_ref, digest)

    def _result(self, number: JobNo, body: bytes) -> None:
        """Keep a piece of a result. Raises OrchError(ENGINE_PROTOCOL) past its bound."""
        if number in self._jobs:
            kept = self._results.setdefault(number, bytearray())
            kept += body
            if len(kept) > MAX_RESULT_BYTES:
                raise OrchError(Kind.ENGINE_PROTOCOL, f"a result has over {MAX_RESULT_BYTES} bytes")

    def _gone(self, number: JobNo, event: Callable[[TaskId], Event]) -> None:
        """A job's last message: forget the job, tell core, acknowledge."""
        stream = self._jobs.pop(number, None)
        self._results.pop(number, None)
        self._cancelled.pop(number, None)
        if stream is None:
            return  # END and CANCEL crossed; FREED comes for a job that is over
        del self._numbers[stream.task_id]
        self._acks.append(wire.encode(wire.Type.ACK, number))
        self._report(event(stream.task_id))


_BREAKS: Final = (OrchError, PeerError, PipeClosed, trio.TooSlowError)
_CONNECT_WORDS: Final[dict[object, str]] = {
    FileNotFoundError: "its socket does not exist; is its unit started?",
    ConnectionRefusedError: "nobody listens on its socket; is its unit failed?",
    PermissionError: "orchd may not open its socket; is orchd in the group of the socket?",
}
_INSTANCE = str(uuid4())


def _cause(exc: Exception) -> Cause:
    """Return why a link is down, in words for an operator."""
    if isinstance(exc, OrchError):
        return Cause(kind=exc.kind, message=redact_short(exc.message), advice=exc.row.advice)
    kind = Kind.POOL_UNREADY
    words = str(exc) or "the connection broke"
    if isinstance(exc, trio.TooSlowError):
        words = f"it was silent for {FRESH_S:.0f} s"
    elif isinstance(exc, PeerError):
        words = _CONNECT_WORDS.get(type(exc.__cause__), f"its poolmgr {exc.why}")
        if exc.phase == "receive":
            kind = Kind.ENGINE_PROTOCOL
    return Cause(kind=kind, message=redact_short(words), advice=TABLE[kind].advice)


def _clean(snapshot: Snapshot) -> Snapshot:
    """Return a snapshot whose sentences hold no secret: an engine may have said one."""
    status, error = redact_short(snapshot.status), snapshot.last_error
    if error is not None:
        error = evolve(error, message=redact_short(error.message))
    elif status == snapshot.status:
        return snapshot
    return evolve(snapshot, status=status, last_error=error)


async def _flush(pipe: Pipe) -> None:
    try:
        await pipe.keep_flushing()
    except PipeClosed:
        pass  # the receive loop sees it too, and says it
