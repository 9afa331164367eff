"""What llama-server's arguments and its lines say of memory: where what goes, what failed.

Option names and defaults are those of `llama-server --help` of b11669; the lines are ggml's and
llama.cpp's own. How much it comes to is poolmgr/core's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from attrs import frozen

_VALUED: Final = {
    "ctx": ("-c", "--ctx-size"),
    "slots": ("-np", "--parallel"),
    "layers": ("-ngl", "--gpu-layers", "--n-gpu-layers"),
    "type_k": ("-ctk", "--cache-type-k"),
    "type_v": ("-ctv", "--cache-type-v"),
    "load_mode": ("-lm", "--load-mode"),
    "split": ("-ts", "--tensor-split"),
    "mode": ("-sm", "--split-mode"),
}
_ON: Final = {
    "unified": ("-kvu", "--kv-unified"),
    "kv_on_gpu": ("-kvo", "--kv-offload"),
    "mmap": ("--mmap",),
    "mlock": ("--mlock",),
}
_OFF: Final = {
    "unified": ("-no-kvu", "--no-kv-unified"),
    "kv_on_gpu": ("-nkvo", "--no-kv-offload"),
    "mmap": ("--no-mmap",),
}
_ELSEWHERE: Final = (
    "-ot", "--override-tensor", "-cmoe", "--cpu-moe", "-ncmoe", "--n-cpu-moe", "--n-cpu-ffn",
    "-ncffn", "-dev", "--device", "-mg", "--main-gpu",
)  # fmt: skip
_MORE: Final = {
    "draft model": ("-md", "--model-draft", "--spec-draft-model", "-hfd", "--spec-draft-hf"),
    "projector": ("-mm", "--mmproj", "-mmu", "--mmproj-url"),
    "adapters": ("--lora", "--lora-scaled", "--control-vector", "--control-vector-scaled"),
}


@frozen(kw_only=True)
class Placement:
    """Where an engine was told to keep what."""

    ctx: int | None
    """Tokens over all slots. None: the model's own, or not a number."""
    slots: int | None
    layers: int | None
    """On the GPUs. None: the engine chooses."""
    type_k: str = "f16"
    type_v: str = "f16"
    unified: bool = False
    kv_on_gpu: bool = True
    mapped: bool = True
    """Weights that stay on the host are pages of the file, which the kernel can take back."""
    locked: bool = False
    """The whole file is held in host memory."""
    moved: bool = False
    """Some weights go elsewhere than their layer: how many bytes is not known."""
    split: tuple[float, ...] | None = None
    more: tuple[str, ...] = ()
    """What else takes memory, that nobody has counted."""


def placement(arguments: Sequence[str]) -> Placement:
    """Return what these arguments mean; the last of a kind counts, as in llama.cpp."""
    said: dict[str, str] = {}
    flags = {"unified": False, "kv_on_gpu": True, "mmap": True, "mlock": False}
    for at, word in enumerate(arguments):
        value = arguments[at + 1] if at + 1 < len(arguments) else ""
        said |= {name: value for name, words in _VALUED.items() if word in words}
        flags |= {name: True for name, words in _ON.items() if word in words}
        flags |= {name: False for name, words in _OFF.items() if word in words}
    mode = said.get("load_mode", "auto")
    return Placement(
        ctx=_number(said.get("ctx")) or None,
        slots=_number(said.get("slots")) or None,
        layers=_number(said.get("layers")),
        type_k=said.get("type_k", "f16"),
        type_v=said.get("type_v", "f16"),
        unified=flags["unified"],
        kv_on_gpu=flags["kv_on_gpu"],
        mapped=flags["mmap"] and mode in ("auto", "mmap", "mmap+mlock"),
        locked=flags["mlock"] or "mlock" in mode,
        moved=any(word in _ELSEWHERE for word in arguments)
        or said.get("mode", "layer") not in ("layer", "row"),
        split=_split(said.get("split")),
        more=tuple(name for name, words in _MORE.items() if any(w in arguments for w in words)),
    )


def _number(text: str | None) -> int | None:
    """Return a whole number; `all` is every layer."""
    if text == "all":
        return ALL_LAYERS
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 12 else None


ALL_LAYERS: Final = 1 << 20


def _split(text: str | None) -> tuple[float, ...] | None:
    try:
        return tuple(float(part) for part in text.split(",")) if text else None
    except ValueError:
        return None


_OUT_OF_VRAM: Final = re.compile(
    r"cudaMalloc failed: out of memory"
    r"|CUDA error: out of memory"
    r"|cudaErrorMemoryAllocation"
    r"|CUDA_ERROR_OUT_OF_MEMORY"
    r"|unable to allocate CUDA\d+ buffer"
    r"|failed to allocate CUDA\d+ buffer"
)
_TELLING: Final = re.compile(
    r"offloaded \d+/\d+ layers"
    r"|no usable GPU found"
    r"|compiled without GPU support"
    r"|failed to initialize CUDA"
    r"|no CUDA-capable device"
    r"|driver version is insufficient"
    r"|failed to (?:load|find) .*cuda"
)
_OFFLOADED: Final = re.compile(r"offloaded (\d+)/(\d+) layers")


def telling(line: str) -> bool:
    """Whether a line is kept beyond its turn: it names the cause of what may come."""
    return bool(_OUT_OF_VRAM.search(line) or _TELLING.search(line))


def out_of_vram(lines: Iterable[str]) -> str | None:
    """Return the line in which the engine ran out of a GPU's memory."""
    return next((line for line in lines if _OUT_OF_VRAM.search(line)), None)


def why_on_cpu(lines: Iterable[str]) -> str | None:
    """Return the engine's own words about why its weights are not on a GPU."""
    for line in lines:
        counts = _OFFLOADED.search(line)
        if counts is not None and counts[1] == counts[2]:
            continue
        if _TELLING.search(line):
            return line
    return None
