"""Whether a task is let in, and into which pool: every reason to refuse it before it is queued.

Pure questions to the state; front.py enqueues. Each refusal is an OrchError with the field at fault
or with the time after which asking again is worth it.
"""

from __future__ import annotations

import math

from attrs import frozen

from orchd.core import full
from orchd.core.forecast import Outlook
from orchd.core.placement import PlacementInput, decide
from orchd.core.pool import Pool, Replica
from orchd.core.queue import NOTHING, Backlog
from orchd.core.world import World
from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import PoolId, TaskId
from orchd.wire.shapes import Determinism, Placement, Priority, TaskRequest, Workload


@frozen
class Admission:
    """A task may go into this pool's queue, and will start then."""

    pool: Pool
    outlook: Outlook
    victim: TaskId | None = None
    """The waiting batch task that makes room for it."""


def placement_input(
    world: World, request: TaskRequest, pools: list[Pool], now: float
) -> PlacementInput:
    """Return the question to placement for a task that these pools may serve."""
    return PlacementInput(
        engine=request.engine,
        model_ref=request.model_ref,
        workload=request.workload,
        ctx=request.ctx,
        replicas=tuple(
            replica.facts(pool.spec, now) for pool in pools for replica in pool.replicas.values()
        ),
        snapshot_version=world.snapshot_version,
    )


def admit(world: World, request: TaskRequest, prompt_tokens: int | None, now: float) -> Admission:
    """Return the pool that takes the task. Raises OrchError when none does.

    The checks go from what the client can mend (400), over what is not there (503), to what is full
    now (429) and what comes too late (DEADLINE_UNMET).
    """
    _check_request(request, prompt_tokens)
    pools = world.serving.get((request.engine, request.model_ref))
    if not pools:
        raise _unavailable(world, request)
    misfits = {pool.spec.pool_id: _misfit(pool, request, now) for pool in pools}
    fitting = [pool for pool in pools if misfits[pool.spec.pool_id] is None]
    if not fitting:
        raise next(error for error in misfits.values() if error is not None)
    ready = [pool for pool in fitting if pool.servable(now)]
    if not ready:
        raise unready(world, fitting[0], now)
    chosen = _choose(world, request, ready, now)
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
    if len(chosen.pool.queue) or not chosen.pool.has_free_slot(now):
        next_ms = _wait_ms(chosen.pool, NOTHING, request.priority, now)
        full.check_memory(world, chosen.pool, request, chosen.victim, next_ms)
    return chosen


def _choose(world: World, request: TaskRequest, ready: list[Pool], now: float) -> Admission:
    """Return the pool of the free slot that placement takes, or the one that starts it first."""
    options: dict[PoolId, Admission] = {}
    for pool in ready:
        before = pool.queue.until_tail(request.priority)
        outlook = pool.predict(before, request.priority, now)
        assert outlook is not None  # a replica that can be placed on has slots
        options[pool.spec.pool_id] = Admission(pool, outlook)
    if len(ready) > 1:
        idle = [pool for pool in ready if not len(pool.queue)]
        now_at = decide(placement_input(world, request, idle, now)).pool_id
        if now_at is not None:
            return options[now_at]
    room = [a for a in options.values() if a.pool.queue.room(request.priority)]
    room = room or [a for pool in ready if (a := _by_dropping(pool, request.priority, now))]
    if not room:
        raise _full(request, ready, now)
    return min(room, key=lambda a: (a.outlook.prediction.start_s, a.pool.spec.pool_id))


def _by_dropping(pool: Pool, priority: Priority, now: float) -> Admission | None:
    """Return how a full pool takes the task if its policy drops another for it."""
    victim = full.victim(pool, priority)
    outlook = pool.predict(pool.queue.until_tail(priority, victim), priority, now)
    return Admission(pool, outlook, victim) if victim and outlook else None


def place_free_ms(pool: Pool, priority: Priority, now: float) -> int:
    """Return when a place in this class's queue will be free, in ms, at least 1."""
    return _wait_ms(pool, pool.queue.until_place(priority), priority, now)


def _wait_ms(pool: Pool, before: Backlog, priority: Priority, now: float) -> int:
    outlook = pool.predict(before, priority, now)
    return max(1, math.ceil(outlook.prediction.start_s * 1000)) if outlook else 1


def backoff_ms(pool: Pool, priority: Priority, now: float) -> int:
    """Return how long to wait before sending more: 0 while the class has room."""
    return 0 if pool.queue.room(priority) else place_free_ms(pool, priority, now)


