"""Which replica runs a task: one pure function, and the log of why [ORCH-3900, ORCH-3906].

Feasibility comes first, with a reason for every replica that is left out; then one order decides.
When to ask is front.py's business; no state is kept here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from attrs import frozen

from orchd.wire.ids import Count, EngineId, PoolId, ReplicaId
from orchd.wire.shapes import Candidate, DecisionLog, Workload


@frozen(kw_only=True)
class ReplicaFacts:
    """What placement may know of one replica."""

    replica_id: ReplicaId
    pool_id: PoolId
    engine: EngineId
    model_ref: str
    ready: bool
    draining: bool
    fresh: bool
    """Its last snapshot is not older than snapshot.FRESH_S [ORCH-3971]."""
    refusing: bool
    """It turned a job away since its last snapshot."""
    pins_differ: bool
    """Its engine_version or sampler_profile_version is not its set's [ORCH-3046]."""
    ctx_max: int
    workloads: tuple[Workload, ...]
    slots_total: int
    leases: int
    """Slots that orchd has given away: cancelled jobs count until their slot is free."""
    vram_free_bytes: int


@frozen(kw_only=True)
class PlacementInput:
    """The question: one task, and the replicas of the pools that may serve it."""

    engine: EngineId
    model_ref: str
    workload: Workload
    ctx: int
    replicas: tuple[ReplicaFacts, ...]
    snapshot_version: int
    """Of the topology: grows with every snapshot that came in [ORCH-3410]."""


@frozen(kw_only=True)
class PlacementDecision:
    """The answer. `selected` is None when no replica is feasible now."""

    selected: ReplicaId | None
    pool_id: PoolId | None
    log: DecisionLog


Check = Callable[[ReplicaFacts, PlacementInput], bool]

FILTERS: Final[tuple[tuple[str, Check], ...]] = (
    ("engine_mismatch", lambda r, i: r.engine != i.engine),
    ("model_mismatch", lambda r, i: r.model_ref != i.model_ref),
    ("not_ready", lambda r, _: not r.ready),
    ("draining", lambda r, _: r.draining),
    ("stale", lambda r, _: not r.fresh),
    ("pins_differ", lambda r, _: r.pins_differ),
    ("ctx", lambda r, i: r.ctx_max < i.ctx),
    ("workload", lambda r, i: i.workload not in r.workloads),
    ("refusing", lambda r, _: r.refusing),
    ("no_slot", lambda r, _: r.leases >= r.slots_total),
)
"""In this order; the first that hits is the reason that the log gives. A mask needs no filter: a
replica is one mask, and only its own poolmgr touches it [ORCH-3011]."""

TIE_BREAKERS: Final[tuple[tuple[str, Callable[[ReplicaFacts], int | str]], ...]] = (
    ("vram_free_bytes_desc", lambda r: -r.vram_free_bytes),
    ("active_slots_asc", lambda r: r.leases),
    ("replica_id_asc", lambda r: r.replica_id),
)
"""The order among the feasible [ORCH-3012, HME-010]."""

_FILTER_NAMES: Final = tuple(name for name, _ in FILTERS)


def why_not(replica: ReplicaFacts, wanted: PlacementInput) -> str | None:
    """Return why a replica cannot take the task now, or None when it can."""
    return next((name for name, hits in FILTERS if hits(replica, wanted)), None)


def sort_key(replica: ReplicaFacts) -> tuple[int | str, ...]:
    """Return what feasible replicas are sorted by, ascending."""
    return tuple(key(replica) for _, key in TIE_BREAKERS)


def decide(wanted: PlacementInput) -> PlacementDecision:
    """Return where the task runs. The same input gives the same answer [ORCH-3905]."""
    considered = []
    feasible = []
    for replica in sorted(wanted.replicas, key=lambda r: r.replica_id):
        reason = why_not(replica, wanted)
        if reason is None:
            feasible.append(replica)
        considered.append(
            Candidate(
                replica_id=replica.replica_id,
                excluded=reason,
                vram_free_bytes=Count(replica.vram_free_bytes),
                active_slots=Count(replica.leases),
            )
        )
    best = min(feasible, key=sort_key, default=None)
    return PlacementDecision(
        selected=best.replica_id if best else None,
        pool_id=best.pool_id if best else None,
        log=DecisionLog(
            selected=best.replica_id if best else None,
            considered=tuple(considered),
            filters_applied=_FILTER_NAMES,
            tie_breakers_applied=_ties(feasible),
            snapshot_version=Count(wanted.snapshot_version),
        ),
    )


def _ties(feasible: list[ReplicaFacts]) -> tuple[str, ...]:
    """Return the tie-breakers that were needed until one replica was left."""
    used = []
    for name, key in TIE_BREAKERS:
        if len(feasible) < 2:
            break
        best = min(key(replica) for replica in feasible)
        feasible = [replica for replica in feasible if key(replica) == best]
        used.append(name)
    return tuple(used)
