"""Does the model fit? Needs against free VRAM and host memory, with the figures in the message.

Pure: sizes come in, a sentence or an OrchError comes out. What cannot be known stays None and is
said, never guessed: an estimate that is too high would keep a working pool out for ever, and one
that is too low is caught by the engine itself a little later.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from attrs import evolve, field, frozen

from orchd.wire.errors import Kind, OrchError
from poolmgr.core.gpus import Gpu, gib

GPU_OVERHEAD_BYTES: Final = 512 << 20
"""On each GPU beside weights and KV cache: the CUDA context and the engine's compute buffers. An
assumption on the low side: llama.cpp prints its compute buffers at some 100 to 500 MiB. An engine
that runs out of memory all the same corrects it (capacity.py)."""
RAM_OVERHEAD_BYTES: Final = 512 << 20
"""Of host memory for an engine process with CUDA. Weights that are mapped from the file are page
cache, which the kernel takes back: they are not counted."""
KV: Final = "KV cache"
KV_UNKNOWN: Final = f"{KV} not counted"
FLOOR: Final = 0.9
"""Of the weights' bytes, what an engine that has loaded them must hold at least: they are on the
GPU whole, and the rest is for what we know less well than llama.cpp (which tensors stay on the
host)."""
FLOOR_OF_SHARE: Final = 0.5
"""Of each GPU's share, where a split was said: whole layers go to one GPU or to the other."""


@frozen(kw_only=True)
class Need:
    """What an engine with its model will take."""

    weights_bytes: int | None
    """On the GPUs. None: unknown (the model is not a file we can see)."""
    kv_bytes: int | None
    """KV cache on the GPUs, at the configured ctx and slots; None: unknown."""
    kv_why: str | None = None
    """Why the KV cache is unknown."""
    kv_bytes_per_token: int | None = None
    """Of the cache, for each token of context; wherever it is."""
    more: tuple[str, ...] = ()
    """What else takes memory, and is not in the sum: `draft model`."""
    floor_bytes: int | None = None
    """What the engine must be seen to hold of all its GPUs together; None: it cannot be said."""
    split: tuple[float, ...] | None = None
    """The engine's own arguments name this tensor split."""
    at_least: Mapping[int, int] = field(factory=dict)
    """By GPU index: with less than this the same engine ran out of memory before."""
    gpu_overhead_bytes: int = GPU_OVERHEAD_BYTES
    ram_bytes: int = RAM_OVERHEAD_BYTES

    @property
    def unknown(self) -> tuple[str, ...]:
        """What is not in the sum, in words."""
        parts = [] if self.weights_bytes is not None else ["weights"]
        if self.kv_bytes is None:
            parts.append(KV)
        return (*parts, *self.more)


def shares(gpus: tuple[Gpu, ...], tensor_split: tuple[float, ...] | None) -> tuple[float, ...]:
    """Return the part of the model that each GPU holds; the sum is 1.

    Raises OrchError(CONFIG_INVALID): a split over unlike GPUs has to be said [OC-POOL-3021].
    """
    if tensor_split is not None:
        if len(tensor_split) != len(gpus) or sum(tensor_split) <= 0:
            raise OrchError(
                Kind.CONFIG_INVALID,
                f"tensor_split has {len(tensor_split)} parts, and the mask has {len(gpus)} GPUs",
            )
        whole = sum(tensor_split)
        return tuple(part / whole for part in tensor_split)
    unlike = {(gpu.name, gpu.total_bytes) for gpu in gpus}
    if len(unlike) > 1:
        each = ", ".join(f"GPU {gpu.index} {gpu.name} {gib(gpu.total_bytes)}" for gpu in gpus)
        raise OrchError(
            Kind.CONFIG_INVALID,
            f"the mask joins unlike GPUs ({each}): say tensor_split for the pool, for example "
            f"tensor_split = [{', '.join(str(round(gpu.total_bytes / 2**30)) for gpu in gpus)}]",
        )
    return tuple(1 / len(gpus) for _ in gpus)


