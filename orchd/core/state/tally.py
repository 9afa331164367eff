"""Counters of the metrics contract, by name and label values. Gauges are in views.py.

Label values stand in the order of wire.metrics; "" is said where a value is not known yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from orchd.core.given import wishes
from orchd.core.limits.cardinality import OTHER, Cardinality
from orchd.core.state.pool import Pool
from orchd.core.state.replica import Replica
from orchd.core.state.task import Task
from orchd.wire.errors import Kind
from orchd.wire.metrics import BY_NAME
from orchd.wire.shapes import DecisionLog, PlacementMode, TaskRequest
from orchd.wire.snapshot import Outcome, Phase, Snapshot

NO_CAPACITY: Final = frozenset(
    {
        Kind.POOL_UNREADY,
        Kind.POOL_UNAVAILABLE,
        Kind.REPLICA_EXHAUSTED,
        Kind.PINNED_POOL_INFEASIBLE,
        Kind.NO_PREFERRED_FEASIBLE,
    }
)
"""Refusals that are placement's: no pool was able to take the task."""


REASONS: Final[Mapping[Kind, str]] = MappingProxyType(
    {
        **{kind: kind.value for kind in NO_CAPACITY},
        **{
            kind: kind.value
            for kind in (
                *(Kind.INVALID_PARAMS, Kind.TASK_ID_REUSED, Kind.MODEL_DEPRECATED),
                *(Kind.UNTRUSTED_ARTIFACT, Kind.SESSION_OVER, Kind.BUDGET_SHORT),
                *(Kind.DEADLINE_UNMET, Kind.QUEUE_FULL, Kind.DROPPED, Kind.THROTTLED),
            )
        },
        # which policy it was is counted in admission_backpressure_events_total
        Kind.QUEUE_FULL_DROP_LRU: Kind.QUEUE_FULL.value,
        Kind.SHED: Kind.DROPPED.value,
        Kind.SLO_BREACHED: Kind.DROPPED.value,
        Kind.DRAINING: Kind.POOL_UNREADY.value,
    }
)
"""What a refusal is counted as: one place less than the label's budget, which `other` has."""


