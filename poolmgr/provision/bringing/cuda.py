"""Was a program built with CUDA? A build for the CPU is refused before any pool starts it.

Two looks: what it links, and which devices it lists. Both must say CUDA.
"""

from __future__ import annotations

import mmap
import re
from pathlib import Path
from typing import Final

from orchd.wire.errors import Kind, OrchError
from poolmgr.provision.bringing import cmakelog
from poolmgr.provision.machine import tool
from poolmgr.provision.machine.tool import Log
from poolmgr.provision.plans.preflight import DRIVER

LIST_S: Final = 120.0
"""The first use of a GPU after a boot takes tens of seconds without persistence mode."""
LINKED: Final = (b"libcuda.so.1", b"libcudart.so", b"libcublas.so")
"""What a program or library with CUDA names: to be linked, or to be opened by cudart itself."""
PLUGIN: Final = "libggml-cuda*.so*"
"""Builds with loadable backends have CUDA in a file of its own, beside the program."""
_ABSENT: Final = re.compile(r"error while loading shared libraries: (lib(?:cu|nv)\w*\.so[.\d]*):")
_FAILED: Final = re.compile(r"ggml_cuda_init: failed to initialize CUDA: (.+)")
_DEVICE: Final = re.compile(r"^\s*CUDA\d+\s*:", re.MULTILINE)


async def check(program: Path, log: Log) -> None:
    """Refuse a program without CUDA. Raises OrchError(CPU_FALLBACK, ENGINE_MISSING)."""
    if not linked(program):
        raise OrchError(
            Kind.CPU_FALLBACK,
            f"{program} was built without CUDA: it links none of its libraries, and there is no "
            f"{PLUGIN} beside it",
        )
    said = await tool.ask([str(program), "--list-devices"], LIST_S)
    log.write(f"$ {program} --list-devices\n{said.text if said else 'no answer'}")
    if said is None:
        raise OrchError(Kind.ENGINE_MISSING, f"{program} --list-devices does not answer")
    if said.code:
        why = f"{program} --list-devices fails ({said.code}): {unloaded(said.text)}"
        raise OrchError(Kind.ENGINE_MISSING, why)
    if not lists_cuda(said.text):
        raise OrchError(
            Kind.CPU_FALLBACK,
            f"{program} lists no CUDA device{why_none(said.text)}: it would run on the CPU",
        )


def unloaded(text: str) -> str:
    """Return the last line of what a program said before it failed, and what it lacks."""
    lines = text.strip().splitlines() or ["nothing"]
    said = lines[-1][:300]
    found = _ABSENT.search(said)
    if found is None:
        return said
    driver = found[1].startswith("libcuda.so")
    return f"{said} ({f'the NVIDIA driver: {DRIVER}' if driver else cmakelog.TOOLKIT})"


def linked(program: Path) -> bool:
    """Whether the program, or a backend beside it, names CUDA's libraries. Blocks, a little."""
    program = program.resolve()
    files = [program]
    for folder in (program.parent, program.parent.parent / "lib"):
        files += sorted(folder.glob(PLUGIN))
    return any(_names_cuda(file) for file in files)


def lists_cuda(text: str) -> bool:
    """Whether the answer to --list-devices has a CUDA device: `  CUDA0: NVIDIA ... (24 MiB)`."""
    return _DEVICE.search(text) is not None


def why_none(text: str) -> str:
    """Return what llama.cpp says of it in parentheses, such as a driver too old; else nothing."""
    found = _FAILED.search(text)
    return f" ({found[1].strip()[:200]})" if found is not None else ""


def _names_cuda(path: Path) -> bool:
    with path.open("rb") as file:
        if path.stat().st_size == 0:
            return False
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return any(data.find(name) >= 0 for name in LINKED)
