"""Whether a task is let in, and into which pool: every reason to refuse it before it is queued.

Pure questions to the state; incoming.py enqueues. Each refusal is an OrchError with the field at
fault, or with the time after which asking again is worth it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

from attrs import frozen

from orchd.core.flow import asking, full, shedding
from orchd.core.given import wishes
from orchd.core.given.spec import PoolSpec
from orchd.core.limits import workloads
from orchd.core.limits.workloads import Longest
from orchd.core.placing import filters, placement
from orchd.core.placing.placement import PlacementDecision, decide
from orchd.core.queues.fifo import NOTHING, Backlog
from orchd.core.state.forecast import Outlook
from orchd.core.state.pool import Pool
from orchd.core.state.replica import Replica
from orchd.core.state.world import World
from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import DeviceMask, PoolId, ReplicaId, TaskId
from orchd.wire.shapes import DecisionLog, Determinism, Priority, TaskRequest, Workload

BUSY: Final = 429
NO_WAY: Final = {
    placement.PINNED_INFEASIBLE: Kind.PINNED_POOL_INFEASIBLE,
    placement.NO_PREFERRED: Kind.NO_PREFERRED_FEASIBLE,
}
"""Reason of a decision -> what its client is told, where a wish is the cause."""


@frozen
class Admission:
    """A task may go into this pool's queue, and will start then."""

    pool: Pool
    outlook: Outlook
    decision: PlacementDecision
    victim: TaskId | None = None
    """The waiting batch task that makes room for it."""


def admit(
    world: World,
    request: TaskRequest,
    prompt_tokens: int | None,
    now: float,
    longest: Longest | None = None,
) -> Admission:
    """Return the pool that takes the task. Raises OrchError when none does.

    The checks go from what the client can mend (400), over what is not there (503), to what is full
    now (429) and what comes too late (DEADLINE_UNMET).
    """
    check_request(world, request, prompt_tokens, longest)
    chosen = _choose(world, request, now)
    start_ms = round(chosen.outlook.prediction.start_s * 1000)
    if start_ms > request.deadline_ms:
        raise OrchError(
            Kind.DEADLINE_UNMET,
            f"it would start in about {start_ms} ms, past its deadline of {request.deadline_ms} ms",
            path="$.deadline_ms",
            engine=request.engine,
            pool_id=chosen.pool.spec.pool_id,
            retry_after_ms=start_ms - request.deadline_ms,
        )
    if chosen.decision.selected is None:
        next_ms = _wait_ms(chosen.pool, NOTHING, request.priority, now)
        full.check_memory(world, chosen.pool, request, chosen.victim, next_ms)
    return chosen


def _choose(world: World, request: TaskRequest, now: float) -> Admission:
    """Return the pool that placement takes: of a free slot, or where the task waits."""
    pools = world.serving.get((request.engine, request.model_ref), [])
    decision, options = settle(world, request, pools, now)
    if decision.pool_id is None:
        raise _refusal(world, request, pools, decision.log, now)
    option = options[decision.pool_id]
    assert option.outlook is not None  # a replica that can be placed on has slots
    pool = world.pools[decision.pool_id]
    return Admission(pool, option.outlook, decision, option.victim)


def settle(
    world: World, request: TaskRequest, pools: Iterable[Pool], now: float
) -> tuple[PlacementDecision, dict[PoolId, asking.Option]]:
    """Ask placement; and once more with what policies would drop, where there is no room."""
    given, options = asking.at_admission(world, request, pools, now)
    decision = decide(given)
    if decision.pool_id is None and any(replica.full for replica in given.replicas):
        given, options = asking.at_admission(world, request, pools, now, dropping=True)
        decision = decide(given)
    return decision, options


def _refusal(
    world: World, request: TaskRequest, pools: list[Pool], log: DecisionLog, now: float
) -> OrchError:
    """Return why placement found no pool, in words; a wish that is the cause names itself."""
    error = _why_none(world, request, pools, log, now)
    kind = NO_WAY.get(log.reason or "")
    if kind is None or error.row.status == BUSY:
        return error
    named = OrchError(kind, f"{kind}: {error.message}")
    named.fields = error.fields
    return named


