"""The one door of the core: `Front.handle(event, now) -> list[Effect]`, and read-only views.

`now` is monotonic seconds and never goes back. One trio task owns a Front. Effects are carried out
in their order; nothing here reads a clock, waits or logs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

from orchd.core import explain, views
from orchd.core.effects import Effect, Refused, WakeAt
from orchd.core.events import (
    Cancel,
    CatalogChanged,
    DrainAll,
    DrainPool,
    EndSession,
    Event,
    JobEnded,
    JobFailed,
    JobFreed,
    PoolsAdded,
    Progress,
    ReloadPool,
    ReloadRefused,
    ReplicaLost,
    ReplicaSeen,
    Submit,
    Tick,
)
from orchd.core.flow import cancel, endings, incoming, notes, prompts, runs, turns
from orchd.core.flow.telling import tell
from orchd.core.given.cards import Models
from orchd.core.given.spec import PoolSpec
from orchd.core.sets import drain, hearing, reload, workers
from orchd.core.state import models
from orchd.core.state.pool import Pool
from orchd.core.state.task import LEASED
from orchd.core.state.world import Limits, World
from orchd.wire.control import Capabilities, PoolHealth, QueueDepths, WorkerRegistration
from orchd.wire.errors import OrchError
from orchd.wire.ids import PoolId, ReplicaId, SessionId, TaskId
from orchd.wire.jobs import JobRecord
from orchd.wire.shapes import (
    MetricsFrame,
    PlacementExplained,
    SessionStatus,
    TaskRequest,
    TaskState,
    TaskStatus,
)

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
            case Progress() | JobEnded() | JobFailed() | JobFreed():
                effects += self._job(event, now)
            case Submit():
                effects += incoming.submit(self.world, event, now)
            case Cancel():
                effects += cancel.cancel(self.world, event, now)
            case ReplicaSeen():
                effects += hearing.seen(self.world, event, now)
            case ReplicaLost():
                effects += hearing.lost(self.world, event, now)
            case CatalogChanged() | PoolsAdded():
                self._learn(event)
            case EndSession(session_id):
                effects += turns.delete(self.world, session_id)
            case DrainAll():
                effects += self._drain()
            case DrainPool() | ReloadPool():
                effects += self._control(event, now)
            case ReloadRefused(replica_id, error):
                effects += hearing.reload_refused(self.world, replica_id, error, now)
            case Tick():
                pass  # what was due is done already
            case _:
                assert_never(event)
        return effects + self._wake(now)

    # events

    def _learn(self, event: CatalogChanged | PoolsAdded) -> None:
        if isinstance(event, PoolsAdded):
            self.world.add(event.specs)
        else:
            self.world.models = Models(event.cards)

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
        return effects + runs.fill(world, pool, now) + tell(world, pool, now)

    def _control(self, event: DrainPool | ReloadPool, now: float) -> list[Effect]:
        world = self.world
        try:
            pool = world.pool(event.pool_id)
            if isinstance(event, DrainPool):
                return drain.begin(world, pool, event.deadline_ms)
            return reload.begin(world, pool, event.model_ref, event.digest, now)
        except OrchError as error:
            return [Refused(error)]

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
        moved: dict[PoolId, Pool] = {}
        """Pools in which something may start now: when all that is late has left them."""
        while (key := world.timers.pop_due(now)) is not None:
            match key:
                case ("deadline", task_id):
                    task = world.tasks[TaskId(task_id)]
                    effects += endings.expire(world, task, now)
                    moved[task.pool_id] = world.pools[task.pool_id]
                case ("watch", task_id):
                    effects += runs.watch(world, world.tasks[TaskId(task_id)], now)
                case ("fresh", replica_id):
                    effects += hearing.readiness(world, world.home[ReplicaId(replica_id)], now)
                case ("moved", pool_id):
                    effects += tell(world, world.pools[PoolId(pool_id)], now)
                case ("reload", pool_id):
                    pool = world.pools[PoolId(pool_id)]
                    effects += reload.overdue(world, pool, now) + hearing.readiness(
                        world, pool, now
                    )
                case ("retain", _):
                    effects += endings.forget(world, now)
                case ("session", _):
                    effects += turns.expire(world, now)
        for pool in moved.values():
            effects += runs.fill(world, pool, now) + tell(world, pool, now)
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

    # read-only views: no effects, nothing changes

    def task_status(self, task_id: TaskId, now: float) -> TaskStatus:
        """Raises OrchError(UNKNOWN_ID)."""
        return views.task_status(self.world, task_id, now)

    def job_record(self, task_id: TaskId, now: float) -> JobRecord:
        """Return what is left of a task that is over. Raises OrchError(UNKNOWN_ID)."""
        return views.job_record(self.world, task_id, now)

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
        """Raises OrchError(UNKNOWN_NAME)."""
        return views.pool_health(self.world, self.world.pool(pool_id), now)

    def pools(self, now: float) -> tuple[PoolHealth, ...]:
        """Return the health of every pool, by id."""
        return tuple(views.pool_health(self.world, p, now) for p in self.world.pools.values())

    def unready_reasons(self, now: float) -> tuple[str, ...]:
        """Return why no task could be served now; empty when a pool is ready."""
        return views.unready_reasons(self.world, now)

    def queue_depth(self, pool_id: PoolId) -> QueueDepths:
        """Raises OrchError(UNKNOWN_NAME)."""
        return views.queue_depths(self.world.pool(pool_id))

    def capabilities(self, now: float) -> Capabilities:
        """Return what can be asked for: pools of one engine, model and version together."""
        return views.capabilities(self.world, now)

    def explain(self, request: TaskRequest, now: float, identity: str = "") -> PlacementExplained:
        """Return where a task would go now, and why. Raises OrchError(INVALID_PARAMS)."""
        return explain.explain(self.world, request, identity, now)

    def check_worker(self, worker: WorkerRegistration) -> None:
        """Raises OrchError: UNKNOWN_REPLICA: none of ours; PINS_DIFFER: unlike its set."""
        workers.check(self.world, worker)

    def counted_by(self, request: TaskRequest, identity: str, now: float) -> ReplicaId | None:
        """Return the replica that is to count the texts before Submit; None: none need, or can."""
        return prompts.counted_by(self.world, request, identity, now)

    def tokenized_by(self, model_ref: str, now: float) -> ReplicaId:
        """Return a replica that serves the model. Raises OrchError(UNKNOWN_NAME, POOL_UNREADY)."""
        return prompts.tokenized_by(self.world, model_ref, now)

    def served_by(self, model_id: str) -> tuple[PoolSpec, ...]:
        """Return the pools that serve a model of the catalog."""
        return models.served_by(self.world, model_id)

    def counters(self) -> dict[str, dict[tuple[str, ...], float]]:
        """Return metric name -> label values (in the contract's order) -> count."""
        return {name: dict(counts) for name, counts in self.world.tally.counts.items()}

    def gauges(self, now: float) -> dict[str, dict[tuple[str, ...], float]]:
        """Return the same for gauges, from the queues, the leases and the snapshots."""
        return views.gauges(self.world, now)
