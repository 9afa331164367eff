"""Whether a worker that registers belongs to its set [ORCH-3046].

A question to the state: what is placed on is decided by snapshots (replica.py). Said here as well,
the worker's operator reads at once why it would get no work.
"""

from __future__ import annotations

from orchd.core.state.replica import pins_of
from orchd.core.state.world import World
from orchd.wire.control import WorkerRegistration
from orchd.wire.errors import Kind, OrchError


def check(world: World, worker: WorkerRegistration) -> None:
    """Raise OrchError: UNKNOWN_REPLICA for none of ours, PINS_DIFFER for one unlike its set."""
    pool = world.home.get(worker.replica_id)
    if pool is None or pool.spec.pool_id != worker.pool_id:
        raise OrchError(
            Kind.UNKNOWN_REPLICA,
            f"replica {worker.replica_id} of pool {worker.pool_id} is not in the configuration "
            "that orchd runs with",
            path="$.replica_id",
        )
    spec = pool.spec
    others = [
        pins_of(replica.snapshot)
        for replica in pool.replicas.values()
        if replica.replica_id != worker.replica_id
        and replica.live
        and replica.snapshot is not None
        and replica.snapshot.ready
    ]
    mine = pins_of(worker)
    # before the set has settled, and while it changes, another model is no mistake
    may_differ = worker.model_ref is None or not pool.settled or pool.reload is not None
    pinned = pool.pins if pool.pins is not None and pool.pins in others else mine
    for field, is_now, must_be in (
        ("engine", worker.engine, spec.engine),
        ("sampler_profile_version", worker.sampler_profile_version, spec.sampler_profile_version),
        ("model_ref", spec.model_ref if may_differ else worker.model_ref, spec.model_ref),
        ("engine_version", mine.engine_version, pinned.engine_version),
        ("model_digest", mine.model_digest, pinned.model_digest),
        ("ubatch", mine.ubatch, pinned.ubatch),
        ("flash_attention", mine.flash_attention, pinned.flash_attention),
    ):
        if is_now != must_be:
            raise OrchError(
                Kind.PINS_DIFFER,
                f"$.{field}: {worker.replica_id} has {_said(is_now)}, and its set has "
                f"{_said(must_be)}",
                path=f"$.{field}",
                engine=spec.engine,
                pool_id=spec.pool_id,
            )


def _said(value: object) -> str:
    return "none that it tells" if value is None else str(value)
