"""One replica as orchd sees it: its last snapshot, and the leases on its slots.

A lease is held from Dispatch until the job ended, failed, was freed or its replica was lost. Both
daemons agree through this count and not through the snapshot's slots_active: that is a word about
the past. The set that a replica belongs to is pool.py's, the choice among them placement.py's.
"""

from __future__ import annotations

import math

from attrs import Factory, define, field, frozen, setters

from orchd.core.given.spec import PoolSpec
from orchd.core.learning import predict
from orchd.core.placing.facts import ReplicaFacts
from orchd.core.state.forecast import Forecast
from orchd.core.state.task import LEAVING, Life, Task
from orchd.core.state.version import Version, bump
from orchd.wire.control import WorkerRegistration
from orchd.wire.errors import Kind
from orchd.wire.ids import DeviceMask, ReplicaId, TaskId, parse_replica_id
from orchd.wire.snapshot import FRESH_S, Cause, Snapshot


@frozen
class Pins:
    """What the replicas of a set have in common beside engine, model and sampler profile, because
    it changes the output. What is not known differs from what is [ORCH-3046]."""

    engine_version: str
    model_digest: str | None
    ubatch: int | None
    flash_attention: str | None


def pins_of(said: Snapshot | WorkerRegistration) -> Pins:
    """Return what a replica says of itself."""
    return Pins(said.engine_version, said.model_digest, said.ubatch, said.flash_attention)


