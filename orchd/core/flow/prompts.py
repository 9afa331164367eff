"""Which replica counts the texts of a task before it is admitted, or a client's text.

Pure questions to the state; the edge asks the replica (edge/tokens.py), and admission.py refuses a
text that is too long. Which texts are counted is workloads.py's.
"""

from __future__ import annotations

from orchd.core.flow import admission, gates, turns
from orchd.core.limits import workloads
from orchd.core.state import models
from orchd.core.state.replica import Replica
from orchd.core.state.world import World
from orchd.wire.control import MAX_TEXT_BYTES
from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import ReplicaId
from orchd.wire.shapes import TaskRequest


def counted_by(world: World, request: TaskRequest, identity: str, now: float) -> ReplicaId | None:
    """Return the replica that is to count the texts; None: they need not, or cannot, be counted.

    They are to be where `ctx` or the budget of the session hangs on them. Nothing is asked for a
    task that is known already or would be refused anyhow.
    """
    texts = workloads.to_count(request)
    if not texts and (request.prompt is None or not world.limits.budget.on_prompts):
        return None
    parts = [part for text in texts for part in text.parts] or [request.prompt or ""]
    if request.task_id in world.tasks or any(len(p.encode()) > MAX_TEXT_BYTES for p in parts):
        return None
    try:
        request = gates.passed(world, request, identity, None, now)
        if not texts and not turns.tight(world, request, now):
            return None
        admitted = admission.admit(world, request, None, now)
    except OrchError:
        return None  # Submit says it
    return _idlest(admitted.pool.servable(now))


def tokenized_by(world: World, model_ref: str, now: float) -> ReplicaId:
    """Return a replica that serves the model now. Raises OrchError(UNKNOWN_NAME, POOL_UNREADY)."""
    model_ref = models.reference(world, model_ref)
    pools = [pool for pool in world.pools.values() if pool.spec.model_ref == model_ref]
    if not pools:
        served = ", ".join(sorted({model for _, model in world.serving})) or "nothing"
        raise OrchError(
            Kind.UNKNOWN_NAME,
            f"$.model_ref: no pool serves {model_ref} (served: {served})",
            path="$.model_ref",
        )
    ready = [replica for pool in pools for replica in pool.servable(now)]
    if not ready:
        raise admission.unready(world, pools[0], now)
    return _idlest(ready)


def _idlest(replicas: list[Replica]) -> ReplicaId:
    return min(replicas, key=lambda r: (len(r.leases), r.replica_id)).replica_id