def check(
    model: str,
    need: Need,
    gpus: tuple[Gpu, ...],
    tensor_split: tuple[float, ...] | None,
    ram_free_bytes: int,
) -> str:
    """Return a sentence that says how it fits on the GPUs of the mask.

    Raises OrchError: VRAM_SHORT, RAM_SHORT, or CONFIG_INVALID for the split.
    """
    parts = shares(gpus, need.split if _fits(need.split, gpus) else tensor_split)
    whole = (need.weights_bytes or 0) + (need.kv_bytes or 0)
    left_out = "".join(f", {name} not counted" for name in need.unknown)
    if need.kv_why:
        left_out = left_out.replace(KV_UNKNOWN, f"{KV_UNKNOWN} ({need.kv_why})")
    short: list[str] = []
    said: list[str] = []
    for gpu, part in zip(gpus, parts, strict=True):
        wanted = int(whole * part) + (need.gpu_overhead_bytes if part > 0 else 0)
        learned = need.at_least.get(gpu.index, 0)
        why = " (it ran out of memory with less)" if learned > wanted else ""
        wanted = max(wanted, learned)
        said.append(f"{gib(wanted)} of {gib(gpu.room_bytes)} free on GPU {gpu.index}")
        if wanted > gpu.room_bytes:
            kept = f", {gib(gpu.reserved_bytes)} of it reserved" if gpu.reserved_bytes else ""
            short.append(
                f"needs {gib(wanted)}{why}, GPU {gpu.index} has {gib(gpu.free_bytes)} free{kept}"
                f"{_holders(gpu)}"
            )
    if short:
        words = f"{model} {'; '.join(short)}{_cap(whole, gpus, parts, need)}"
        raise OrchError(Kind.VRAM_SHORT, words)
    if need.ram_bytes > ram_free_bytes:
        raise OrchError(
            Kind.RAM_SHORT,
            f"the engine of {model} needs {gib(need.ram_bytes)} of host memory, "
            f"{gib(ram_free_bytes)} are available",
        )
    return f"{model} needs {', '.join(said)}{left_out}"


def _fits(split: tuple[float, ...] | None, gpus: tuple[Gpu, ...]) -> bool:
    return split is not None and len(split) == len(gpus) and sum(split) > 0


def floors(
    need: Need, gpus: tuple[Gpu, ...], tensor_split: tuple[float, ...] | None
) -> tuple[int, ...]:
    """Return what the engine must hold of each GPU at least, once it has loaded its model.

    Without a split that was said llama.cpp chooses by free memory: then only the sum is known.
    """
    split = need.split if _fits(need.split, gpus) else tensor_split
    if need.floor_bytes is None or (split is None and len(gpus) > 1):
        return (0,) * len(gpus)
    if len(gpus) == 1:
        return (need.floor_bytes,)
    return tuple(int(need.floor_bytes * part * FLOOR_OF_SHARE) for part in shares(gpus, split))


def beside(need: Need, held_bytes: int, weights_bytes: int | None) -> Need:
    """Return what a new engine needs beside one that runs with the same context and slots.

    `held_bytes` is what that one holds on its GPUs, of which `weights_bytes` are its model. The
    rest (KV cache, buffers) was measured, and is what the new one will hold beyond its weights.
    """
    return evolve(
        need, kv_bytes=max(0, held_bytes - (weights_bytes or 0)), gpu_overhead_bytes=0, at_least={}
    )


def without(gpus: tuple[Gpu, ...], held: tuple[int, ...]) -> tuple[Gpu, ...]:
    """Return the GPUs as they will be when an engine has gone that holds `held` bytes of each."""
    return tuple(
        evolve(gpu, used_bytes=max(0, gpu.used_bytes - size))
        for gpu, size in zip(gpus, held, strict=True)
    )


def _holders(gpu: Gpu) -> str:
    """Return who holds the GPU's memory, the largest first: `: 3.2 GiB used by firefox (pid 7)`."""
    if not gpu.processes:
        return f": {gib(gpu.used_bytes)} used" if gpu.used_bytes else ""
    held = sorted(gpu.processes, key=lambda one: -(one.used_bytes or 0))[:3]
    names = ", ".join(
        f"{gib(one.used_bytes) if one.used_bytes is not None else 'some'} used by {one.name} "
        f"(pid {one.pid})"
        for one in held
    )
    more = len(gpu.processes) - len(held)
    return f": {names}" + (f" and {more} more" if more else "")


def _cap(whole: int, gpus: tuple[Gpu, ...], parts: tuple[float, ...], need: Need) -> str:
    """Return what this split could hold: the GPU that is full first is the limit."""
    if len(gpus) == 1 or not whole:
        return ""
    room = min(
        max(0, gpu.room_bytes - need.gpu_overhead_bytes) / part
        for gpu, part in zip(gpus, parts, strict=True)
        if part > 0
    )
    return f" (this tensor_split holds at most {gib(int(room))} of model and KV cache)"
