"""The engines that a pool may name: engine id -> adapter. Each one's own file says how it works."""

from __future__ import annotations

from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import EngineId
from orchd.wire.shapes import Workload
from poolmgr.engines.base import Adapter, Job
from poolmgr.engines.llamacpp import LlamaCpp
from poolmgr.engines.mock import Mock

_ADAPTERS: dict[EngineId, Adapter] = {one.engine_id: one for one in (LlamaCpp(), Mock())}


def adapter(engine_id: EngineId) -> Adapter:
    """Return the adapter of an engine. Raises OrchError(CONFIG_INVALID) that lists the known."""
    try:
        return _ADAPTERS[engine_id]
    except KeyError:
        known = ", ".join(sorted(_ADAPTERS))
        raise OrchError(
            Kind.CONFIG_INVALID, f"engine {engine_id!r} is not known (known: {known})"
        ) from None


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
    if not (job.strict and slots > 1 and adapter.strict_needs_single_slot):
        return None
    return OrchError(
        Kind.INVALID_PARAMS,
        f"determinism strict needs a pool with slots = 1, and this one has {slots}: send "
        f"determinism best_effort, or choose or configure a pool of {adapter.engine_id} with "
        "slots = 1 (more replicas instead of more slots)",
        path="$.determinism",
        engine=adapter.engine_id,
    )