def _why_none(
    world: World, request: TaskRequest, pools: list[Pool], log: DecisionLog, now: float
) -> OrchError:
    asked = [pool for pool in pools if _wanted(pool, request)]
    if not asked:
        return _unavailable(world, request)
    said = {(candidate.pool_id, candidate.excluded) for candidate in log.considered}
    packed = [p for p in asked if (p.spec.pool_id, filters.QUEUE_FULL) in said]
    if packed:
        return _full(request, packed, now)
    slow = [p for p in asked if (p.spec.pool_id, filters.SHEDDING) in said]
    if slow:
        first = min(slow, key=lambda p: shedding.retry_after_ms(p, now))
        return shedding.refusal(first, request, now)
    misfits = [_misfit(pool, request, now) for pool in asked]
    if None not in misfits:
        return next(error for error in misfits if error is not None)
    short = [c.replica_id for c in log.considered if c.excluded == filters.KV_BYTES]
    short = [one for one in short if world.home[one] in asked]
    if short:
        return _kv_short(world, request, short)
    return unready(world, asked[misfits.index(None)], now, wishes.mask_of(request))


def _wanted(pool: Pool, request: TaskRequest) -> bool:
    """Return whether the client's wishes leave this pool."""
    mask = wishes.mask_of(request)
    masks = [replica.mask for replica in pool.replicas.values()]
    return wishes.wants(wishes.of(request), pool.spec.pool_id) and (mask is None or mask in masks)


def place_free_ms(pool: Pool, priority: Priority, now: float) -> int:
    """Return when a place in this class's queue will be free, in ms, at least 1."""
    return _wait_ms(pool, pool.queue.until_place(priority), priority, now)


def _wait_ms(pool: Pool, before: Backlog, priority: Priority, now: float) -> int:
    outlook = pool.predict(pool.outlook(now), before, priority, now)
    return max(1, math.ceil(outlook.prediction.start_s * 1000)) if outlook else 1


def backoff_ms(pool: Pool, priority: Priority, now: float) -> int:
    """Return how long to wait before sending more: 0 while the class has room."""
    return 0 if pool.queue.room(priority) else place_free_ms(pool, priority, now)


def _full(request: TaskRequest, pools: list[Pool], now: float) -> OrchError:
    waits = {pool.spec.pool_id: place_free_ms(pool, request.priority, now) for pool in pools}
    pool = min(pools, key=lambda p: (waits[p.spec.pool_id], p.spec.pool_id))
    return full.refusal(pool, request.priority, waits[pool.spec.pool_id])


def check_request(
    world: World, request: TaskRequest, prompt_tokens: int | None, longest: Longest | None = None
) -> None:
    """Refuse what no pool could serve. Nothing is ever cut to fit [ORCH-3016]."""
    wrong = workloads.wrong_shape(request) or workloads.too_long(request, prompt_tokens, longest)
    if wrong is not None:
        raise _invalid(*wrong)
    if request.placement is not None:
        wishes.check(request.placement, world.pools, ", ".join(world.pools) or "none")


def _misfit(pool: Pool, request: TaskRequest, now: float) -> OrchError | None:
    """Return why this pool could not serve the task even when idle, or None."""
    spec, ctx = pool.spec, pool.ctx(now)
    ready = pool.servable(now)
    served = {w for r in ready if r.snapshot for w in r.snapshot.workloads}
    dims = [r.snapshot.embedding_dim for r in ready if r.snapshot]
    wrong: tuple[str, str] | None = None
    if request.ctx > ctx:
        wrong = "$.ctx", f"pool {spec.pool_id} gives at most {ctx} tokens of context"
    elif request.workload is Workload.COMPLETION and request.max_tokens > spec.max_tokens:
        wrong = "$.max_tokens", f"pool {spec.pool_id} puts out at most {spec.max_tokens} tokens"
    elif request.sampler_profile_version not in (None, spec.sampler_profile_version):
        wrong = (
            "$.sampler_profile_version",
            f"pool {spec.pool_id} is pinned to {spec.sampler_profile_version!r}",
        )
    elif ready and request.workload not in served:
        serves = ", ".join(sorted(served)) or "nothing"
        wrong = "$.workload", f"pool {spec.pool_id} serves {serves}"
    elif request.determinism is Determinism.STRICT and any(
        not r.snapshot.strict for r in ready if r.snapshot
    ):
        wrong = "$.determinism", _not_strict(spec)
    wrong = wrong or workloads.too_many(request, next(filter(None, dims), None))
    if wrong is None:
        return None
    return _invalid(*wrong).where(engine=spec.engine, pool_id=spec.pool_id)


