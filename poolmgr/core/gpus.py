"""What a device backend says of a GPU, and how bytes are told. No device is asked here."""

from __future__ import annotations

from attrs import frozen


@frozen
class GpuProcess:
    """A process that holds memory of a GPU."""

    pid: int
    name: str
    """Short program name; `?` where it cannot be read."""
    used_bytes: int | None
    """None where NVML does not say (WDDM, some containers)."""


@frozen(kw_only=True)
class Gpu:
    """One GPU at one moment."""

    index: int
    """The NVML index: what a device mask names."""
    uuid: str
    """What CUDA_VISIBLE_DEVICES names."""
    name: str
    total_bytes: int
    used_bytes: int
    utilization_percent: int | None = None
    compute_capability: str | None = None
    processes: tuple[GpuProcess, ...] | None = ()
    """None: NVML refuses to list them."""

    @property
    def free_bytes(self) -> int:
        """Bytes that nobody holds."""
        return max(0, self.total_bytes - self.used_bytes)


def gib(size: int) -> str:
    """Return bytes for a reader, as nvidia-smi counts them: `9.8 GiB`, `512 MiB` below one."""
    if size < 2**30:
        return f"{size / 2**20:.0f} MiB"
    return f"{size / 2**30:.1f} GiB"


def named(gpus: tuple[Gpu, ...]) -> str:
    """Return `GPU 0 (NVIDIA RTX 4090)` or `GPUs 0 and 1 (NVIDIA RTX 4090)`."""
    numbers = " and ".join(str(gpu.index) for gpu in gpus)
    names = ", ".join(dict.fromkeys(gpu.name for gpu in gpus))
    return f"GPU{'s' if len(gpus) > 1 else ''} {numbers} ({names})"
