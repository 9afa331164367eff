"""What is put to placement: the question of a task, and the replicas with what is predicted there.

Pure questions to the state. The answer is placement.py's; a task that is refused is told why by
admission.py.
"""

from __future__ import annotations

from collections.abc import Iterable

from attrs import frozen

from orchd.core.flow import full, reach, shedding
from orchd.core.given import wishes
from orchd.core.placing.facts import Question, ReplicaFacts
from orchd.core.placing.placement import PlacementInput
from orchd.core.queues.fifo import NOTHING
from orchd.core.state.forecast import NOW, Outlook
from orchd.core.state.pool import Pool
from orchd.core.state.task import expected_tokens
from orchd.core.state.world import World
from orchd.wire.ids import PoolId, ReplicaId, TaskId
from orchd.wire.shapes import Determinism, KvHint, TaskRequest, Workload


def question(world: World, request: TaskRequest, now: float, *, may_wait: bool) -> Question:
    """Return what is asked of placement for a task."""
    return Question(
        engine=request.engine,
        model_ref=request.model_ref,
        workload=request.workload,
        ctx=request.ctx,
        max_tokens=request.max_tokens if request.workload is Workload.COMPLETION else 1,
        vectors=len(request.inputs or ()) if request.workload is Workload.EMBEDDING else 0,
        expected_tokens=expected_tokens(request),
        strict=request.determinism is Determinism.STRICT,
        sampler_profile_version=request.sampler_profile_version,
        wishes=wishes.of(request),
        warm_on=warm_on(world, request, now),
        may_wait=may_wait,
    )


def warm_on(world: World, request: TaskRequest, now: float) -> ReplicaId | None:
    """Return the replica that the task's session is drawn to, or None."""
    if request.kv_hint is KvHint.COLD or request.workload is not Workload.COMPLETION:
        return None
    return world.affinity.last(request.session_id, now)


def is_warm(world: World, request: TaskRequest, replica_id: ReplicaId, now: float) -> bool:
    """Return whether this replica has the session's KV cache, as far as is known, and will use it.

    A strict job never reads a cache: what is left of another job changes its bytes [ORCH-3045].
    """
    return (
        request.determinism is Determinism.BEST_EFFORT
        and warm_on(world, request, now) == replica_id
        and world.sessions.held_by(request.session_id, replica_id, world.replica(replica_id).starts)
    )


@frozen
class Option:
    """How a pool would take a task."""

    outlook: Outlook | None
    """None: no replica of it can be placed on."""
    victim: TaskId | None
    """The waiting batch task that would make room."""


def at_admission(
    world: World, request: TaskRequest, pools: Iterable[Pool], now: float, *, dropping: bool = False
) -> tuple[PlacementInput, dict[PoolId, Option]]:
    """Return the question of a task that may wait, and how each pool would take it.

    `dropping`: a pool without room counts when its policy drops another task for this one.
    """
    facts: list[ReplicaFacts] = []
    options: dict[PoolId, Option] = {}
    for pool in pools:
        shed = shedding.sheds(pool, request, now)
        room = pool.queue.room(request.priority)
        victim = full.victim(pool, request.priority) if dropping and not room else None
        before, outlook = NOTHING, NOW if reach.at_once(pool, request, now) else None
        if outlook is None:
            slots, before = reach.at_tail(pool, request, now, victim)
            outlook = pool.predict(slots, before, request.priority, now)
        options[pool.spec.pool_id] = Option(outlook, victim)
        start_ms = 1 if outlook is None else max(1, round(outlook.prediction.start_s * 1000))
        for replica in pool.replicas.values():
            at_once = not before.jobs and replica.free_slots and not replica.refusing
            facts.append(
                replica.facts(
                    pool.spec,
                    now,
                    waiting=before.jobs,
                    full=not room and victim is None,
                    shedding=shed,
                    start_ms=0 if at_once else start_ms,
                )
            )
    asked = question(world, request, now, may_wait=True)
    version = world.version.number
    return PlacementInput(question=asked, replicas=tuple(facts), snapshot_version=version), options
