"""Where does the engine run? NVML's lists against the engine's processes and the mask. Pure.

Nothing falls back to the CPU, and nothing touches a GPU beside the mask [ORCH-1102, OC-POOL-3012,
ORCH-3052]: an engine that does is refused by name before READY=1.
"""

from __future__ import annotations

from collections.abc import Collection

from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import DeviceMask
from orchd.wire.snapshot import GpuProof
from poolmgr.core.gpus import Gpu, gib


def prove(
    gpus: tuple[Gpu, ...],
    engine_pids: Collection[int] | None,
    mask: DeviceMask,
    *,
    attested: bool,
    floors: tuple[int, ...] = (),
    floor: int = 0,
    why: str | None = None,
) -> GpuProof:
    """Return how sure it is that the engine runs on exactly the GPUs of `mask`.

    `gpus` are all GPUs that can be seen, `engine_pids` the engine's process tree (None: it cannot
    be found). `attested` is the operator's word for an external engine; it never overrides what
    was seen to be wrong. `floors` are the bytes that it must hold at least of each GPU of the mask,
    `floor` of all together: a CUDA build that keeps its weights on the host opens a context of some
    hundred MiB all the same. `why` is the engine's own word about it. Raises OrchError:
    CPU_FALLBACK, GPU_MISMATCH, NOT_ATTESTED.
    """
    # beside the mask too: where nothing is listed, nothing shows that the engine is not there
    unlisted = [gpu.index for gpu in gpus if gpu.processes is None]
    on = [gpu.index for gpu in gpus if _holds(gpu, engine_pids or ())]
    outside = [index for index in on if index not in mask.indices]
    if outside:
        raise OrchError(
            Kind.GPU_MISMATCH,
            f"the engine holds memory of GPU {_listed(outside)}, and the mask is {mask}",
        )
    if engine_pids is None or unlisted:
        if attested:
            return GpuProof.ATTESTED
        where = f"NVML does not list the processes of GPU {_listed(unlisted)}"
        why = where if unlisted else "its process cannot be found"
        raise OrchError(Kind.NOT_ATTESTED, f"the engine's use of the GPU cannot be verified: {why}")
    missing = [index for index in mask.indices if index not in on]
    said = f": {why}" if why else ""
    if not missing:
        _weigh(gpus, engine_pids, mask, floors, floor, said)
        return GpuProof.VERIFIED
    if on:
        raise OrchError(
            Kind.GPU_MISMATCH,
            f"the engine holds memory of GPU {_listed(on)} and none of GPU {_listed(missing)}",
        )
    if attested:
        return GpuProof.ATTESTED  # another PID namespace: its pid here is not NVML's
    raise OrchError(
        Kind.CPU_FALLBACK,
        f"the engine holds no memory of GPU {_listed(missing)}: it runs on the CPU{said}",
    )


def _weigh(
    gpus: tuple[Gpu, ...],
    pids: Collection[int],
    mask: DeviceMask,
    floors: tuple[int, ...],
    floor: int,
    said: str,
) -> None:
    """Compare what the engine holds with what its weights take. Raises CPU_FALLBACK."""
    held = {gpu.index: gpu.held_by(pids) or 0 for gpu in gpus if gpu.index in mask.indices}
    whole = sum(held.values())
    if whole < floor:
        raise OrchError(
            Kind.CPU_FALLBACK,
            f"the engine holds {gib(whole)} of GPU {_listed(mask.indices)}, and its weights there "
            f"take at least {gib(floor)}: they are on the CPU{said}",
        )
    for index, least in zip(mask.indices, floors, strict=False):
        if held.get(index, 0) < least:
            raise OrchError(
                Kind.GPU_MISMATCH,
                f"the engine holds {gib(held.get(index, 0))} of GPU {index}, and its share of the "
                f"weights takes at least {gib(least)}",
            )


def _holds(gpu: Gpu, pids: Collection[int]) -> bool:
    return any(process.pid in pids for process in gpu.processes or ())


def _listed(indices: Collection[int]) -> str:
    return " and ".join(str(index) for index in indices)
