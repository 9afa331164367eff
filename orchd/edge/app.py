"""The app of orchd: one Front, its streams, its links, and the loop that carries out effects.

Everything here runs in one trio thread and `handle` never waits, so an event and its effects are
one step. Routes ask it; links report to it. How frames are written is in relay.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final, assert_never

import trio

from orchd.catalog import locate
from orchd.config.pool import Mode, Pool
from orchd.config.schema import Settings
from orchd.core.events import (
    Accepted,
    AskDrain,
    AskReload,
    Break,
    Cancel,
    CancelJob,
    CancelReason,
    Dispatch,
    DrainAll,
    DrainPool,
    Effect,
    EndSession,
    Event,
    Finish,
    Forget,
    Moved,
    Note,
    Observe,
    PoolsAdded,
    Progress,
    Refused,
    ReloadPool,
    Seal,
    Submit,
    Tick,
    WakeAt,
)
from orchd.core.front import Front
from orchd.core.spec import PoolSpec, Watchdog
from orchd.edge import limits
from orchd.edge.artifacts import Registry
from orchd.edge.catalog import Catalog
from orchd.edge.control import Control
from orchd.edge.disk import Disk
from orchd.edge.gather import Gather
from orchd.edge.links import Link
from orchd.edge.relay import Stream
from orchd.edge.reread import Change, compare
from orchd.edge.scrape import Tally
from orchd.edge.tokens import Counted, Tokenizers
from orchd.kit import log
from orchd.kit.message import envelope_of
from orchd.kit.redact import redact
from orchd.wire.control import Capabilities, PoolHealth, WorkerRegistration
from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import Count, PoolId, ReplicaId, SessionId, TaskId
from orchd.wire.shapes import (
    MetricsFrame,
    Narration,
    PlacementExplained,
    SessionStatus,
    TaskRequest,
    TaskState,
    TaskStatus,
    TaskStatuses,
)

PULSE_S: Final = 0.25
"""How often core hears of progress and streams get what is due: often enough for a prediction."""
ALIVE_S: Final = 5.0
"""A pulse that is later than this by its own clock beats no more: twenty of them were missed."""
_StreamEffect = Accepted | Dispatch | Seal | Finish | Break | Moved | Forget
_WHY: Final[dict[CancelReason, str]] = {
    "client": "Canceled on request.",
    "disconnect": "Canceled because its last reader left.",
    "shutdown": "Canceled because orchd stops.",
}


class App:
    """All of orchd's state. Made once; `run` is its service."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.front = Front(
            [_spec(pool, str(settings.base)) for pool in settings.pools], limits.limits(settings)
        )
        self.tally = Tally(self.front)
        self.tokenizers = Tokenizers(self.front, settings)
        self.disk = Disk(settings.state_dir)
        self.catalog = Catalog(
            self.disk,
            str(settings.base),
            self.handle,
            self.front.engine_of,
            self.tally.verifications,
        )
        self.artifacts = Registry(self.disk, settings.artifacts)
        self._streams: dict[TaskId, Stream] = {}
        self._running: dict[TaskId, Stream] = {}
        self._open: set[TaskId] = set()
        self._all_done = trio.Event()
        batch_ms = settings.sse.microbatch_ms
        self._gather = Gather(batch_ms / 1000) if batch_ms else None
        self._links = self._links_of(settings.pools)
        self._nursery: trio.Nursery | None = None
        """Of the links, while they run."""
        self._control = Control(settings, self.handle)
        self._beat_at = -math.inf
        self._wake_at: float | None = None
        self._alarm = trio.Event()

    # what routes ask for

    def submit(
        self,
        request: TaskRequest,
        digest: bytes,
        correlation_id: str,
        identity: str,
        counted: Counted,
    ) -> Accepted:
        """Admit a task; `counted` is what Tokenizers.count told. Raises OrchError: refused."""
        told = (counted.prompt_tokens, counted.longest)
        answer = self.handle(Submit(request, digest, correlation_id, identity, *told))
        assert answer is not None, "core answers every Submit"
        return answer

    def explain(self, request: TaskRequest, identity: str) -> PlacementExplained:
        """Return where a task would go. Raises OrchError when it contradicts itself."""
        return self.front.explain(request, trio.current_time(), identity)

    async def cancel(self, task_id: TaskId) -> None:
        """Cancel a task. When this returns, no token frame of it leaves any more [ORCH-3026]."""
        stream = self.stream(task_id)
        self.handle(Cancel(task_id, "client", stream.tokens))
        await stream.settle()

    def reader_left(self, stream: Stream) -> None:
        """A client hung up before the end: the last one takes the task with it [SSE-1003]."""
        if self.settings.cancel_on_disconnect and not stream.readers and not stream.done:
            self.handle(Cancel(stream.task_id, "disconnect", stream.tokens))

    def stream(self, task_id: TaskId) -> Stream:
        """Return a task's stream. Raises OrchError(UNKNOWN_ID)."""
        stream = self._streams.get(task_id)
        if stream is None:
            raise OrchError(Kind.UNKNOWN_ID, f"there is no task {task_id}", path="task_id")
        return stream

    def task_status(self, task_id: TaskId) -> TaskStatus:
        """Raises OrchError(UNKNOWN_ID)."""
        return self.front.task_status(task_id, trio.current_time())

    def tasks(self, state: TaskState | None, cursor: str | None, limit: int) -> TaskStatuses:
        """Return the newest `limit` tasks behind `cursor`. Raises OrchError for none of ours."""
        if cursor is not None and not (cursor.isascii() and cursor.isdigit() and len(cursor) < 20):
            raise OrchError(
                Kind.INVALID_PARAMS, "cursor must be one that an answer gave", path="cursor"
            )
        found = list(self.front.tasks(state=state, after=int(cursor or 0), limit=limit + 1))
        return TaskStatuses(
            tasks=tuple(self.task_status(task_id) for _, task_id in found[:limit]),
            next_cursor=str(found[limit - 1][0]) if len(found) > limit else None,
        )

    def session(self, session_id: SessionId) -> SessionStatus:
        """Raises OrchError(UNKNOWN_ID)."""
        return self.front.session(session_id, trio.current_time())

    def end_session(self, session_id: SessionId) -> None:
        """Forget a session, known or not; its tasks go on."""
        self.handle(EndSession(session_id))

    def pools(self) -> tuple[PoolHealth, ...]:
        """Return the health of every pool."""
        return self.front.pools(trio.current_time())

    def pool_health(self, pool_id: PoolId) -> PoolHealth:
        """Raises OrchError(UNKNOWN_ID)."""
        return self.front.pool_health(pool_id, trio.current_time())

    def capabilities(self) -> Capabilities:
        """Return what can be asked for."""
        return self.front.capabilities(trio.current_time())

    def unready_reasons(self) -> tuple[str, ...]:
        """Return why orchd could not serve a task now; empty when a pool is ready."""
        return self.front.unready_reasons(trio.current_time())

    def register(self, worker: WorkerRegistration) -> None:
        """A poolmgr is Ready: link to it now. Raises OrchError when core does not know it."""
        self.front.check_worker(worker)
        self._links[worker.replica_id].nudge()

    def drain_pool(self, pool_id: PoolId, deadline_ms: int) -> None:
        """Begin to drain a pool. Raises OrchError."""
        self.handle(DrainPool(pool_id, deadline_ms))

    def reload_pool(self, pool_id: PoolId, model_ref: str) -> None:
        """Begin to reload a pool. Raises OrchError."""
        for pool in self.settings.pools:
            if pool.id == pool_id and pool.mode is Mode.EXTERNAL:
                raise OrchError(
                    Kind.INVALID_PARAMS,
                    f"the engine of pool {pool_id} is external: whoever started it gives it "
                    "another model",
                    path="$.new_model_ref",
                    pool_id=pool_id,
                )
        self.handle(ReloadPool(pool_id, model_ref))

    def reread(self, settings: Settings) -> Change:
        """Put into effect what can change while streams run; return what did, and what did not."""
        change = compare(self.settings, settings)
        self.settings = change.settings
        if change.added:
            self.handle(PoolsAdded(tuple(_spec(p, str(settings.base)) for p in change.added)))
            self.tokenizers.add(settings, change.added)
            links = self._links_of(change.added)
            self._links.update(links)
            if self._nursery is not None:
                for link in links.values():
                    self._nursery.start_soon(link.run)
        return change

    def _links_of(self, pools: Iterable[Pool]) -> dict[ReplicaId, Link]:
        return {
            replica: Link(replica, self.settings.pool_socket(replica), self.handle, self._gather)
            for pool in pools
            for replica in pool.replica_ids
        }

    # the one door

    def handle(self, event: Event) -> Accepted | None:
        """Hand an event to core and carry out what it wants. Raises the error of a Refused."""
        answer: Accepted | None = None
        refused: OrchError | None = None
        for effect in self.front.handle(event, trio.current_time()):
            if isinstance(effect, Accepted):
                answer = effect
            if isinstance(effect, Refused):
                refused = effect.error
            else:
                self._do(effect)
        if refused is not None:
            raise refused
        return answer

    def _do(self, effect: Effect) -> None:
        match effect:
            case WakeAt(when):
                self._wake_at = when
                self._alarm.set()
            case Note(name, human, level, fields):
                log.event(name, human, level=level, **fields)
            case Observe():
                self.tally.observe(effect)
            case Refused():
                pass  # handle() raises it
            case AskDrain() | AskReload():
                self._control.ask(effect)
            case CancelJob(task_id, replica_id):
                self._links[replica_id].cancel(task_id)
            case _:
                self._write(effect)

    def _write(self, effect: _StreamEffect) -> None:
        match effect:
            case Accepted(task_id, accepted, started, fresh):
                if fresh:
                    now, pool_id = trio.current_time(), accepted.pool_id
                    stream = self._streams[task_id] = Stream(task_id, pool_id, now)
                    stream.say(("started", started))
                    self._open.add(task_id)
            case Dispatch(task_id, replica_id, request, correlation_id):
                stream = self._running[task_id] = self._streams[task_id]
                stream.say(_told("start", replica_id, f"Starts on {replica_id}."))
                stream.narrated_at = trio.current_time()
                self._links[replica_id].open(request, correlation_id, stream)
            case Seal(task_id, reason):
                stream = self._streams[task_id]
                stream.seal()
                stream.say(_told("cancel", task_id, _WHY[reason]))
            case Finish(task_id, ended):
                stream = self._over(task_id)
                if stream.sealed:
                    stream.finish(("end", ended))
                else:
                    human = f"Ended ({ended.finish_reason}) after {ended.tokens_out} tokens."
                    stream.finish(_told("end", task_id, human), ("end", ended))
            case Break(task_id, error):
                self._over(task_id).finish(("error", envelope_of(error)))
            case Moved():
                self._moved(effect)
            case Forget(task_id):
                self._streams.pop(task_id, None)
            case _:
                assert_never(effect)

    def _over(self, task_id: TaskId) -> Stream:
        self._running.pop(task_id, None)
        self._open.discard(task_id)
        if not self._open:
            self._all_done.set()
        return self._streams[task_id]

    def _moved(self, effect: Moved) -> None:
        stream = self._streams[effect.task_id]
        if stream.readers:
            frame = MetricsFrame(
                queue_depth=Count(effect.queue_depth),
                on_time_probability=effect.on_time_probability,
                queue_position=Count(effect.queue_position),
                predicted_start_ms=Count(effect.predicted_start_ms),
                predicted_start_p90_ms=Count(effect.predicted_start_p90_ms),
            )
            self._hint(stream, self.front.with_budgets(effect.task_id, frame))

    def _hint(self, stream: Stream, frame: MetricsFrame) -> None:
        missed = stream.hint(frame)
        if missed:
            self.tally.dropped(stream.pool_id, "metrics", missed)

    # services

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the links up, wake core when it asked for it, and keep streams informed."""
        self._beat_at = trio.current_time()
        try:
            await self.disk.open()
            await self.catalog.open()
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                for link in self._links.values():
                    nursery.start_soon(link.run)
                nursery.start_soon(self._control.run)
                nursery.start_soon(self._keep_time)
                nursery.start_soon(self._pulse)
                if self._gather is not None:
                    nursery.start_soon(self._gather.run)
                nursery.start_soon(self.catalog.run)
                nursery.start_soon(self.artifacts.open)
                task_status.started()
        finally:
            self.tokenizers.close()
            self.disk.close()

    def alive(self) -> bool:
        """Return whether the pulse beats: what systemd's watchdog is to know."""
        return trio.current_time() - self._beat_at < ALIVE_S

    async def drain(self, deadline_s: float) -> None:
        """Admit nothing more; give running tasks `deadline_s`, then cancel what is left."""
        self.handle(DrainAll())
        if self._open:
            self._all_done = trio.Event()
            with trio.move_on_after(deadline_s):
                await self._all_done.wait()
        for task_id in list(self._open):
            self.handle(Cancel(task_id, "shutdown", self._streams[task_id].tokens))

    async def _keep_time(self) -> None:
        while True:
            self._alarm = trio.Event()
            with trio.CancelScope() as wait:
                if self._wake_at is not None:
                    wait.deadline = self._wake_at
                await self._alarm.wait()
            if wait.cancelled_caught:
                self._wake_at = None
                self.handle(Tick())

    async def _pulse(self) -> None:
        next_metrics = next_beat = trio.current_time()
        while True:
            metrics_s = self.settings.sse.metrics_period_ms / 1000
            narration_s = self.settings.sse.narration_period_ms / 1000
            heartbeat_s = self.settings.sse.heartbeat_ms / 1000
            self._beat_at = trio.current_time()
            await trio.sleep(PULSE_S)
            now = trio.current_time()
            for stream in list(self._running.values()):
                # a job that a slow reader holds back is not stuck
                if stream.tokens != stream.told or stream.held:
                    stream.told = stream.tokens
                    self.handle(Progress(stream.task_id, stream.tokens))
            if now >= next_metrics:
                next_metrics = now + metrics_s
                for stream in self._running.values():
                    if stream.readers:
                        self._hint(stream, self.front.metrics_frame(stream.task_id, now))
            if narration_s:
                self._narrate(now, narration_s)
            if now >= next_beat:
                next_beat = now + heartbeat_s / 4
                self._heartbeats(now, heartbeat_s)

    def _narrate(self, now: float, period_s: float) -> None:
        """Say how far each running task is that was not spoken of for so long [ORCH-3308]."""
        for stream in self._running.values():
            if stream.readers and now - stream.narrated_at >= period_s:
                stream.narrated_at = now
                human = f"Running: {stream.tokens} tokens so far."
                stream.murmur(_told("progress", stream.task_id, human)[1])

    def _heartbeats(self, now: float, heartbeat_s: float) -> None:
        for stream in self._streams.values():
            if stream.touched:
                stream.touched, stream.silent_since = False, now
            elif stream.readers and not stream.done and now - stream.silent_since >= heartbeat_s:
                stream.heartbeat()
                stream.silent_since = now


def _spec(pool: Pool, base: str) -> PoolSpec:
    path = locate.path_of(pool.model.ref, base)
    return PoolSpec(
        pool_id=pool.id,
        engine=pool.engine.id,
        model_ref=pool.model.ref,
        ctx=pool.ctx,
        max_tokens=pool.max_tokens,
        slots=pool.slots,
        replica_ids=pool.replica_ids,
        queue_interactive=pool.queue.interactive,
        queue_batch=pool.queue.batch,
        batch_after=pool.queue.batch_after,
        full_policy=pool.full_policy,
        watchdog=Watchdog(
            first_token_s=pool.watchdog.first_token_ms / 1000,
            idle_s=pool.watchdog.idle_ms / 1000,
            wall_s=pool.watchdog.wall_ms / 1000,
            enforce_deadline=pool.watchdog.enforce_deadline,
        ),
        sampler_profile_version=pool.engine.sampler_profile_version,
        price=limits.price(pool.price),
        model_names=(pool.model.ref,) if path is None else (pool.model.ref, f"file:{path}"),
        model_digest=pool.model.digest,
    )


def _told(action: str, target: str, human: str) -> tuple[str, Narration]:
    return "narration", Narration(human=redact(human), actor="orchd", action=action, target=target)
