"""What routes and the scrape page read of the core's state. Nothing here changes anything."""

from __future__ import annotations

from itertools import islice

from orchd.core.flow import reach, shedding, turns
from orchd.core.flow.admission import why_unready
from orchd.core.given import cards, wishes
from orchd.core.state.forecast import Outlook
from orchd.core.state.pool import Pool
from orchd.core.state.replica import Replica
from orchd.core.state.slo import State
from orchd.core.state.tally import of_replica
from orchd.core.state.task import Life, Task
from orchd.core.state.world import World
from orchd.wire.control import (
    API_VERSION,
    Capabilities,
    Capability,
    PoolHealth,
    PoolMetrics,
    QueueDepths,
    ReplicaHealth,
)
from orchd.wire.ids import Count, NonNegative, PoolId, Positive, TaskId
from orchd.wire.jobs import OUTPUT_MODES, JobRecord
from orchd.wire.shapes import (
    MetricsFrame,
    Priority,
    TaskState,
    TaskStatus,
    Timings,
    Workload,
)

FEATURES = (
    *("artifacts", "cancel", "catalog", "explain", "idempotent_tasks", "placement", "resume"),
    *("sessions", "tokenize"),
)
STRICT = "strict_determinism"

Values = dict[tuple[str, ...], float]


def task_status(world: World, task_id: TaskId, now: float) -> TaskStatus:
    """Return what `GET /v1/tasks/{id}` says: never prompt or output. Raises OrchError."""
    task = world.task(task_id)
    request = task.request
    position, said = _outlook(world, task, now)
    return TaskStatus(
        task_id=task.task_id,
        session_id=request.session_id,
        state=task.state,
        pool_id=task.pool_id,
        priority=request.priority,
        engine=request.engine,
        model_ref=request.model_ref,
        queue_position=position,
        predicted_start_ms=_start_ms(said),
        predicted_start_p90_ms=_p90_ms(said),
        replica_id=task.replica_id,
        kv_warmth=task.kv_warm,
        decision=task.decision,
        timings=_timings(task, now),
        tokens_in=None if task.tokens_in is None else Count(task.tokens_in),
        tokens_out=Count(task.tokens_out),
        finish_reason=task.finish_reason,
        error=task.error,
        correlation_id=task.correlation_id,
    )


def job_record(world: World, task_id: TaskId, now: float) -> JobRecord:
    """Return what is left of a task that is over for its client. Raises OrchError(UNKNOWN_ID)."""
    task = world.task(task_id)
    request = task.request
    return JobRecord(
        task_id=task.task_id,
        session_id=request.session_id,
        correlation_id=task.correlation_id,
        state=task.state,
        workload=request.workload,
        priority=request.priority,
        engine=request.engine,
        engine_version=task.engine_version or None,
        model_ref=request.model_ref,
        model_digest=world.pools[task.pool_id].spec.model_digest,
        pool_id=task.pool_id,
        replica_id=task.replica_id,
        ctx=request.ctx,
        max_tokens=request.max_tokens,
        deadline_ms=request.deadline_ms,
        seed=request.seed,
        determinism=request.determinism,
        sampler_profile_version=request.sampler_profile_version,
        output_mode=mode if (mode := request.output_mode) in OUTPUT_MODES else None,
        kv_warmth=task.kv_warm,
        attempts=Count(task.attempts),
        decision=task.decision,
        timings=_timings(task, now),
        tokens_in=None if task.tokens_in is None else Count(task.tokens_in),
        tokens_out=Count(task.tokens_out),
        finish_reason=task.finish_reason,
        cancel_reason=task.cancel_reason,
    )


def metrics_frame(world: World, task_id: TaskId, now: float) -> MetricsFrame:
    """Return the figures of a task's stream at this moment. Raises OrchError(UNKNOWN_ID)."""
    task = world.task(task_id)
    pool = world.pools[task.pool_id]
    replica = pool.replicas.get(task.replica_id) if task.replica_id else None
    position, said = _outlook(world, task, now)
    if task.life is Life.QUEUED:
        slots, left_s = pool.outlook(now, wishes.mask_of(task.request)), task.deadline_at - now
        chance = pool.forecast.on_time(task.request, said, slots, left_s) if said else 0.0
    elif replica is not None and task.ended_at is None:
        chance = replica.on_time(task, pool.forecast, now)
    else:
        ended_at = now if task.ended_at is None else task.ended_at
        chance = float(ended_at <= task.deadline_at)
    rate = replica.snapshot.tokens_per_s if replica and replica.snapshot else None
    frame = MetricsFrame(
        queue_depth=Count(len(pool.queue)),
        on_time_probability=round(chance, 3),
        kv_warmth=task.kv_warm,
        queue_position=position,
        predicted_start_ms=_start_ms(said),
        predicted_start_p90_ms=_p90_ms(said),
        replica_id=task.replica_id,
        tokens_per_s=rate,
    )
    return turns.shown(frame, task)


