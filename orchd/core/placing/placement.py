"""Which replica runs a task: one pure function, and the log of why [ORCH-3900, ORCH-3906].

Feasibility comes first, with a reason for every replica that is left out (filters.py); then the
client's wishes; then one order decides. What is asked (facts.py) is put together in asking.py; no
state is kept here.

Two orders meet [ORCH-3012, ORCH-3902]. Within a set (a pool) it is free VRAM, active slots, id: its
replicas are alike, and that is what tells them apart. Each set sends its first, and among these the
earliest predicted end wins. A session's own replica goes before both while it is not much worse.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from attrs import field, frozen

from orchd.core.placing.facts import Question, ReplicaFacts
from orchd.core.placing.filters import FILTER_NAMES, NOT_PREFERRED, why_not
from orchd.wire.ids import Count, PoolId, ReplicaId
from orchd.wire.shapes import Candidate, DecisionLog, PlacementMode

MUCH_WORSE: Final = 1.25
"""A session leaves its replica for one that ends its task in less than 1/1.25 of the time. A prior:
what a warm cache saves is the prompt, and how long that would take is not known here."""

NO_CAPACITY: Final = "no_capacity"
PINNED_INFEASIBLE: Final = "pinned_pool_infeasible"
NO_PREFERRED: Final = "no_preferred_feasible"
"""Why a decision has no pool."""


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
            filters_applied=FILTER_NAMES,
            tie_breakers_applied=needed,
            pinned=asked.pinned,
            fallback_used=fallback,
            snapshot_version=Count(given.snapshot_version),
        ),
    )


def _refusal(asked: Question) -> str:
    """Return why nobody takes it: by the contract's names where a wish is the cause."""
    if asked.pinned:
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