def _full(request: TaskRequest, pools: list[Pool], now: float) -> OrchError:
    waits = {pool.spec.pool_id: place_free_ms(pool, request.priority, now) for pool in pools}
    pool = min(pools, key=lambda p: (waits[p.spec.pool_id], p.spec.pool_id))
    return full.refusal(pool, request.priority, waits[pool.spec.pool_id])


def _check_request(request: TaskRequest, prompt_tokens: int | None) -> None:
    """Refuse what no pool could serve. Nothing is ever cut to fit [ORCH-3016]."""
    if request.workload is Workload.COMPLETION:
        if request.prompt is None:
            raise _invalid("$.prompt", "is required for a completion")
        if request.inputs is not None:
            raise _invalid("$.inputs", "is for embedding and rerank; a completion takes prompt")
    else:
        if not request.inputs:
            raise _invalid(
                "$.inputs", f"must name at least one text for workload {request.workload}"
            )
        if request.prompt is not None:
            raise _invalid("$.prompt", f"is for completions; {request.workload} takes inputs")
    if request.placement is not None:
        _check_placement(request.placement)
    if request.max_tokens > request.ctx:
        raise _invalid(
            "$.max_tokens", f"{request.max_tokens} do not fit into a context of {request.ctx}"
        )
    if prompt_tokens is not None and prompt_tokens + request.max_tokens > request.ctx:
        raise _invalid(
            "$.ctx",
            f"a prompt of {prompt_tokens} tokens and max_tokens {request.max_tokens} do not fit "
            f"into {request.ctx}",
        )


def _check_placement(placement: Placement) -> None:
    plain = Placement()
    for name in (
        "mode", "pin_pool_id", "prefer_pools", "avoid_pools", "require_device_mask",
        "allow_fallback",
    ):  # fmt: skip
        if getattr(placement, name) != getattr(plain, name):
            raise _invalid(
                f"$.placement.{name}",
                "this wish comes with a later version; now placement is automatic (mode auto)",
            )


def _misfit(pool: Pool, request: TaskRequest, now: float) -> OrchError | None:
    """Return why this pool could not serve the task even when idle, or None."""
    spec, ctx = pool.spec, pool.ctx(now)
    ready = pool.servable(now)
    workloads = {w for r in ready if r.snapshot for w in r.snapshot.workloads}
    wrong: tuple[str, str] | None = None
    if request.ctx > ctx:
        wrong = "$.ctx", f"pool {spec.pool_id} gives at most {ctx} tokens of context"
    elif request.max_tokens > spec.max_tokens:
        wrong = "$.max_tokens", f"pool {spec.pool_id} puts out at most {spec.max_tokens} tokens"
    elif request.sampler_profile_version not in (None, spec.sampler_profile_version):
        wrong = (
            "$.sampler_profile_version",
            f"pool {spec.pool_id} is pinned to {spec.sampler_profile_version!r}",
        )
    elif ready and request.workload not in workloads:
        serves = ", ".join(sorted(workloads)) or "nothing"
        wrong = "$.workload", f"pool {spec.pool_id} serves {serves}"
    elif request.determinism is Determinism.STRICT and any(
        not r.snapshot.strict for r in ready if r.snapshot
    ):
        wrong = (
            "$.determinism",
            f"pool {spec.pool_id} runs {spec.slots} jobs side by side, which changes their output; "
            "send best_effort, or let its operator configure slots = 1",
        )
    if wrong is None:
        return None
    return _invalid(*wrong).where(engine=spec.engine, pool_id=spec.pool_id)


def _invalid(path: str, message: str) -> OrchError:
    return OrchError(Kind.INVALID_PARAMS, f"{path}: {message}", path=path)


def _unavailable(world: World, request: TaskRequest) -> OrchError:
    served = ", ".join(f"{model} on {engine}" for engine, model in world.serving) or "nothing"
    return OrchError(
        Kind.POOL_UNAVAILABLE,
        f"no pool serves {request.model_ref} on {request.engine} (served: {served})",
        engine=request.engine,
    )


def unready(world: World, pool: Pool, now: float) -> OrchError:
    """Return the error of a pool that no replica serves now, with the cause as far as known."""
    return OrchError(
        Kind.POOL_UNREADY,
        f"pool {pool.spec.pool_id} is not ready: {why_unready(pool, now)}",
        engine=pool.spec.engine,
        pool_id=pool.spec.pool_id,
        retry_after_ms=round(world.limits.unready_retry_s * 1000),
    )


def why_unready(pool: Pool, now: float) -> str:
    """Return the cause in words: the last error, or where its replicas are."""
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
    if replica.pins_differ:
        return f"{replica.replica_id} runs another engine, model or version than its set"
    return f"{replica.replica_id}: {replica.snapshot.status}"
