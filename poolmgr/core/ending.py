"""Why an engine ended: no VRAM, no host memory, a CUDA error, or by itself.

Facts in, a kind and words out. What the driver says of the GPU is xid.py's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from attrs import frozen

from orchd.wire.errors import Kind
from poolmgr.core.gpus import gib

SIGKILL: Final = -9
_CUDA_ERROR: Final = re.compile(
    r"CUDA error|CUDA_ERROR_[A-Z]|cudaError[A-Z]|CUBLAS_STATUS_(?!SUCCESS)|CUDA driver error"
)
"""In the words of ggml (ggml-cuda.cu, ggml_cuda_error), of torch, and of the CUDA APIs."""


def cuda_error(lines: Iterable[str]) -> str | None:
    """Return the first line in which an engine names a CUDA error; None: it names none."""
    return next((line for line in lines if _CUDA_ERROR.search(line)), None)


@frozen(kw_only=True)
class Ending:
    """What is known when an engine has ended."""

    words: str
    """`exited with code 1`, `was killed by SIGKILL`."""
    code: int
    was_ready: bool
    oom_line: str | None = None
    """The engine's line about VRAM that ran out."""
    cuda_line: str | None = None
    """The engine's line about a CUDA error."""
    own_oom_kills: int | None = None
    """Processes of the engine's cgroup, or of our unit's, that the kernel killed for memory while
    it ran (memory.events, oom_kill). None: there is no such count."""
    machine_oom_kills: int = 0
    """The same of the whole machine (/proc/vmstat)."""
    ram_free_bytes: int = 0
    """Of the host, now."""


def judge(ending: Ending) -> tuple[Kind, str]:
    """Return the kind of the failure, and a clause that follows `the engine ` [ORCH-3039]."""
    when = "" if ending.was_ready else " before it served"
    said = f"{ending.words}{when}"
    if ending.oom_line is not None:
        doing = "while it served" if ending.was_ready else "while it loaded"
        return Kind.VRAM_SHORT, f"ran out of VRAM {doing} and {ending.words}: {ending.oom_line}"
    if ending.own_oom_kills:
        return Kind.RAM_SHORT, (
            f"{said}: the kernel killed it because host memory ran out (memory.events of its "
            f"cgroup); {gib(ending.ram_free_bytes)} are available now"
        )
    if ending.code == SIGKILL:
        if ending.own_oom_kills is None and ending.machine_oom_kills:
            return Kind.RAM_SHORT, (
                f"{said}, while the kernel killed processes because host memory ran out "
                f"(/proc/vmstat); {gib(ending.ram_free_bytes)} are available now"
            )
        if ending.own_oom_kills == 0:
            said += " by a person or a program: the kernel counted no kill for memory"
        else:
            said += " by a person, or by a program"
    if ending.cuda_line is not None:
        return Kind.CUDA_ERROR, f"{said} on a CUDA error: {ending.cuda_line}"
    if not ending.was_ready:
        return Kind.ENGINE_START_FAILED, said
    if ending.code == 0:
        return Kind.ENGINE_EXITED, f"{said} while it served, and nobody here asked it to"
    return Kind.ENGINE_DIED, said
