"""Which replica runs a task: one pure function, and the log of why [ORCH-3900, ORCH-3906].

Feasibility comes first, with a reason for every replica that is left out; then the client's wishes;
then one order decides. What is asked is put together in asking.py; no state is kept here.

Two orders meet [ORCH-3012, ORCH-3902]. Within a set (a pool) it is free VRAM, active slots, id: its
replicas are alike, and that is what tells them apart. Each set sends its first, and among these the
earliest predicted end wins. A session's own replica goes before both while it is not much worse.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from attrs import field, frozen

from orchd.wire.ids import Count, DeviceMask, EngineId, PoolId, ReplicaId
from orchd.wire.results import MAX_NUMBERS
from orchd.wire.shapes import Candidate, DecisionLog, Placement, PlacementMode, Workload

MUCH_WORSE: Final = 1.25
"""A session leaves its replica for one that ends its task in less than 1/1.25 of the time. A prior:
what a warm cache saves is the prompt, and how long that would take is not known here."""

NO_CAPACITY: Final = "no_capacity"
PINNED_INFEASIBLE: Final = "pinned_pool_infeasible"
NO_PREFERRED: Final = "no_preferred_feasible"
"""Why a decision has no pool."""

AVOIDED: Final = "avoided"
NOT_PINNED: Final = "not_pinned"
NOT_PREFERRED: Final = "not_preferred"
DEVICE_MASK: Final = "device_mask"
KV_BYTES: Final = "kv_bytes"
QUEUE_FULL: Final = "queue_full"
SHEDDING: Final = "shedding"
"""Why a replica is left out, where admission has more to say of it."""


@frozen(kw_only=True)
class ReplicaFacts:
    """What placement may know of one replica. None: it cannot be seen, and is not guessed."""

    replica_id: ReplicaId
    pool_id: PoolId
    device_mask: DeviceMask
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
    max_tokens: int
    sampler_profile_version: str
    workloads: tuple[Workload, ...]
    embedding_dim: int | None = None
    """Numbers of one vector; None: it serves none."""
    strict: bool
    slots_total: int
    leases: int
    """Slots that orchd has given away: cancelled jobs count until their slot is free."""
    vram_free_bytes: int | None
    kv_bytes_per_token: int | None
    """None: the cache was reserved when the model was loaded, or cannot be seen."""
    tokens_per_s: float | None
    """Of one slot, measured; None until a job has run."""
    first_token_ms: float | None
    waiting: int = 0
    """Tasks of its pool that go before this one."""
    shedding: bool = False
    """Its pool refuses the task because it is too slow (shedding.py)."""
    full: bool = False
    """As many wait in its pool as may."""
    start_ms: int = 0
    """When this task would start here; 0: a slot is free and nobody is before it."""


@frozen(kw_only=True)
class Question:
    """What is asked of placement: a task, less what has no say in where it runs."""

    engine: EngineId
    model_ref: str
    workload: Workload
    ctx: int
    max_tokens: int
    expected_tokens: int
    strict: bool
    sampler_profile_version: str | None
    wishes: Placement
    warm_on: ReplicaId | None
    """The session's last good replica (affinity.py)."""
    vectors: int = 0
    """Vectors that an embedding gives back."""
    may_wait: bool
    """True at admission: a task may wait for a slot. False: it gets one now."""


@frozen(kw_only=True)
class PlacementInput:
    """The question, and the replicas it is about."""

    question: Question
    replicas: tuple[ReplicaFacts, ...]
    snapshot_version: int
    """Of the topology (version.py) [ORCH-3410]."""


@frozen(kw_only=True)
class PlacementDecision:
    """The answer."""

    selected: ReplicaId | None
    """None: it has to wait, or no replica is feasible."""
    pool_id: PoolId | None
    """None: no replica is feasible, for the reason in the log."""
    start_ms: int = field(default=0)
    end_ms: int | None = field(default=None)
    """When it would be over there, in ms from now; None: nothing is measured yet."""
    log: DecisionLog


Check = Callable[[ReplicaFacts, Question], bool]


def _kv_short(replica: ReplicaFacts, asked: Question) -> bool:
    each, free = replica.kv_bytes_per_token, replica.vram_free_bytes
    return each is not None and free is not None and each * asked.ctx > free


