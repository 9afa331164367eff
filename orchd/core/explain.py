"""What would become of a task that came now: `POST /v1/placement/explain`. Nothing changes.

Admission says whether it would be let in, placement where it would go; this asks both, and over all
pools, so that each of them has its reason.
"""

from __future__ import annotations

from orchd.core import admission, asking, models
from orchd.core.world import World
from orchd.wire.errors import Envelope, OrchError
from orchd.wire.ids import Count
from orchd.wire.shapes import PlacementExplained, PlacementOutcome, TaskRequest


def explain(world: World, request: TaskRequest, now: float) -> PlacementExplained:
    """Return where a task would go, and why there. Works also when nothing is ready.

    Raises OrchError(INVALID_PARAMS) for a task that contradicts itself; one that no pool takes now
    is explained, with what its client would be told. Its prompt is not counted for this.
    """
    admission.check_request(world, request, None)
    refusal: Envelope | None = None
    try:
        request = models.resolved(world, request, now)
        if world.draining:
            raise admission.stopping(world)
        admission.admit(world, request, None, now)
    except OrchError as error:
        refusal = error.envelope()
    decision, _ = admission.settle(world, request, list(world.pools.values()), now)
    pool = world.pools[decision.pool_id] if decision.pool_id is not None else None
    selected = decision.selected
    outcome = PlacementOutcome.REFUSED
    if refusal is None:
        outcome = PlacementOutcome.QUEUED if selected is None else PlacementOutcome.ASSIGNED
    return PlacementExplained(
        outcome=outcome,
        pool_id=decision.pool_id,
        replica_id=selected,
        queue_position=Count(pool.queue.until_tail(request.priority).jobs) if pool else None,
        predicted_start_ms=Count(decision.start_ms) if pool else None,
        predicted_end_ms=None if decision.end_ms is None else Count(decision.end_ms),
        kv_warmth=selected is not None and asking.is_warm(world, request, selected, now),
        refusal=refusal,
        decision=decision.log,
    )
