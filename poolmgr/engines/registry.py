"""The engines that a pool may name: pool -> adapter. Each one's own file says how it works."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import EngineId
from orchd.wire.shapes import Workload
from poolmgr.engines.base import Adapter, Job
from poolmgr.engines.llamacpp import LlamaCpp
from poolmgr.engines.mock import Mock
from poolmgr.engines.openai import OpenAi
from poolmgr.engines.tgi import Tgi
from poolmgr.engines.triton import Triton
from poolmgr.engines.vllm import Vllm

if TYPE_CHECKING:
    from orchd.config.pool import Pool

_ADAPTERS: dict[EngineId, Callable[[Pool], Adapter]] = {
    LlamaCpp.engine_id: lambda _: LlamaCpp(),
    Mock.engine_id: lambda _: Mock(),
    OpenAi.engine_id: OpenAi,
    Tgi.engine_id: Tgi,
    Triton.engine_id: Triton,
    Vllm.engine_id: Vllm,
}


def adapter(pool: Pool) -> Adapter:
    """Return the adapter of a pool's engine, which knows how this pool's is asked.

    Raises OrchError(CONFIG_INVALID) that lists the known engines, and for a sampler profile that
    the engine does not have.
    """
    make = _ADAPTERS.get(pool.engine.id)
    if make is None:
        known = ", ".join(sorted(_ADAPTERS))
        raise OrchError(
            Kind.CONFIG_INVALID, f"engine {pool.engine.id!r} is not known (known: {known})"
        )
    return make(pool)


def refuse_workload(served: tuple[Workload, ...], job: Job) -> OrchError | None:
    """Return why a pool that serves these workloads does not take this job, or None."""
    if job.workload in served:
        return None
    why = f"the pool serves {', '.join(served)}, not {job.workload}"
    return OrchError(Kind.INVALID_PARAMS, why, path="$.workload")


def refuse_strict(adapter: Adapter, job: Job, slots: int) -> OrchError | None:
    """Return why this job may not run strictly on an engine with so many slots, or None.

    Jobs that share a batch change each other's rounding: of 6 prompts, up to 3 came out otherwise
    on llama.cpp with 4 slots. A promise that cannot be kept is refused, not weakened [ORCH-3045].
    """
    most = adapter.strict_slots
    if not job.strict or most is None or slots <= most:
        return None
    if not most:
        return OrchError(
            Kind.INVALID_PARAMS,
            f"a server behind engine {adapter.engine_id} cannot be held to the same bytes again: "
            "send determinism best_effort, or choose a pool of another engine",
            path="$.determinism",
            engine=adapter.engine_id,
        )
    return OrchError(
        Kind.INVALID_PARAMS,
        f"determinism strict needs a pool with slots = 1, and this one has {slots}: send "
        f"determinism best_effort, or choose or configure a pool of {adapter.engine_id} with "
        "slots = 1 (more replicas instead of more slots)",
        path="$.determinism",
        engine=adapter.engine_id,
    )
