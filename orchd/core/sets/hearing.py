"""What is heard of replicas: snapshots, links that break, and who can be placed on since then."""

from __future__ import annotations

from orchd.core.effects import Effect
from orchd.core.events import ReplicaLost, ReplicaSeen
from orchd.core.flow import admission, notes, runs
from orchd.core.flow.telling import tell
from orchd.core.sets import reload
from orchd.core.state.pool import Pool
from orchd.core.state.world import World
from orchd.wire.errors import OrchError
from orchd.wire.ids import ReplicaId
from orchd.wire.snapshot import Cause


def seen(world: World, event: ReplicaSeen, now: float) -> list[Effect]:
    """A snapshot came."""
    snapshot = event.snapshot
    pool = world.home[snapshot.replica_id]
    replica = pool.replicas[snapshot.replica_id]
    world.tally.snapshot(replica.snapshot, snapshot)
    replica.see(snapshot, now)
    world.timers.set(("fresh", replica.replica_id), replica.fresh_until)
    effects = reload.seen(world, pool, replica, now) + readiness(world, pool, now)
    return effects + runs.fill(world, pool, now) + tell(world, pool, now)


def lost(world: World, event: ReplicaLost, now: float) -> list[Effect]:
    """A link broke: none of its jobs will be heard of again."""
    pool = world.home[event.replica_id]
    replica = pool.replicas[event.replica_id]
    replica.lose(event.cause)
    world.timers.drop(("fresh", replica.replica_id))
    effects = runs.lost(world, replica, now)
    effects += reload.lost(world, pool, replica, event.cause, now) + readiness(world, pool, now)
    return effects + runs.fill(world, pool, now) + tell(world, pool, now)


def reload_refused(
    world: World, replica_id: ReplicaId, error: OrchError, now: float
) -> list[Effect]:
    """A replica did not take what a reload asked of it."""
    pool = world.home[replica_id]
    cause = Cause(kind=error.kind, message=error.message, advice=error.row.advice)
    pool.replicas[replica_id].last_error = cause
    effects = reload.lost(world, pool, pool.replicas[replica_id], cause, now)
    effects += readiness(world, pool, now)
    return effects + runs.fill(world, pool, now) + tell(world, pool, now)


def readiness(world: World, pool: Pool, now: float) -> list[Effect]:
    """Note every replica of the pool that came or went for placement."""
    pool.repin()
    effects: list[Effect] = []
    for replica in pool.replicas.values():
        servable = replica.servable(now)
        if servable != replica.was_ready:
            replica.was_ready = servable
            if not servable:
                world.affinity.cooled(replica.replica_id)
            if servable:
                effects.append(notes.ready(pool, replica))
            else:
                why = admission.why_replica(replica, now)
                effects.append(notes.unready(pool, replica, why))
    return effects
