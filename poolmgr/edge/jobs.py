"""Jobs: from an OPEN to the engine and back as FRAMES, then END, FAIL or FREED. The hot path.

One task for each job reads the engine and writes the link itself: what one read of the engine
holds goes out as one message, without a timer. Which slot is free is core's business, how an
engine's frames look the dialects'. Nothing of a job follows its last message [ORCH-3026].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from orchd.config.pool import Watchdog
from orchd.kit import log
from orchd.kit.client import PeerError
from orchd.kit.incoming import Body, Opener
from orchd.kit.pipe import Pipe, PipeClosed
from orchd.kit.redact import redact
from orchd.wire import link as wire
from orchd.wire.errors import Kind, OrchError
from orchd.wire.shapes import Workload
from orchd.wire.sse import token_frames
from poolmgr.core.slots import Slots
from poolmgr.edge.running import (
    FRAMES_HEAD_BYTES,
    HIGH_BYTES,
    LOST,
    Running,
    send_slowly,
    wait_for_room,
)
from poolmgr.engines.base import Adapter, Finished, Pieces
from poolmgr.engines.registry import refuse_strict, refuse_workload

SWEEP_S: Final = 1.0
LAST_BYTES_S: Final = 0.5
"""How long the end of an answer's body may take after its last event; then the connection is
closed instead of kept."""
DOUBT_S: Final = 2.5
"""An engine that breaks a job off before a token is most likely dead. Its watch knows within this
time (a child's at once, an external engine's in HEALTH_S), and why; until then the job
keeps its slot, so that no other is sent there to be broken too."""


class Jobs:
    """All jobs of a replica. `changed` is called when the number of busy slots changes."""

    def __init__(
        self,
        adapter: Adapter,
        slots: Slots,
        workloads: tuple[Workload, ...],
        changed: Callable[[], None],
        watchdog: Watchdog = Watchdog(),  # noqa: B008  (frozen)
    ) -> None:
        self.slots = slots
        self._workloads = workloads
        self.refusal: OrchError | None = OrchError(Kind.POOL_UNREADY, "the pool is not ready")
        """Why no job is taken now; None: jobs are taken."""
        self._first_s, self._idle_s = watchdog.first_token_ms / 1000, watchdog.idle_ms / 1000
        self._adapter = adapter
        self._changed = changed
        self._client: Opener | None = None
        self._model_ref: str | None = None
        self._running: set[Running] = set()
        self._nursery: trio.Nursery | None = None
        self._one_less = trio.Event()
        self.swept_at = trio.current_time()
        """When the sweep had its last turn: what the watchdog looks at."""

    def attach(self, client: Opener, model_ref: str | None = None) -> None:
        """Send jobs to this engine from now on; those for another model are refused."""
        self._client, self._model_ref = client, model_ref

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run jobs until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            while True:
                await trio.sleep(SWEEP_S)
                self._sweep(trio.current_time())

    def open(self, number: int, order: wire.Open, pipe: Pipe) -> Running | None:
        """Start a job; None when it was refused, which has been answered with FAIL.

        Raises PipeClosed.
        """
        running = Running(number, order, pipe, self._client)
        refusal = (
            self.refusal
            or self._other_model(order)
            or refuse_workload(self._workloads, running.job)
            or refuse_strict(self._adapter, running.job, self.slots.total)
        )
        if refusal is None and not self.slots.take():
            refusal = OrchError(Kind.REPLICA_EXHAUSTED, "all slots of the replica are busy")
        if refusal is not None:
            self._fail(running, refusal)
            return None
        assert self._nursery is not None, "serve() runs before any link does"
        self._running.add(running)
        self._changed()
        self._nursery.start_soon(self._run, running)
        return running

    def _other_model(self, order: wire.Open) -> OrchError | None:
        """An OPEN that crossed a reload must not run on another model than its task named."""
        if order.model_ref is None or self._model_ref in (None, order.model_ref):
            return None
        return OrchError(Kind.POOL_UNREADY, f"the replica serves {self._model_ref} now")

    def stop_all(self, error: OrchError, client: Opener | None = None) -> None:
        """End every running job with FAIL; with `client` those of that engine."""
        for running in list(self._running):
            if client is None or running.client is client:
                running.stop(error)

    async def wait_none(self, client: Opener | None = None) -> None:
        """Return when no job runs; with `client` none of that engine."""
        while any(client is None or running.client is client for running in self._running):
            await self._one_less.wait()

    def _sweep(self, now: float) -> None:
        """Stop jobs whose engine has been silent for too long. Once a second, not per token."""
        self.swept_at = now
        for running in list(self._running):
            if running.reads != running.seen or running.wake is not None:
                running.seen, running.quiet_since = running.reads, now
                continue
            limit = self._idle_s if running.reads else self._first_s
            if now - running.quiet_since > limit:
                running.stop(
                    OrchError(Kind.DECODE_TIMEOUT, f"the engine said nothing for {limit:g} s")
                )

    async def _run(self, running: Running) -> None:
        """Run one job; its last message is sent when its slot is free."""
        done: Finished | None = None
        error: OrchError | None = None
        try:
            with running.scope:
                done = await self._answer(running)
        except OrchError as exc:
            error = exc
        except PeerError as exc:
            error = _broken(exc, running)
        except PipeClosed:
            running.verdict = LOST
        except Exception as exc:  # noqa: BLE001 - an adapter's fault must not end the whole pool
            log.event(
                "job_crashed",
                f"Task {running.job.task_id} hit a bug in poolmgr: {exc!r}.",
                level="error",
                task_id=running.job.task_id,
                correlation_id=running.order.correlation_id,
                error=repr(exc),
            )
            error = OrchError(Kind.INTERNAL, "the pool daemon hit a bug")
        ended_at = trio.current_time()
        running.over = True
        self.slots.free()
        self._running.discard(running)
        self._one_less.set()
        self._one_less = trio.Event()
        self._changed()
        try:
            self._last_word(running, done, error, ended_at)
        except PipeClosed:
            pass  # the link's own task sees it too

    def _last_word(
        self, running: Running, done: Finished | None, error: OrchError | None, ended_at: float
    ) -> None:
        verdict = running.verdict
        if verdict is LOST:
            return
        if done is not None:
            self._end(running, done, ended_at)
        elif isinstance(verdict, OrchError):
            self._fail(running, verdict)
        elif verdict is wire.Type.FREED:
            freed = wire.Freed(tokens_out=running.index)  # type: ignore[arg-type]
            running.pipe.send_nowait(wire.encode_json(wire.Type.FREED, running.number, freed))
        else:
            self._fail(running, error or OrchError(Kind.WORKER_RESET, "the pool daemon is leaving"))

    def _end(self, running: Running, done: Finished, ended_at: float) -> None:
        decode_s, first = ended_at - running.opened_at, running.first_at
        first_s = None if first is None else first - running.opened_at
        if first_s is not None:
            self.slots.measured(done.tokens_out, first_s, decode_s)
        elif done.result is not None:
            self.slots.measured(1, decode_s, decode_s)  # one token, as orchd counts such a task
        end = wire.End(
            tokens_in=done.tokens_in,  # type: ignore[arg-type]
            tokens_out=done.tokens_out,  # type: ignore[arg-type]
            first_token_ms=None if first_s is None else round(first_s * 1000),  # type: ignore[arg-type]
            decode_ms=round(decode_s * 1000),  # type: ignore[arg-type]
            finish_reason=done.finish_reason,
        )
        running.pipe.send_nowait(wire.encode_json(wire.Type.END, running.number, end))

    def _fail(self, running: Running, error: OrchError) -> None:
        # an engine may repeat the key that it was shown
        fail = wire.Fail(kind=error.kind, message=redact(error.message), tokens_out=running.index)  # type: ignore[arg-type]
        running.pipe.send_nowait(wire.encode_json(wire.Type.FAIL, running.number, fail))

    async def _answer(self, running: Running) -> Finished | None:
        """Generate; after a break without a token, wait for the engine's watch to say why."""
        try:
            return await self._generate(running)
        except PeerError as exc:
            broke = exc  # waited for outside, where a cancellation discards nothing
        if not running.index and broke.phase != "deadline":
            await trio.sleep(DOUBT_S)
        raise broke

    async def _generate(self, running: Running) -> Finished | None:
        """Ask the engine and relay its answer; None when the job was stopped meanwhile."""
        assert running.client is not None, "jobs are refused until attach()"
        call = self._adapter.submit(running.job)
        async with running.client.open(
            call.method,
            call.path,
            call.body,
            headers=dict(call.headers),
            first_byte_s=self._first_s,
            repeatable=True,  # an engine that closed without a word has generated for nobody
        ) as incoming:
            done = await self._relay(running, incoming)
            if done is not None:
                with trio.move_on_after(LAST_BYTES_S):
                    while await incoming.read_some():
                        pass
        if done is not None and done.result is not None:
            for piece in wire.encode_result(running.number, done.result):
                await wait_for_room(running)
                running.pipe.send_nowait(piece)
        return done

    async def _relay(self, running: Running, incoming: Body) -> Finished | None:
        """Engine to link until the end. The inner loop: no task, timer or log per token."""
        reader = self._adapter.reader(running.job, incoming.status)
        pipe, first_id = running.pipe, running.order.first_id
        while True:
            data = await incoming.read_some()
            running.reads += 1
            events = reader.feed(data) if data else reader.eof()
            if running.verdict is not None:
                return None  # stopped while the data lay here: not one token more
            for event in events:
                if isinstance(event, Pieces):
                    texts, index = event.texts, running.index
                    if not index:
                        running.first_at = trio.current_time()
                    frames = token_frames(first_id + index, index, texts)
                    size = FRAMES_HEAD_BYTES + len(frames)
                    if (
                        size <= running.credit
                        and size <= wire.MAX_FRAMES_BODY
                        and pipe.pending <= HIGH_BYTES
                    ):
                        running.credit -= size
                        running.index = index + len(texts)
                        pipe.send_nowait(
                            wire.encode_frames(running.number, index, len(texts), frames)
                        )
                    else:
                        await send_slowly(running, texts)
                elif isinstance(event, Finished):
                    return event
                else:
                    raise _told(event.error)
            if not data:
                raise OrchError(Kind.WORKER_RESET, "the engine ended its answer too early")


def _broken(exc: PeerError, running: Running) -> OrchError:
    """Return a break of the connection to the engine as the job's error.

    A job without a token may run again: orchd is told so by ENGINE_DIED. A client reads this, so it
    does not say where the engine listens.
    """
    if exc.phase == "deadline":
        return OrchError(Kind.DECODE_TIMEOUT, f"the engine did not answer in time: {exc.why}")
    kind = Kind.WORKER_RESET if running.index else Kind.ENGINE_DIED
    return OrchError(kind, f"the connection to the engine broke: {exc.why}")


def _told(error: OrchError) -> OrchError:
    """Return a reader's error as the client's: a job whose engine dies was reset."""
    if error.kind is Kind.ENGINE_DIED:
        return OrchError(Kind.WORKER_RESET, error.message)
    return error
