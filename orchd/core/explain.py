"""What would become of a task that came now: `POST /v1/placement/explain`. Nothing changes.

Admission says whether it would be let in, placement where it would go; this asks both, and over all
pools, so that each of them has its reason.
"""

from __future__ import annotations

from contextlib import suppress

from orchd.core.flow import admission, asking, gates, turns
from orchd.core.state import models
from orchd.core.state.world import World
from orchd.wire.errors import Envelope, OrchError
from orchd.wire.ids import Count
from orchd.wire.shapes import PlacementExplained, PlacementOutcome, TaskRequest


def explain(world: World, request: TaskRequest, identity: str, now: float) -> PlacementExplained:
    """Return where a task would go, and why there. Works also when nothing is ready.

    Raises OrchError(INVALID_PARAMS) for a task that contradicts itself; one that no pool takes now
    is explained, with what its client would be told. Its prompt is not counted for this: where a
    budget hangs on it, it is taken to fit.
    """
    admission.check_request(world, request, None)
    refusal = _refusal(world, request, identity, now)
    with suppress(OrchError):  # who is stopped by the catalog is told where the name itself leads
        request = models.resolved(world, request, now)
    decision, options = admission.settle(world, request, list(world.pools.values()), now)
    selected, pool_id = decision.selected, decision.pool_id
    outcome = PlacementOutcome.REFUSED
    if refusal is None:
        outcome = PlacementOutcome.QUEUED if selected is None else PlacementOutcome.ASSIGNED
    position = None
    if pool_id is not None:
        queue, leaves = world.pools[pool_id].queue, options[pool_id].victim
        position = Count(queue.until_tail(request.priority, leaves).jobs if not selected else 0)
    return PlacementExplained(
        outcome=outcome,
        pool_id=pool_id,
        replica_id=selected,
        queue_position=position,
        predicted_start_ms=None if pool_id is None else Count(decision.start_ms),
        predicted_end_ms=None if decision.end_ms is None else Count(decision.end_ms),
        kv_warmth=selected is not None and asking.is_warm(world, request, selected, now),
        refusal=refusal,
        decision=decision.log,
    )


def _refusal(world: World, request: TaskRequest, identity: str, now: float) -> Envelope | None:
    """Return what Submit would refuse the task with, or None."""
    try:
        request = gates.passed(world, request, identity, None, now)
        pool = admission.admit(world, request, None, now).pool
        tokens = 0 if turns.tight(world, request, now) else None
        turns.let_in(world, request, pool, tokens, now)
    except OrchError as error:
        return error.envelope()
    return None