FILTERS: Final[tuple[tuple[str, Check], ...]] = (
    (AVOIDED, lambda r, q: r.pool_id in q.wishes.avoid_pools),
    (NOT_PINNED, lambda r, q: _pinned(q) and r.pool_id != q.wishes.pin_pool_id),
    ("engine_mismatch", lambda r, q: r.engine != q.engine),
    ("model_mismatch", lambda r, q: r.model_ref != q.model_ref),
    (DEVICE_MASK, lambda r, q: q.wishes.require_device_mask not in (None, r.device_mask)),
    ("draining", lambda r, _: r.draining),
    ("not_ready", lambda r, _: not r.ready),
    ("stale", lambda r, _: not r.fresh),
    ("pins_differ", lambda r, _: r.pins_differ),
    ("ctx", lambda r, q: r.ctx_max < q.ctx),
    ("max_tokens", lambda r, q: r.max_tokens < q.max_tokens),
    (
        "sampler_profile",
        lambda r, q: q.sampler_profile_version not in (None, r.sampler_profile_version),
    ),
    ("workload", lambda r, q: q.workload not in r.workloads),
    ("vectors", lambda r, q: q.vectors * (r.embedding_dim or 0) > MAX_NUMBERS),
    ("not_strict", lambda r, q: q.strict and not r.strict),
    (KV_BYTES, _kv_short),
    (SHEDDING, lambda r, q: r.shedding and q.may_wait),
    (QUEUE_FULL, lambda r, q: r.full and q.may_wait),
    ("refusing", lambda r, q: r.refusing and not q.may_wait),
    ("no_slot", lambda r, q: r.leases >= r.slots_total and not q.may_wait),
)
"""In this order; the first that hits is the reason that the log gives. A replica is one mask, and
only its own poolmgr touches it [ORCH-3011]: the filter is for a client that requires one."""
_FILTER_NAMES: Final = (*(name for name, _ in FILTERS), NOT_PREFERRED)

Order = tuple[tuple[str, Callable[[ReplicaFacts], int | float | str]], ...]

WITHIN_A_SET: Final[Order] = (
    ("predicted_start_ms_asc", lambda r: r.start_ms),
    ("vram_free_bytes_desc", lambda r: -(r.vram_free_bytes or 0)),
    ("active_slots_asc", lambda r: r.leases),
    ("replica_id_asc", lambda r: r.replica_id),
)
"""[ORCH-3012, HME-010]. The start differs only where one has a free slot and another has not."""
UNMEASURED: Final[Order] = (
    ("load_asc", lambda r: (r.leases + r.waiting) / max(1, r.slots_total)),
    ("vram_free_bytes_desc", lambda r: -(r.vram_free_bytes or 0)),
    ("tokens_per_s_desc", lambda r: -(r.tokens_per_s or 0.0)),
    ("replica_id_asc", lambda r: r.replica_id),
)
"""Among sets, while one of them has not measured itself [ORCH-3902]."""
AFFINITY: Final = "session_affinity"


def why_not(replica: ReplicaFacts, asked: Question) -> str | None:
    """Return why a replica cannot take the task, whatever the others are; None when it can."""
    for name, hits in FILTERS:
        if hits(replica, asked):
            return name
    return None


def end_ms(replica: ReplicaFacts, asked: Question) -> int | None:
    """Return when the task would be over here, in ms from now; None without a measured rate."""
    if not replica.tokens_per_s:
        return None
    decode_ms = asked.expected_tokens * 1000 / replica.tokens_per_s
    return round(replica.start_ms + (replica.first_token_ms or 0.0) + decode_ms)