def _not_strict(spec: PoolSpec) -> str:
    """Return why a pool takes no strict tasks."""
    if spec.slots == 1:
        return (
            f"pool {spec.pool_id} cannot hold its {spec.engine} server to the same bytes again; "
            "send best_effort, or choose a pool of another engine"
        )
    return (
        f"pool {spec.pool_id} runs {spec.slots} jobs side by side, which changes their output; "
        "send best_effort, or let its operator configure slots = 1"
    )


def _invalid(path: str, message: str) -> OrchError:
    return OrchError(Kind.INVALID_PARAMS, f"{path}: {message}", path=path)


def _unavailable(world: World, request: TaskRequest) -> OrchError:
    serving = world.serving.get((request.engine, request.model_ref))
    pinned = world.pools.get(wishes.of(request).pin_pool_id or PoolId(""))
    if pinned is not None and pinned not in (serving or []):
        spec = pinned.spec
        message = f"pool {spec.pool_id} serves {spec.model_ref} on {spec.engine}"
    elif serving:
        masks = {str(replica.mask) for pool in serving for replica in pool.replicas.values()}
        pools = ", ".join(pool.spec.pool_id for pool in serving)
        message = f"it is served by {pools} on masks {', '.join(sorted(masks))}, and placement "
        message += "leaves none of them"
    else:
        served = ", ".join(f"{model} on {engine}" for engine, model in world.serving) or "nothing"
        message = f"no pool serves {request.model_ref} on {request.engine} (served: {served})"
    return OrchError(Kind.POOL_UNAVAILABLE, message, engine=request.engine)


def _kv_short(world: World, request: TaskRequest, replicas: list[ReplicaId]) -> OrchError:
    """Return the error of replicas whose free VRAM does not hold the task's KV cache."""
    seen = [replica.snapshot for replica in map(world.replica, replicas)]
    most = max((s for s in seen if s is not None), key=lambda s: s.vram_free_bytes)
    needs = (most.kv_bytes_per_token or 0) * request.ctx
    return OrchError(
        Kind.REPLICA_EXHAUSTED,
        f"the KV cache of {request.ctx} tokens takes about {needs >> 20} MiB, and "
        f"{most.replica_id} has {most.vram_free_bytes >> 20} MiB of VRAM free",
        path="$.ctx",
        engine=request.engine,
        pool_id=most.pool_id,
        retry_after_ms=round(world.limits.unready_retry_s * 1000),
    )


def unready(world: World, pool: Pool, now: float, mask: DeviceMask | None = None) -> OrchError:
    """Return the error of a pool that no replica serves now, with the cause as far as known.

    `mask` is the one that is required: then it is about that replica.
    """
    what, why = f"pool {pool.spec.pool_id}", why_unready(pool, now)
    for replica in pool.replicas.values():
        if replica.mask == mask:
            what, why = replica.replica_id, why_replica(replica, now)
    return OrchError(
        Kind.POOL_UNREADY,
        f"{what} is not ready: {why}",
        engine=pool.spec.engine,
        pool_id=pool.spec.pool_id,
        retry_after_ms=round(world.limits.unready_retry_s * 1000),
    )


def stopping(world: World) -> OrchError:
    """Return what is told to whoever asks while orchd stops."""
    return OrchError(
        Kind.DRAINING,
        "orchd is stopping",
        retry_after_ms=round(world.limits.unready_retry_s * 1000),
    )


def why_unready(pool: Pool, now: float) -> str:
    """Return the cause in words: the last error, or where its replicas are."""
    if pool.reload is not None:
        return f"it is being reloaded with {pool.reload.target}"
    held = [r for r in pool.replicas.values() if r.fresh(now) and r.drains]
    if held:  # what an operator wants goes before what once went wrong
        return why_replica(held[0], now)
    cause = pool.last_error()
    if cause is not None:
        return cause.message
    known = [replica for replica in pool.replicas.values() if replica.snapshot is not None]
    return why_replica(known[0], now) if known else "no replica has reported yet"


def why_replica(replica: Replica, now: float) -> str:
    """Return in words why a replica is not placed on."""
    if not replica.live and replica.last_error is not None:
        return replica.last_error.message
    if replica.snapshot is None or not replica.fresh(now):
        return f"nothing is heard of {replica.replica_id}"
    if replica.drain_unheard:
        return f"{replica.replica_id} was asked to drain"
    if replica.pins_differ:
        return f"{replica.replica_id} runs another engine, model or version than its set"
    return f"{replica.replica_id}: {replica.snapshot.status}"
