"""One pool as orchd sees it: what was configured, its replicas, and the leases on their slots.

A lease is held from Dispatch until the job ended, failed, was freed or its replica was lost. Both
daemons agree through this count and not through the snapshot's slots_active: that is a word about
the past. Queues are in queue.py, the choice among replicas in placement.py.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from attrs import Factory, define, field, frozen

from orchd.core import predict
from orchd.core.budgets import FREE, Price
from orchd.core.forecast import Forecast, Outlook
from orchd.core.placement import ReplicaFacts
from orchd.core.queue import Backlog, PoolQueue
from orchd.core.task import LEAVING, Life, Task
from orchd.core.version import Version, bump
from orchd.core.watchdog import Watchdog
from orchd.wire.control import WorkerRegistration
from orchd.wire.errors import Kind
from orchd.wire.ids import DeviceMask, EngineId, PoolId, ReplicaId, TaskId, parse_replica_id
from orchd.wire.policy import FullPolicy
from orchd.wire.shapes import Priority
from orchd.wire.snapshot import FRESH_S, Cause, Snapshot

if TYPE_CHECKING:
    from orchd.core.reload import SetReload


@frozen(kw_only=True)
class PoolSpec:
    """What the configuration says of a pool."""

    pool_id: PoolId
    engine: EngineId
    model_ref: str
    ctx: int
    """Tokens of context that one task may ask for."""
    max_tokens: int
    slots: int
    """Of each replica, as configured; what a replica really has is in its snapshot."""
    replica_ids: tuple[ReplicaId, ...]
    queue_interactive: int
    """Tasks that may wait."""
    queue_batch: int
    sampler_profile_version: str
    model_names: tuple[str, ...] = ()
    """All that the model's place is called: for the catalog, which may have it in another form."""
    model_digest: str | None = None
    """`sha256:<hex>` that the model's file must have, where that is configured."""
    price: Price = FREE
    full_policy: FullPolicy = FullPolicy.REJECT
    batch_after: int = 16
    """Interactive starts after which the oldest batch task is next."""
    watchdog: Watchdog = Watchdog()


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
    pins_differ: bool = False
    last_error: Cause | None = None
    leases: dict[TaskId, Task] = field(factory=dict)
    starts: int = 0
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
            and not snapshot.draining
            and self.fresh(now)
            and not self.pins_differ
        )

    def see(self, snapshot: Snapshot, now: float) -> None:
        """Take a new snapshot. A cause stays while it tries again, but not "it is out of reach"."""
        self.snapshot, self.live = snapshot, True
        self.fresh_until = now + FRESH_S
        self.refusing = False
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
            draining=snapshot is not None and snapshot.draining,
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
            start_ms=start_ms,
        )


@define(kw_only=True, eq=False)
class Pool:
    """One pool: a set of like replicas, and the tasks that wait for them."""

    spec: PoolSpec = field(on_setattr=bump)
    version: Version = field(factory=Version)
    queue: PoolQueue = field(init=False)
    replicas: dict[ReplicaId, Replica] = field(init=False)
    engine_version: str = ""
    """The version that the set is pinned to: of the first replica that was ready."""
    forecast: Forecast = field(init=False)
    pins: Pins | None = None
    """What the output of the set depends on beside its model: those of the same replica."""
    reload: SetReload | None = None
    """The reload that it is in."""
    configured_ref: str = field(init=False)
    """The model of the configuration; `spec` has the one that is served."""
    settled: bool = False
    """A ready replica has said which model the set serves."""
    moved_at: float | None = None
    """When its waiting tasks were last told their numbers."""

    def __attrs_post_init__(self) -> None:
        self.configured_ref = self.spec.model_ref
        self.queue = PoolQueue(
            self.spec.queue_interactive,
            self.spec.queue_batch,
            shared=self.spec.full_policy is not FullPolicy.REJECT,
            batch_after=self.spec.batch_after,
        )
        self.forecast = Forecast(deadline_ends=self.spec.watchdog.enforce_deadline)
        ids = sorted(self.spec.replica_ids)
        self.replicas = {
            replica_id: Replica(replica_id=replica_id, version=self.version) for replica_id in ids
        }

    def servable(self, now: float) -> list[Replica]:
        """Return the replicas that can be placed on, were a slot free."""
        return [replica for replica in self.replicas.values() if replica.servable(now)]

    def free_masks(self, now: float) -> list[DeviceMask]:
        """Return the masks on which a slot is free: whether it is worth asking placement."""
        return [r.mask for r in self.servable(now) if r.free_slots and not r.refusing]

    def outlook(self, now: float, mask: DeviceMask | None = None) -> list[predict.Slot]:
        """Return the slots of all replicas that can be placed on, or of the one on `mask`."""
        able = [r for r in self.servable(now) if mask is None or r.mask == mask]
        return [slot for replica in able for slot in replica.slots_outlook(self.forecast, now)]

    def predict(
        self, slots: list[predict.Slot], before: Backlog, priority: Priority, now: float
    ) -> Outlook | None:
        """Return when a task of this class starts that may use these slots behind `before`.

        None when there are no slots: nothing serves it now.
        """
        most = self.queue.to_overtake(before.jobs) if priority is Priority.BATCH else 0
        return self.forecast.outlook(slots, before, priority, now, most)

    def ctx(self, now: float) -> int:
        """Return the context that a task can really get: the spec's, or less if engines say so."""
        told = [r.snapshot.ctx_max for r in self.servable(now) if r.snapshot]
        return min(self.spec.ctx, max(told, default=self.spec.ctx))

    def last_error(self) -> Cause | None:
        """Return the last error of a replica that is not ready, or else of any."""
        wrong = [r for r in self.replicas.values() if r.last_error is not None]
        wrong.sort(key=lambda r: r.was_ready)
        return wrong[0].last_error if wrong else None

    def repin(self) -> None:
        """Hold the replicas to one model, sampler profile, engine version and tuning [ORCH-3046].

        The pin is the first ready replica's, and stays while a live replica has it.
        """
        alike = [
            pins_of(replica.snapshot)
            for replica in self.replicas.values()
            if replica.live
            and replica.snapshot
            and replica.snapshot.ready
            and replica.snapshot.model_ref == self.spec.model_ref
        ]
        if alike and self.pins not in alike:
            self.pins = alike[0]
            self.engine_version = alike[0].engine_version
        for replica in self.replicas.values():
            snapshot = replica.snapshot
            replica.pins_differ = snapshot is not None and (
                (snapshot.engine, snapshot.model_ref) != (self.spec.engine, self.spec.model_ref)
                or snapshot.sampler_profile_version != self.spec.sampler_profile_version
                or (snapshot.ready and pins_of(snapshot) != self.pins)
            )