def _outlook(world: World, task: Task, now: float) -> tuple[Count | None, Outlook | None]:
    """Return position and predicted start of a waiting task; (None, None) for another."""
    if task.life is not Life.QUEUED:
        return None, None
    pool = world.pools[task.pool_id]
    before = pool.queue.before(task.task_id, task.request.priority)
    said = pool.predict(*reach.of_waiting(pool, task, now), task.request.priority, now)
    return Count(before.jobs), said


def _start_ms(said: Outlook | None) -> Count | None:
    return None if said is None else Count(round(said.prediction.start_s * 1000))


def _p90_ms(said: Outlook | None) -> Count | None:
    return None if said is None else Count(round(said.prediction.p90_s * 1000))


def _timings(task: Task, now: float) -> Timings:
    marks = (task.dispatched_at, task.ended_at, now)
    waited_until = next(mark for mark in marks if mark is not None)
    first = task.first_token_at
    return Timings(
        queue_time_ms=_ms(task.admitted_at, waited_until),
        first_token_ms=None if first is None else _ms(task.admitted_at, first),
        decode_time_ms=None if task.decode_ms is None else Count(task.decode_ms),
    )


def _ms(start: float, end: float) -> Count:
    return Count(max(0, round((end - start) * 1000)))


def tasks(
    world: World, state: TaskState | None, after: int, limit: int
) -> list[tuple[int, TaskId]]:
    """Return (cursor, id) of tasks, newest first, behind the cursor `after` (0: from the first)."""
    found = (
        (task.number, task.task_id)
        for task in reversed(world.tasks.values())
        if (not after or task.number < after) and (state is None or task.state is state)
    )
    return list(islice(found, limit))


def queue_depths(pool: Pool) -> QueueDepths:
    """Return how many wait."""
    lengths = {priority: Count(len(fifo)) for priority, fifo in pool.queue.classes.items()}
    return QueueDepths(interactive=lengths[Priority.INTERACTIVE], batch=lengths[Priority.BATCH])


def pool_health(world: World, pool: Pool, now: float) -> PoolHealth:
    """Return the health of a pool and its replicas [OC-CTRL-2001]."""
    replicas = list(pool.replicas.values())
    live = [replica for replica in replicas if replica.fresh(now)]
    draining = [replica for replica in live if replica.drains]
    drained = bool(live) and len(draining) == len(live)
    return PoolHealth(
        pool_id=pool.spec.pool_id,
        engine=pool.spec.engine,
        model_ref=pool.spec.model_ref,
        live=bool(live),
        ready=_takes(world, pool, now) and not (world.draining or drained),
        draining=world.draining or drained,
        metrics=_pool_metrics(pool, live, now),
        reloading=pool.reload.target if pool.reload else None,
        slo=shedding.health(pool, now),
        last_error=pool.last_error(),
        replicas=tuple(
            ReplicaHealth(
                replica_id=replica.replica_id,
                live=replica.fresh(now),
                snapshot=replica.snapshot,
                last_error=replica.last_error,
            )
            for replica in replicas
        ),
    )


def _pool_metrics(pool: Pool, live: list[Replica], now: float) -> PoolMetrics:
    snapshots = [replica.snapshot for replica in live if replica.snapshot is not None]
    predicted: dict[Priority, int] = {}
    for priority in Priority:
        start_ms = _start_ms(
            pool.predict(pool.outlook(now), pool.queue.until_tail(priority), priority, now)
        )
        if start_ms is not None:
            predicted[priority] = start_ms
    return PoolMetrics(
        queue_depth=queue_depths(pool),
        queue_capacity=QueueDepths(
            interactive=Count(pool.queue.classes[Priority.INTERACTIVE].bound),
            batch=Count(pool.queue.classes[Priority.BATCH].bound),
        ),
        slots_total=Count(sum(snapshot.slots_total for snapshot in snapshots)),
        slots_active=Count(sum(len(replica.leases) for replica in live)),
        vram_total_bytes=Count(sum(snapshot.vram_total_bytes for snapshot in snapshots)),
        vram_free_bytes=Count(sum(snapshot.vram_free_bytes for snapshot in snapshots)),
        tokens_per_s=_mean([s.tokens_per_s for s in snapshots]),
        first_token_ms=_mean([s.first_token_ms for s in snapshots]),
        predicted_start_ms=predicted,
    )


