"""Decisions that were made already, as long as nothing has changed that they are about [ORCH-3410].

Only questions for a slot now are kept: nothing in them depends on the time but freshness. An answer
holds for one version of the topology (version.py: whatever is set on a replica, and each lease, is
a new one) and until the first of its replicas would be stale. Predictions move with the time, so
what is asked at admission is decided anew.
"""

from __future__ import annotations

import math
from typing import Final

from orchd.core.placing.facts import Question
from orchd.core.placing.placement import PlacementDecision, PlacementInput, decide
from orchd.core.state.pool import Pool
from orchd.wire.ids import PoolId

MOST: Final = 64
"""Answers for one version: questions differ in their sizes and sessions, and a version lives for a
heartbeat at the longest."""


class Decisions:
    """A bounded memory of one version."""

    def __init__(self) -> None:
        self._version = -1
        self._known: dict[tuple[PoolId, Question], tuple[float, PlacementDecision]] = {}

    def for_slot(self, pool: Pool, question: Question, now: float) -> PlacementDecision:
        """Return what `decide` says of a pool's replicas now."""
        version = pool.version.number
        if version != self._version or len(self._known) >= MOST:
            self._known.clear()
            self._version = version
        key = (pool.spec.pool_id, question)
        until, decision = self._known.get(key, (-math.inf, None))
        if decision is None or now >= until:
            decision = decide(for_slot(pool, question, now))
            fresh = [r.fresh_until for r in pool.replicas.values() if r.fresh(now)]
            self._known[key] = min(fresh, default=math.inf), decision
        return decision


def for_slot(pool: Pool, question: Question, now: float) -> PlacementInput:
    """Return the question for a slot of this pool, with its replicas as they are."""
    return PlacementInput(
        question=question,
        replicas=tuple(replica.facts(pool.spec, now) for replica in pool.replicas.values()),
        snapshot_version=pool.version.number,
    )
