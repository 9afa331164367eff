"""The one door of the core: `Front.handle(event, now) -> list[Effect]`, and read-only views.

`now` is monotonic seconds and never goes back. One trio task owns a Front. Effects are carried out
in their order; nothing here reads a clock, waits or logs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

from attrs import evolve

from orchd.core import (
    admission,
    drain,
    explain,
    models,
    notes,
    prompts,
    reload,
    runs,
    turns,
    views,
    waiting,
    workers,
)
from orchd.core.events import (
    Accepted,
    Cancel,
    CancelJob,
    CatalogChanged,
    DrainAll,
    DrainPool,
    Effect,
    EndSession,
    Event,
    Finish,
    JobEnded,
    JobFailed,
    JobFreed,
    Progress,
    Refused,
    ReloadPool,
    ReloadRefused,
    ReplicaLost,
    ReplicaSeen,
    Seal,
    Submit,
    Tick,
    WakeAt,
)
from orchd.core.pool import Pool, PoolSpec
from orchd.core.sessions import Turn
from orchd.core.task import LEASED, Life, Step, Task
from orchd.core.world import Limits, World
from orchd.wire.control import Capabilities, PoolHealth, QueueDepths, WorkerRegistration
from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import Count, PoolId, ReplicaId, SessionId, TaskId
from orchd.wire.shapes import (
    FinishReason,
    MetricsFrame,
    PlacementExplained,
    SessionStatus,
    Started,
    TaskAccepted,
    TaskRequest,
    TaskState,
    TaskStatus,
)
from orchd.wire.snapshot import Cause

__all__ = ["Front", "Limits", "PoolSpec"]


class Front:
    """The state of admission, queues, placement and tasks."""

    def __init__(self, specs: Sequence[PoolSpec], limits: Limits | None = None) -> None:
        """Raises ValueError when two pools share an id or a replica."""
        self.world = World(specs, limits or Limits())
        """For views, tests and invariants.check; changed by `handle` only."""
        self._armed: float | None = None

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take one event; return what is to be done, in order.

        Raises KeyError for a replica that is not configured. Messages of a job that is over, which
        may still be on their way, change nothing.
        """
        effects = self._due(now)
        match event:
            case Submit():
                effects += self._submit(event, now)
            case Cancel():
                effects += self._cancel(event, now)
            case ReplicaSeen():
                effects += self._seen(event, now)
            case ReplicaLost():
                effects += self._lost(event, now)
            case Progress() | JobEnded() | JobFailed() | JobFreed():
                effects += self._job(event, now)
            case CatalogChanged(cards):
                self.world.models = models.Models(cards)
            case EndSession(session_id):
                effects += turns.delete(self.world, session_id)
            case DrainAll():
                effects += self._drain()
            case DrainPool() | ReloadPool():
                effects += self._control(event, now)
            case ReloadRefused(replica_id, error):
                effects += self._reload_refused(replica_id, error, now)
            case Tick():
                pass  # what was due is done already
            case _:
                assert_never(event)
        return effects + self._wake(now)

    # events

    def _submit(self, event: Submit, now: float) -> list[Effect]:
        world, request = self.world, event.request
        known = world.tasks.get(request.task_id)
        try:
            if known is not None:
                return [_repeat(known, event)]
            if world.draining:
                raise admission.stopping(world)
            request = models.resolved(world, request, now)
            asked = (event.identity, request, event.prompt_tokens, now)
            world.throttle.check(*asked)
            admitted = admission.admit(world, request, event.prompt_tokens, now, event.longest)
            turn = turns.let_in(world, request, admitted.pool, event.prompt_tokens, now)
            world.throttle.take(*asked)  # a task that is refused takes nothing
        except OrchError as error:
            engine = request.engine if request.engine in world.engines else "other"
            world.tally.rejected(engine, error.kind, error.fields.policy_label)
            world.tally.undecided(request, error.kind)
            return [Refused(error), notes.rejected(request, event.correlation_id, error)]
        if request is not event.request:
            event = evolve(event, request=request)
        return self._enqueue(event, admitted, turn, now)

    def _enqueue(
        self, event: Submit, admitted: admission.Admission, turn: Turn, now: float
    ) -> list[Effect]:
        world, pool, request = self.world, admitted.pool, event.request
        turns.begin(world, turn)  # first: its session does not make room for the victim's
        dropped: list[Effect] = []
        if admitted.victim is not None:
            dropped = runs.drop(world, world.tasks[admitted.victim], now)
        at_once = admitted.decision.selected is not None
        position = 0 if at_once else pool.queue.until_tail(request.priority).jobs
        said = admitted.outlook.prediction
        world.admitted += 1
        task = Task(
            number=world.admitted,
            request=request,
            digest=event.digest,
            correlation_id=event.correlation_id,
            pool_id=pool.spec.pool_id,
            turn=turn,
            admitted_at=now,
            promise=admitted.outlook.promise(now),
            told=(position, now + said.start_s),
            decision=admitted.decision.log,
        )
        task.expected = pool.forecast.weigh(request)
        pool.forecast.admitted(task, now)
        world.tasks[task.task_id] = task
        waiting.enter(world, task)
        world.tally.enqueued(task, pool.engine_version)
        starts = runs.fill(world, pool, now)
        start_ms = round(said.start_s * 1000)
        accepted = TaskAccepted(
            task_id=task.task_id,
            queue_position=Count(position),
            predicted_start_ms=Count(start_ms),
            predicted_start_p90_ms=Count(round(said.p90_s * 1000)),
            backoff_ms=Count(admission.backoff_ms(pool, request.priority, now)),
            pool_id=pool.spec.pool_id,
            stream_url=f"/v1/tasks/{task.task_id}/stream",
        )
        started = Started(
            queue_position=Count(position),
            predicted_start_ms=Count(start_ms),
            correlation_id=event.correlation_id,
            pool_id=pool.spec.pool_id,
            replica_id=task.replica_id,
            engine_version=task.engine_version or pool.engine_version or None,
            kv_warmth=task.kv_warm,
            tokens_used=Count(turn.session.account.used.tokens),
            tokens_remaining=turns.count(turns.left(task).tokens),
        )
        task.answer = Accepted(task.task_id, accepted, started, True, turns.left(task))
        note = notes.admitted(task, position, start_ms, event.identity)
        return [*dropped, task.answer, note, *starts]

    def _cancel(self, event: Cancel, now: float) -> list[Effect]:
        world = self.world
        try:
            task = world.task(event.task_id)
        except OrchError as error:
            return [Refused(error)]
        before = task.life
        task.take(Step.CANCEL)
        if task.life is before:
            return []  # canceled already, or over: nothing is left to cancel
        task.cancel_reason, task.finish_reason = event.reason, FinishReason.CANCELED
        task.ended_at = now
        effects: list[Effect] = [Seal(task.task_id, event.reason)]
        pool = world.pools[task.pool_id]
        if before is Life.QUEUED:
            waiting.leave(world, task)
        else:
            assert task.replica_id is not None
            assert task.dispatched_at is not None
            runs.count(world, task, event.tokens_out, now)
            task.decode_ms = round((now - task.dispatched_at) * 1000)
            world.timers.drop(("watch", task.task_id))
            effects.append(CancelJob(task.task_id, task.replica_id))
        world.tally.canceled(task)
        effects += [Finish(task.task_id, runs.cancel_end(task)), notes.canceled(task)]
        if before is Life.QUEUED:
            effects += runs.retire(world, task, now)
        # The slot of a running task stays leased until it is freed; its place in line is free now.
        return effects + runs.fill(world, pool, now) + runs.tell(world, pool, now)

    def _job(self, event: Progress | JobEnded | JobFailed | JobFreed, now: float) -> list[Effect]:
        world = self.world
        task = world.tasks.get(event.task_id)
        if task is None or task.life not in LEASED:
            return []
        match event:
            case Progress(_, tokens_out):
                return runs.progress(world, task, tokens_out, now)
            case JobEnded(_, end, result):
                effects = runs.end(world, task, end, result, now)
            case JobFailed(_, fail):
                effects = runs.fail(world, task, fail, now)
            case JobFreed(_, tokens_out):
                effects = runs.freed(world, task, tokens_out, now)
        pool = world.pools[task.pool_id]
        return effects + runs.fill(world, pool, now) + runs.tell(world, pool, now)

    def _seen(self, event: ReplicaSeen, now: float) -> list[Effect]:
        world, snapshot = self.world, event.snapshot
        pool = world.home[snapshot.replica_id]
        replica = pool.replicas[snapshot.replica_id]
        world.tally.snapshot(replica.snapshot, snapshot)
        replica.see(snapshot, now)
        world.timers.set(("fresh", replica.replica_id), replica.fresh_until)
        effects = reload.seen(world, pool, replica, now) + self._readiness(pool, now)
        return effects + runs.fill(world, pool, now) + runs.tell(world, pool, now)

    def _lost(self, event: ReplicaLost, now: float) -> list[Effect]:
        world = self.world
        pool = world.home[event.replica_id]
        replica = pool.replicas[event.replica_id]
        replica.lose(event.cause)
        world.timers.drop(("fresh", replica.replica_id))
        effects = runs.lost(world, replica, now)
        effects += reload.lost(world, pool, replica, event.cause, now) + self._readiness(pool, now)
        return effects + runs.fill(world, pool, now) + runs.tell(world, pool, now)

    def _control(self, event: DrainPool | ReloadPool, now: float) -> list[Effect]:
        world = self.world
        try:
            pool = world.pool(event.pool_id)
            if isinstance(event, DrainPool):
                return drain.begin(world, pool, event.deadline_ms)
            return reload.begin(world, pool, event.model_ref, now)
        except OrchError as error:
            return [Refused(error)]

    def _reload_refused(self, replica_id: ReplicaId, error: OrchError, now: float) -> list[Effect]:
        pool = self.world.home[replica_id]
        cause = Cause(kind=error.kind, message=error.message, advice=error.row.advice)
        pool.replicas[replica_id].last_error = cause
        effects = reload.lost(self.world, pool, pool.replicas[replica_id], cause, now)
        effects += self._readiness(pool, now)
        return effects + runs.fill(self.world, pool, now) + runs.tell(self.world, pool, now)

    def _drain(self) -> list[Effect]:
        if self.world.draining:
            return []
        self.world.draining = True
        pools = self.world.pools.values()
        waiting = sum(len(pool.queue) for pool in pools)
        running = sum(len(r.leases) for pool in pools for r in pool.replicas.values())
        return [notes.draining(waiting, running)]

    # time

    def _due(self, now: float) -> list[Effect]:
        """Do what time brought, before the event: nothing starts past its deadline."""
        world = self.world
        effects: list[Effect] = []
        while (key := world.timers.pop_due(now)) is not None:
            match key:
                case ("deadline", task_id):
                    task = world.tasks[TaskId(task_id)]
                    effects += runs.expire(world, task, now)
                    pool = world.pools[task.pool_id]
                    effects += runs.fill(world, pool, now) + runs.tell(world, pool, now)
                case ("watch", task_id):
                    effects += runs.watch(world, world.tasks[TaskId(task_id)], now)
                case ("fresh", replica_id):
                    effects += self._readiness(world.home[ReplicaId(replica_id)], now)
                case ("moved", pool_id):
                    effects += runs.tell(world, world.pools[PoolId(pool_id)], now)
                case ("reload", pool_id):
                    pool = world.pools[PoolId(pool_id)]
                    effects += reload.overdue(world, pool, now) + self._readiness(pool, now)
                case ("retain", _):
                    effects += runs.forget(world, now)
                case ("session", _):
                    effects += turns.expire(world, now)
        return effects

    def _wake(self, now: float) -> list[Effect]:
        """Ask for a Tick when something is due before the one that was asked for."""
        if self._armed is not None and self._armed <= now:
            self._armed = None
        when = self.world.timers.next()
        if when is None or (self._armed is not None and self._armed <= when):
            return []
        self._armed = when
        return [WakeAt(when)]

    # replicas

    def _readiness(self, pool: Pool, now: float) -> list[Effect]:
        """Note every replica of the pool that came or went for placement."""
        pool.repin()
        effects: list[Effect] = []
        for replica in pool.replicas.values():
            servable = replica.servable(now)
            if servable != replica.was_ready:
                replica.was_ready = servable
                if not servable:
                    self.world.affinity.cooled(replica.replica_id)
                if servable:
                    effects.append(notes.ready(pool, replica))
                else:
                    why = admission.why_replica(replica, now)
                    effects.append(notes.unready(pool, replica, why))
        return effects

    # read-only views: no effects, nothing changes

    def task_status(self, task_id: TaskId, now: float) -> TaskStatus:
        """Raises OrchError(UNKNOWN_ID)."""
        return views.task_status(self.world, task_id, now)

    def metrics_frame(self, task_id: TaskId, now: float) -> MetricsFrame:
        """Return what a `metrics` frame of this task says now. Raises OrchError(UNKNOWN_ID)."""
        return views.metrics_frame(self.world, task_id, now)

    def with_budgets(self, task_id: TaskId, frame: MetricsFrame) -> MetricsFrame:
        """Return a frame of this task with its session's figures. Raises OrchError(UNKNOWN_ID)."""
        return turns.shown(frame, self.world.task(task_id))

    def session(self, session_id: SessionId, now: float) -> SessionStatus:
        """Raises OrchError(UNKNOWN_ID)."""
        return turns.status(self.world, session_id, now)

    def tasks(
        self, *, state: TaskState | None = None, after: int = 0, limit: int = 100
    ) -> list[tuple[int, TaskId]]:
        """Return (cursor, id), newest first, at most `limit`.

        `after` 0 begins with the newest, a cursor goes on behind its task.
        """
        return views.tasks(self.world, state, after, limit)

    def pool_health(self, pool_id: PoolId, now: float) -> PoolHealth:
        """Raises OrchError(UNKNOWN_ID)."""
        return views.pool_health(self.world, self.world.pool(pool_id), now)

    def pools(self, now: float) -> tuple[PoolHealth, ...]:
        """Return the health of every pool, by id."""
        return tuple(views.pool_health(self.world, p, now) for p in self.world.pools.values())

    def unready_reasons(self, now: float) -> tuple[str, ...]:
        """Return why no task could be served now; empty when a pool is ready."""
        return views.unready_reasons(self.world, now)

    def queue_depth(self, pool_id: PoolId) -> QueueDepths:
        """Raises OrchError(UNKNOWN_ID)."""
        return views.queue_depths(self.world.pool(pool_id))

    def capabilities(self, now: float) -> Capabilities:
        """Return what can be asked for: pools of one engine, model and version together."""
        return views.capabilities(self.world, now)

    def explain(self, request: TaskRequest, now: float) -> PlacementExplained:
        """Return where a task would go now, and why. Raises OrchError(INVALID_PARAMS)."""
        return explain.explain(self.world, request, now)

    def check_worker(self, worker: WorkerRegistration) -> None:
        """Raises OrchError: UNKNOWN_ID for none of ours, PINS_DIFFER for one unlike its set."""
        workers.check(self.world, worker)

    def counted_by(self, request: TaskRequest, identity: str, now: float) -> ReplicaId | None:
        """Return the replica that is to count the texts before Submit; None: none need, or can."""
        tight = turns.tight(self.world, request, now)
        return prompts.counted_by(self.world, request, identity, now, tight=tight)

    def tokenized_by(self, model_ref: str, now: float) -> ReplicaId:
        """Return a replica that serves the model. Raises OrchError(UNKNOWN_ID, POOL_UNREADY)."""
        return prompts.tokenized_by(self.world, model_ref, now)

    def engine_of(self, model_id: str) -> str | None:
        """Return the engine that serves a model of the catalog; None: no pool does."""
        return models.engine_of(self.world, model_id)

    def counters(self) -> dict[str, dict[tuple[str, ...], float]]:
        """Return metric name -> label values (in the contract's order) -> count."""
        return {name: dict(counts) for name, counts in self.world.tally.counts.items()}

    def gauges(self, now: float) -> dict[str, dict[tuple[str, ...], float]]:
        """Return the same for gauges, from the queues, the leases and the snapshots."""
        return views.gauges(self.world, now)


def _repeat(known: Task, event: Submit) -> Accepted:
    """Answer a task id that is known already. Raises OrchError(TASK_ID_REUSED)."""
    if known.digest != event.digest:
        raise OrchError(
            Kind.TASK_ID_REUSED, f"task {known.task_id} is known already, with another body"
        )
    assert known.answer is not None
    return evolve(known.answer, fresh=False)
