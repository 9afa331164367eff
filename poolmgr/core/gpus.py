"""What a device backend says of a GPU, and how bytes are told. No device is asked here."""

from __future__ import annotations

from collections.abc import Collection

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
    mig: bool = False
    """It is split into MIG instances: nothing runs on it as a whole."""
    reserved_bytes: int = 0
    """What an engine has to leave free (devices.reserve_mb, devices.reserve)."""

    @property
    def free_bytes(self) -> int:
        """Bytes that nobody holds."""
        return max(0, self.total_bytes - self.used_bytes)

    @property
    def room_bytes(self) -> int:
        """Bytes that a new engine may take."""
        return max(0, self.free_bytes - self.reserved_bytes)

    def held_by(self, pids: Collection[int]) -> int | None:
        """Return what these processes hold of it; None where none of them is listed.

        Where NVML names no size, it is what is in use and no other process is known to hold: as
        much as it can be.
        """
        mine = [one for one in self.processes or () if one.pid in pids]
        if not mine:
            return None
        sizes = [one.used_bytes for one in mine]
        if None in sizes:
            others = [one for one in self.processes or () if one.pid not in pids]
            return max(0, self.used_bytes - sum(one.used_bytes or 0 for one in others))
        return sum(size or 0 for size in sizes)


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
