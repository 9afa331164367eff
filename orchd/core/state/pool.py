"""One pool as orchd sees it: its set of replicas, its queue, and what it has learned.

What was configured is spec.py's, what one replica is, replica.py's; queues are in queue.py, the
choice among replicas in placement.py.
"""

from __future__ import annotations

from attrs import define, field

from orchd.core.given.spec import PoolSpec
from orchd.core.learning import predict
from orchd.core.queues.fifo import Backlog
from orchd.core.queues.queue import PoolQueue
from orchd.core.state.forecast import Forecast, Outlook
from orchd.core.state.reloading import SetReload
from orchd.core.state.replica import Pins, Replica, pins_of
from orchd.core.state.slo import Breaker
from orchd.core.state.version import Version, bump
from orchd.wire.ids import DeviceMask, ReplicaId
from orchd.wire.policy import FullPolicy
from orchd.wire.shapes import Priority
from orchd.wire.snapshot import Cause


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
    breaker: Breaker = field(init=False)
    """Sheds load while the pool is slower than it promises."""
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
        self.breaker = Breaker(self.spec.slo)
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