def _mean(values: list[NonNegative | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def unready_reasons(world: World, now: float) -> tuple[str, ...]:
    """Return why no task could be served now; empty when a pool is ready."""
    if world.draining:
        return ("orchd is stopping",)
    if any(_takes(world, pool, now) for pool in world.pools.values()):
        return ()
    return tuple(
        f"pool {pool.spec.pool_id}: {_why_not(pool, now)}" for pool in world.pools.values()
    ) or ("no pools are configured",)


def _takes(world: World, pool: Pool, now: float) -> bool:
    """Whether a pool could take a task: one of its replicas is ready, its model not Retired."""
    return bool(pool.servable(now)) and not world.models.closed(pool.spec, now)


def _why_not(pool: Pool, now: float) -> str:
    if pool.servable(now):
        return f"its model {pool.spec.model_ref} is Retired"
    return why_unready(pool, now)


def capabilities(world: World, now: float) -> Capabilities:
    """Return what can be asked for [OC-CTRL-2060]: like pools are one entry, their slots added."""
    alike: dict[tuple[str, ...], list[Pool]] = {}
    for pool in world.pools.values():
        spec = pool.spec
        if world.models.closed(spec, now):
            continue  # whoever asked for it would be refused
        key = (spec.engine, spec.model_ref, pool.engine_version, spec.sampler_profile_version)
        alike.setdefault(key, []).append(pool)
    return Capabilities(
        api_version=API_VERSION,
        engines=tuple(_capability(world, alike[key], now) for key in sorted(alike)),
    )


def _capability(world: World, pools: list[Pool], now: float) -> Capability:
    first = pools[0]
    ready = [replica for pool in pools for replica in pool.servable(now)]
    seen = [r.snapshot for pool in pools for r in pool.replicas.values() if r.snapshot]
    workloads = {workload for snapshot in seen for workload in snapshot.workloads}
    return Capability(
        engine=first.spec.engine,
        engine_version=first.engine_version,
        sampler_profile_version=first.spec.sampler_profile_version,
        model_ref=first.spec.model_ref,
        ctx_max=Positive(max(pool.ctx(now) for pool in pools)),
        max_tokens_out=Positive(max(pool.spec.max_tokens for pool in pools)),
        supported_workloads=tuple(w for w in Workload if w in workloads),
        concurrency=Count(sum(replica.slots for replica in ready)),
        slots_total=Count(sum(pool.spec.slots * len(pool.spec.replica_ids) for pool in pools)),
        rate_limits=world.limits.rates.shown(),
        features=(*FEATURES, STRICT) if seen and all(s.strict for s in seen) else FEATURES,
        pools=tuple(PoolId(pool.spec.pool_id) for pool in pools),
    )


def gauges(world: World, now: float) -> dict[str, Values]:
    """Return metric name -> label values -> value, for every gauge that the core knows."""
    depth: Values = {}
    ready: Values = {}
    leases: Values = {}
    kv_ratio: Values = {}
    utilization: Values = {}
    vram: Values = {}
    slow: Values = {}
    for pool in world.pools.values():
        spec = pool.spec
        for priority, fifo in pool.queue.classes.items():
            depth[spec.engine, pool.engine_version, spec.pool_id, priority] = len(fifo)
        ready[spec.engine, pool.engine_version, spec.pool_id] = float(_takes(world, pool, now))
        if not spec.slo.off:
            shed = pool.breaker.state(now) is not State.CLOSED
            slow[spec.engine, pool.engine_version, spec.pool_id] = float(shed)
        for replica in pool.replicas.values():
            labels = of_replica(pool, replica)
            leases[labels] = len(replica.leases)
            if replica.snapshot is None or not replica.fresh(now):
                continue  # what was true of a GPU a while ago is not said of it now
            if replica.snapshot.kv_cache_usage_ratio is not None:
                kv_ratio[labels] = replica.snapshot.kv_cache_usage_ratio
            for device in replica.snapshot.devices:
                where = (*labels, str(device.index))
                vram[where] = device.vram_used_bytes
                if device.utilization_percent is not None:
                    utilization[where] = device.utilization_percent
    return {
        "queue_depth": depth,
        "pool_ready": ready,
        "pool_shedding": slow,
        "active_leases": leases,
        "kv_cache_usage_ratio": kv_ratio,
        "gpu_utilization": utilization,
        "vram_used_bytes": vram,
        "model_state": cards.states(world.models, now),
        "sessions_active": {(): len(world.sessions.known)},
        "placement_candidates_considered": {(): world.tally.candidates_considered},
    }