@define(kw_only=True, eq=False, on_setattr=bump)
class Replica:
    """One replica: its last snapshot, and who holds its slots.

    Whatever is set here is a new version of the topology; so is a lease given or taken back.
    """

    replica_id: ReplicaId
    version: Version = field(factory=Version)
    mask: DeviceMask = field(
        init=False, default=Factory(lambda self: parse_replica_id(self.replica_id)[1], True)
    )
    """The GPUs it may touch: part of its name."""
    snapshot: Snapshot | None = None
    """The last one, also after the link broke: for its history, not for placement."""
    live: bool = False
    """Its link is up."""
    fresh_until: float = 0.0
    was_ready: bool = False
    """What was noted last."""
    refusing: bool = False
    drain_unheard: int = 0
    """It was asked to drain and does not say so yet: for so many snapshots more it is believed."""
    pins_differ: bool = False
    last_error: Cause | None = None
    leases: dict[TaskId, Task] = field(factory=dict)
    starts: int = field(default=0, on_setattr=setters.NO_OP)
    """Jobs that it was ever sent."""
    asked_instance: str | None = None
    """The life of its poolmgr that was asked to load the set's model."""
    slots_high: int = 0
    """The most slots it had while the present leases were given."""

    @property
    def slots(self) -> int:
        """How many jobs it runs at a time."""
        return self.snapshot.slots_total if self.snapshot else 0

    @property
    def free_slots(self) -> int:
        """Slots that are not leased; 0 when the replica shrank below its leases."""
        return max(0, self.slots - len(self.leases))

    def fresh(self, now: float) -> bool:
        """Return whether its last snapshot may be believed [ORCH-3971]."""
        return self.live and now < self.fresh_until

    def servable(self, now: float) -> bool:
        """Return whether it can be placed on, were a slot free."""
        snapshot = self.snapshot
        return (
            snapshot is not None
            and snapshot.ready
            and not self.drains
            and self.fresh(now)
            and not self.pins_differ
        )

    @property
    def drains(self) -> bool:
        """Whether it drains, or was asked to and could not say so yet."""
        return self.drain_unheard > 0 or (self.snapshot is not None and self.snapshot.draining)

    def see(self, snapshot: Snapshot, now: float) -> None:
        """Take a new snapshot. A cause stays while it tries again, but not "it is out of reach"."""
        self.snapshot, self.live = snapshot, True
        self.fresh_until = now + FRESH_S
        self.refusing = False
        if self.drain_unheard:
            self.drain_unheard = 0 if snapshot.draining else self.drain_unheard - 1
        unheard = self.last_error is not None and self.last_error.kind is Kind.POOL_UNREADY
        if snapshot.last_error is not None or snapshot.ready or unheard:
            self.last_error = snapshot.last_error

    def lose(self, cause: Cause) -> None:
        """Its link is down. A cause that only says so does not hide what the replica said last."""
        self.live = False
        if self.last_error is None or cause.kind is not Kind.POOL_UNREADY:
            self.last_error = cause

    def lease(self, task: Task) -> None:
        """Give a slot to a task. Raises RuntimeError when none is free: placement was wrong."""
        if len(self.leases) >= self.slots or task.task_id in self.leases:
            raise RuntimeError(f"{self.replica_id} has no slot for {task.task_id}")
        self.slots_high = max(self.slots_high if self.leases else 0, self.slots)
        self.leases[task.task_id] = task
        self.starts += 1
        self.version.bump()

    def release(self, task_id: TaskId) -> None:
        """Take the slot back. A lease that is not held raises KeyError: none goes below 0."""
        del self.leases[task_id]
        self.version.bump()

    def slots_outlook(self, forecast: Forecast, now: float) -> list[predict.Slot]:
        """Return each of its slots with the times at which it may be free."""
        rate, first = self.rate(), self.first_token_s()
        outlook = []
        for task in self.leases.values():
            ends = self.ends_in_s(task, forecast, now)
            outlook.append(predict.Slot(sum(ends) / len(ends), 1 / rate, first, ends))
        return outlook + [predict.Slot(0.0, 1 / rate, first)] * self.free_slots

    def rate(self) -> float:
        """Return tokens per second of one slot: measured, or the prior. Above 0."""
        return (self.snapshot and self.snapshot.tokens_per_s) or predict.PRIOR_TOKENS_PER_S

    def first_token_s(self) -> float:
        """Return the time from OPEN to the first token: measured, or the prior."""
        if self.snapshot is None or self.snapshot.first_token_ms is None:
            return predict.PRIOR_FIRST_TOKEN_S
        return self.snapshot.first_token_ms / 1000

    def ends_in_s(self, task: Task, forecast: Forecast, now: float) -> tuple[float, ...]:
        """Return equally likely times, in seconds and ascending, until a task's slot is free."""
        if task.life in LEAVING:
            return (predict.RELEASE_S,)
        first, out = self.so_far(task, now)
        rate = self.rate()
        tokens = forecast.ends(task.request, out, self.slots)
        # where a job is stopped at its deadline, its slot is free then
        most = task.deadline_at - now if forecast.deadline_ends else math.inf
        most = max(0.0, most) + predict.RELEASE_S
        return tuple([min(most, first + left / rate) for left in tokens])

    def so_far(self, task: Task, now: float) -> tuple[float, float]:
        """Return the seconds until a running task's first token, and the tokens that are out."""
        if task.life is Life.STARTING:
            waited = now - task.progress_at  # set at dispatch
            return max(0.0, self.first_token_s() - waited), 0.0
        # it ran on since it was last heard of
        return 0.0, task.tokens_out + (now - task.progress_at) * self.rate()

    def on_time(self, task: Task, forecast: Forecast, now: float) -> float:
        """Return the probability, 0 to 1, that a running task ends by its deadline."""
        first, out = self.so_far(task, now)
        left_s = task.deadline_at - now - first
        return forecast.ends_within(task.request, out, left_s * self.rate())

    def facts(
        self,
        pool: PoolSpec,
        now: float,
        *,
        waiting: int = 0,
        full: bool = False,
        shedding: bool = False,
        start_ms: int = 0,
    ) -> ReplicaFacts:
        """Return what placement may know of it; what its pool's queue says comes from outside."""
        snapshot = self.snapshot
        return ReplicaFacts(
            replica_id=self.replica_id,
            pool_id=pool.pool_id,
            device_mask=self.mask,
            engine=snapshot.engine if snapshot else pool.engine,
            model_ref=snapshot.model_ref if snapshot else pool.model_ref,
            ready=snapshot is not None and snapshot.ready,
            draining=self.drains,
            fresh=self.fresh(now),
            refusing=self.refusing,
            pins_differ=self.pins_differ,
            ctx_max=min(pool.ctx, snapshot.ctx_max) if snapshot else pool.ctx,
            max_tokens=pool.max_tokens,
            sampler_profile_version=pool.sampler_profile_version,
            workloads=snapshot.workloads if snapshot else (),
            embedding_dim=snapshot.embedding_dim if snapshot else None,
            strict=snapshot is not None and snapshot.strict,
            slots_total=self.slots,
            leases=len(self.leases),
            vram_free_bytes=snapshot.vram_free_bytes if snapshot else None,
            kv_bytes_per_token=(
                snapshot.kv_bytes_per_token if snapshot and not snapshot.kv_reserved else None
            ),
            tokens_per_s=snapshot.tokens_per_s if snapshot else None,
            first_token_ms=snapshot.first_token_ms if snapshot else None,
            waiting=waiting,
            full=full,
            shedding=shedding,
            start_ms=start_ms,
        )
