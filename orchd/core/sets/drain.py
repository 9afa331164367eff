"""A pool is drained on request: what orchd asks of its replicas [OC-CTRL-2002].

The replicas hold the drain themselves, and say so in their snapshots; nothing is kept here.
"""

from __future__ import annotations

from typing import Final

from orchd.core.effects import AskDrain, Effect
from orchd.core.flow import notes
from orchd.core.sets import reload
from orchd.core.state.pool import Pool
from orchd.core.state.world import World
from orchd.wire.control import MAX_DRAIN_MS
from orchd.wire.errors import Kind, OrchError

UNHEARD: Final = 3
"""Snapshots in which a replica need not say yet that it drains: some were sent before it was
asked, and one comes each second. After that the request has failed, which the edge has logged."""


def begin(world: World, pool: Pool, deadline_ms: int) -> list[Effect]:
    """Ask every replica. Raises OrchError: INVALID_PARAMS, RELOAD_UNDER_WAY, POOL_UNREADY."""
    if deadline_ms > MAX_DRAIN_MS:
        raise OrchError(
            Kind.INVALID_PARAMS,
            f"$.deadline_ms: must be at most {MAX_DRAIN_MS} (a day), not {deadline_ms}",
            path="$.deadline_ms",
        )
    reload.refuse_while_under_way(pool)
    live = [replica for replica in pool.replicas.values() if replica.live]
    if not live:
        raise OrchError(
            Kind.POOL_UNREADY,
            f"pool {pool.spec.pool_id} has no replica that answers: there is nothing to drain",
            pool_id=pool.spec.pool_id,
            retry_after_ms=round(world.limits.unready_retry_s * 1000),
        )
    for replica in live:
        replica.drain_unheard = UNHEARD  # nobody is let in, or told that it serves, meanwhile
    running = sum(len(replica.leases) for replica in live)
    return [
        notes.pool_draining(pool, running, deadline_ms),
        *(AskDrain(replica.replica_id, deadline_ms) for replica in live),
    ]