class Tally:
    """The counts since the daemon started."""

    def __init__(self) -> None:
        self.counts: dict[str, dict[tuple[str, ...], float]] = {}
        self._cardinality = Cardinality()
        self.candidates_considered = 0
        """By the last placement decision."""

    def add(self, name: str, *labels: str, by: float = 1) -> None:
        """Count. `labels` are the values, as many as the contract names; one past its label's
        budget is counted as `other` [OC-METRICS-7102]."""
        if len(labels) != len(BY_NAME[name].labels):
            raise ValueError(f"{name} has the labels {BY_NAME[name].labels}, not {labels}")
        counts = self.counts.setdefault(name, {})
        if labels not in counts:
            labels = self._cardinality.fit(name, labels)
        counts[labels] = counts.get(labels, 0) + by

    def enqueued(self, task: Task, engine_version: str) -> None:
        """A task was admitted. Which replica will run it is not known yet."""
        engine, priority = task.request.engine, task.request.priority
        self.add("tasks_enqueued_total", engine, engine_version, task.pool_id, "", priority)

    def started(self, task: Task) -> None:
        """A job was sent to a replica."""
        self.add("tasks_started_total", *_of_task(task), task.request.priority)

    def waited(self, task: Task, engine_version: str, *, in_time: bool) -> None:
        """A task that had to wait was started: before the p90 that it was told, or after."""
        where = task.request.engine, engine_version, task.pool_id, task.request.priority
        self.add("predicted_start_p90_total", *where, "before" if in_time else "after")

    def canceled(self, task: Task) -> None:
        """A task was canceled, waiting or running."""
        self.add("tasks_canceled_total", *_of_task(task), task.cancel_reason or "")

    def rejected(self, engine: str, kind: Kind, policy: str | None) -> None:
        """A task was refused. `engine` is one that is configured, or "other"."""
        self.add("tasks_rejected_total", engine, REASONS.get(kind, OTHER))
        if policy is not None:
            self.add("admission_backpressure_events_total", engine, policy)

    def tokens(self, task: Task, *, tokens_in: int = 0, tokens_out: int = 0) -> None:
        """So many more tokens went in or came out."""
        if tokens_in:
            self.add("tokens_in_total", *_of_task(task), by=tokens_in)
        if tokens_out:
            self.add("tokens_out_total", *_of_task(task), by=tokens_out)

    def decided(self, log: DecisionLog | None) -> None:
        """Placement gave a task its replica. One that waits is not decided yet."""
        if log is not None:
            fallback = str(log.fallback_used).lower()
            self.add("placement_decisions_total", "assigned", str(log.pinned).lower(), fallback)
            self.candidates_considered = len(log.considered)

    def undecided(self, request: TaskRequest, kind: Kind) -> None:
        """A task was refused: count it where no pool was able to take it."""
        if kind in NO_CAPACITY:
            pinned = wishes.of(request).mode is PlacementMode.PIN
            self.add("placement_decisions_total", "no_capacity", str(pinned).lower(), "false")

    def snapshot(self, old: Snapshot | None, new: Snapshot) -> None:
        """Count what changed from one snapshot of a replica to the next."""
        labels = (new.engine, new.engine_version, new.pool_id, new.replica_id)
        # seq begins anew with each life, but the first that is heard of one may be a later one
        if old is not None and (new.instance != old.instance or new.seq <= old.seq):
            self.add("restarts_total", *labels, _why_ended(old))
            old = None
        before_events = (old.device_events if old else None) or ()
        told_before = {(e.index, e.reason): e.count for e in before_events}
        for events in new.device_events or ():
            more = events.count - told_before.get((events.index, events.reason), 0)
            if more > 0:
                where = (*labels, str(events.index), events.reason)
                self.add("driver_reset_events_total", *where, by=more)
        if new.draining and not (old and old.draining):
            self.add("drain_events_total", *labels)
        reload, told = new.reload, old.reload if old else None
        if old and reload and reload != told and reload.outcome is not Outcome.RUNNING:
            failed = reload.outcome is Outcome.FAILED and new.last_error is not None
            reason = new.last_error.kind if failed and new.last_error else ""
            self.add("preload_outcomes_total", *labels, reload.outcome, reason)
        before = old.phase if old else None
        if new.phase is before:
            return
        if new.phase in _LOADED and before not in _LOADED_BEFORE:
            self.add("preload_outcomes_total", *labels, "ready", "")
        elif new.phase is Phase.FAILED and before in (None, *_LOADING):
            reason = new.last_error.kind if new.last_error else ""
            self.add("preload_outcomes_total", *labels, "failed", reason)


def _why_ended(last: Snapshot) -> str:
    """Return why a life ended, as far as its last snapshot tells: the kind of its error, `stopped`
    for one that left in good order, `lost` for one that was gone without a word."""
    if last.phase in _LEAVING and last.last_error is not None:
        return last.last_error.kind
    return "stopped" if last.phase in _LEAVING else "lost"


_LEAVING = (Phase.FAILED, Phase.DRAINING, Phase.STOPPING)
_LOADED = (Phase.READY, Phase.DRAINED)
_LOADED_BEFORE = (
    *_LOADED, Phase.EMPTYING, Phase.DRAINING, Phase.RELOADING, Phase.REPLACING,
    Phase.SLEEPING, Phase.WAKING,
)  # fmt: skip
"""From these a replica comes to READY without a preload, or by a reload, which is counted."""
_LOADING = (
    Phase.DEVICES, Phase.PROVISIONING, Phase.LOADING, Phase.SELF_TEST, Phase.RESTORING,
)  # fmt: skip


def of_replica(pool: Pool, replica: Replica) -> tuple[str, str, str, str]:
    """Return the labels engine, engine_version, pool_id, replica_id."""
    version = replica.snapshot.engine_version if replica.snapshot else ""
    return pool.spec.engine, version, pool.spec.pool_id, replica.replica_id


def _of_task(task: Task) -> tuple[str, str, str, str]:
    return task.request.engine, task.engine_version, task.pool_id, task.replica_id or ""