def decide(given: PlacementInput) -> PlacementDecision:
    """Return where the task runs, or waits. The same input gives the same answer [ORCH-3905]."""
    asked = given.question
    reasons: dict[ReplicaId, str | None] = {}
    feasible: list[ReplicaFacts] = []
    ordered = sorted(given.replicas, key=lambda r: r.replica_id)
    for replica in ordered:
        reason = reasons[replica.replica_id] = why_not(replica, asked)
        if reason is None:
            feasible.append(replica)
    fallback, refusal = False, None
    if feasible and asked.wishes.mode is PlacementMode.PREFER:
        preferred = [r for r in feasible if r.pool_id in asked.wishes.prefer_pools]
        if preferred or not asked.wishes.allow_fallback:
            others = (r.replica_id for r in feasible if r not in preferred)
            reasons.update(dict.fromkeys(others, NOT_PREFERRED))
            feasible = preferred
        else:
            fallback = True
    if not feasible:
        refusal = _refusal(asked)
    best, needed = _best(feasible, asked) if feasible else (None, ())
    selected = best.replica_id if best is not None and not best.start_ms else None
    pool_id = best.pool_id if best is not None else None
    return PlacementDecision(
        selected=selected,
        pool_id=pool_id,
        start_ms=best.start_ms if best is not None else 0,
        end_ms=end_ms(best, asked) if best is not None else None,
        log=DecisionLog(
            selected=selected,
            pool_id=pool_id,
            reason=refusal,
            considered=tuple(_candidate(r, reasons[r.replica_id], asked) for r in ordered),
            filters_applied=_FILTER_NAMES,
            tie_breakers_applied=needed,
            pinned=_pinned(asked),
            fallback_used=fallback,
            snapshot_version=Count(given.snapshot_version),
        ),
    )


def _pinned(asked: Question) -> bool:
    return asked.wishes.mode is PlacementMode.PIN


def _refusal(asked: Question) -> str:
    """Return why nobody takes it: by the contract's names where a wish is the cause."""
    if _pinned(asked):
        return PINNED_INFEASIBLE
    if asked.wishes.mode is PlacementMode.PREFER and not asked.wishes.allow_fallback:
        return NO_PREFERRED
    return NO_CAPACITY


def _candidate(replica: ReplicaFacts, reason: str | None, asked: Question) -> Candidate:
    ends = end_ms(replica, asked) if reason is None else None
    return Candidate(
        replica_id=replica.replica_id,
        pool_id=replica.pool_id,
        excluded=reason,
        vram_free_bytes=None if replica.vram_free_bytes is None else Count(replica.vram_free_bytes),
        active_slots=Count(replica.leases),
        predicted_start_ms=Count(replica.start_ms) if reason is None else None,
        predicted_end_ms=None if ends is None else Count(ends),
    )


def _best(feasible: list[ReplicaFacts], asked: Question) -> tuple[ReplicaFacts, tuple[str, ...]]:
    """Return the one that takes the task, and the tie-breakers that were needed to find it."""
    if len(feasible) == 1:
        return feasible[0], ()
    sets: dict[PoolId, list[ReplicaFacts]] = {}
    for replica in feasible:
        sets.setdefault(replica.pool_id, []).append(replica)
    firsts: list[ReplicaFacts] = []
    needed: dict[PoolId, tuple[str, ...]] = {}
    for pool_id, members in sets.items():
        first, needed[pool_id] = _narrow(members, WITHIN_A_SET)
        firsts.append(first)
    best, used = _narrow(firsts, _between(asked, firsts))
    warm = next((r for r in feasible if r.replica_id == asked.warm_on), None)
    if warm is not None and _worth(warm, best, asked):
        return warm, (AFFINITY,)
    return best, tuple(dict.fromkeys((*needed[best.pool_id], *used)))


def _between(asked: Question, firsts: list[ReplicaFacts]) -> Order:
    """Return the order among the first of each set."""
    ends = {r.replica_id: end_ms(r, asked) for r in firsts}
    known = {replica_id: end for replica_id, end in ends.items() if end is not None}
    if len(known) < len(ends):
        return UNMEASURED
    return (("predicted_end_ms_asc", lambda r: known[r.replica_id]), *UNMEASURED)


def _worth(warm: ReplicaFacts, best: ReplicaFacts, asked: Question) -> bool:
    """Return whether a session stays on its replica, though `best` is the first of the order."""
    here, there = end_ms(warm, asked), end_ms(best, asked)
    if here is None or there is None:
        return not warm.start_ms or bool(best.start_ms)
    return here <= there * MUCH_WORSE


def _narrow(feasible: Sequence[ReplicaFacts], order: Order) -> tuple[ReplicaFacts, tuple[str, ...]]:
    """Return the first in an order, and the names of the keys that were needed to find it."""
    used = []
    for name, key in order:
        if len(feasible) == 1:
            break
        keys = [key(replica) for replica in feasible]
        least = min(keys)
        left = [r for r, own in zip(feasible, keys, strict=True) if own == least]
        if len(left) < len(feasible) or name != "predicted_start_ms_asc":
            used.append(name)
        feasible = left
    return feasible[0], tuple(used)
