"""Facts about GPUs, from the NVIDIA driver through pynvml or from a simulation for engine mock.

One small interface: `read()` gives every GPU that can be seen. What the facts mean for a replica is
decided in poolmgr/core.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol, TypeVar

import pynvml
import trio
from attrs import evolve

from orchd.config.devices import Devices as Configured
from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import DeviceMask
from poolmgr.core.gpus import Gpu, GpuProcess
from poolmgr.edge import procs

READ_DEADLINE_S: Final = 10.0
"""A healthy driver answers in milliseconds, a GPU that wakes from idle in 1-2 s (no persistence
mode); a driver that hangs holds the call for ever."""
MIB: Final = 1 << 20

T = TypeVar("T")


class DeviceLost(OrchError):  # noqa: N818 - it says what happened, as OrchError's kinds do
    """GPUs that answered before, or should, are gone until they are reset: DRIVER_RESET."""

    def __init__(self, indices: tuple[int, ...], message: str) -> None:
        super().__init__(Kind.DRIVER_RESET, message)
        self.indices = indices


class Devices(Protocol):
    """A source of facts about GPUs."""

    simulated: bool

    async def read(self) -> tuple[Gpu, ...]:
        """Return every GPU that can be seen, by index. Raises OrchError(DRIVER_UNAVAILABLE) and
        DeviceLost."""
        ...


def masked(gpus: tuple[Gpu, ...], mask: DeviceMask) -> tuple[Gpu, ...]:
    """Return the GPUs of `mask`. Raises OrchError(DEVICE_MISSING) that says which there are."""
    by_index = {gpu.index: gpu for gpu in gpus}
    missing = [index for index in mask.indices if index not in by_index]
    if missing:
        there = ", ".join(f"{gpu.index} ({gpu.name})" for gpu in gpus) or "none"
        wanted = " and ".join(map(str, missing))
        raise OrchError(
            Kind.DEVICE_MISSING, f"GPU {wanted} of the mask cannot be used; usable here: {there}"
        )
    split = [index for index in mask.indices if by_index[index].mig]
    if split:
        wanted = " and ".join(map(str, split))
        raise OrchError(
            Kind.DEVICE_MISSING,
            f"GPU {wanted} of the mask is split into MIG instances, and a mask names whole GPUs: "
            f"take it out of the mask, or end the split with nvidia-smi -i {split[0]} -mig 0",
        )
    return tuple(by_index[index] for index in mask.indices)


class Simulated:
    """The GPUs of `devices.simulated`: a demonstration without any hardware."""

    simulated = True

    def __init__(
        self, configured: Configured, mask: DeviceMask, held_bytes: Callable[[], int]
    ) -> None:
        """`held_bytes()` is what the engine holds now, spread evenly over the mask."""
        self._configured = configured.simulated
        self._reserved_bytes = configured.reserved_bytes
        self._mask = mask
        self._held_bytes = held_bytes

    async def read(self) -> tuple[Gpu, ...]:
        """Return the configured GPUs, with the engine's memory on those of the mask."""
        held = self._held_bytes() // len(self._mask.indices)
        return tuple(
            Gpu(
                index=index,
                uuid=f"SIMULATED-{index}",
                name=device.name,
                total_bytes=device.vram_mb * MIB,
                used_bytes=held if index in self._mask.indices else 0,
                reserved_bytes=self._reserved_bytes(index),
            )
            for index, device in enumerate(self._configured)
        )


class Nvml:
    """The GPUs of this machine. The only source of device facts on a real one.

    Calls run in a worker thread with a deadline: the library blocks inside the kernel while a GPU
    wakes or falls off the bus, and the loop that relays tokens must not wait for it. The session
    is never closed: a failure ends the process, and nvmlShutdown would wait for a call that hangs.
    """

    simulated = False

    def __init__(self, mask: DeviceMask, configured: Configured | None = None) -> None:
        self._mask = mask
        self._reserved_bytes = (configured or Configured()).reserved_bytes
        self._open = False
        self._answered = False
        """Whether it has told of every GPU of the mask once."""
        self._limiter = trio.CapacityLimiter(1)  # one hung call, not one more each second

    async def read(self) -> tuple[Gpu, ...]:
        """Return every GPU that the driver lets this process open."""
        try:
            with trio.fail_after(READ_DEADLINE_S):
                return await trio.to_thread.run_sync(
                    self._read, abandon_on_cancel=True, limiter=self._limiter
                )
        except trio.TooSlowError:
            raise OrchError(
                Kind.DRIVER_UNAVAILABLE,
                f"the NVIDIA driver did not answer within {READ_DEADLINE_S:.0f} s",
            ) from None
        except pynvml.NVMLError as exc:
            if self._answered:
                raise DeviceLost(
                    self._mask.indices, f"the NVIDIA driver is gone, and it was here before: {exc}"
                ) from exc
            raise OrchError(
                Kind.DRIVER_UNAVAILABLE, f"the NVIDIA driver does not answer: {exc}"
            ) from exc

    def _read(self) -> tuple[Gpu, ...]:
        if not self._open:
            pynvml.nvmlInit()
            self._open = True
        gpus = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            try:
                gpu = _gpu(index, pynvml.nvmlDeviceGetHandleByIndex(index))
                gpus.append(evolve(gpu, reserved_bytes=self._reserved_bytes(index)))
            except pynvml.NVMLError_NoPermission:
                continue  # DeviceAllow= of another mask: as good as not there
            except pynvml.NVMLError as exc:
                # a sick one beside the mask is the trouble of its own pool [OC-POOL-3020]
                if index in self._mask.indices:
                    raise _sick(index, exc) from exc
        self._answered = True
        return tuple(gpus)


_GONE: Final = (pynvml.NVMLError_GpuIsLost, pynvml.NVMLError_ResetRequired)


def _sick(index: int, exc: pynvml.NVMLError) -> OrchError:
    words = f"GPU {index} does not answer: {exc} (journalctl -k -g Xid tells why)"
    if isinstance(exc, _GONE):
        return DeviceLost((index,), words)
    return OrchError(Kind.DRIVER_UNAVAILABLE, words)


_UNSAID: Final = (
    pynvml.NVMLError_NotSupported,
    pynvml.NVMLError_NoPermission,
    pynvml.NVMLError_FunctionNotFound,
)


def _gpu(index: int, handle: Any) -> Gpu:
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    rates = _said(lambda: pynvml.nvmlDeviceGetUtilizationRates(handle))
    capability = _said(lambda: pynvml.nvmlDeviceGetCudaComputeCapability(handle))
    mig = _said(lambda: pynvml.nvmlDeviceGetMigMode(handle))
    return Gpu(
        index=index,
        uuid=_text(pynvml.nvmlDeviceGetUUID(handle)),
        name=_text(pynvml.nvmlDeviceGetName(handle)),
        total_bytes=int(memory.total),
        used_bytes=int(memory.used),
        utilization_percent=None if rates is None else int(rates.gpu),
        compute_capability=None if capability is None else f"{capability[0]}.{capability[1]}",
        processes=_processes(handle),
        mig=mig is not None and mig[0] == pynvml.NVML_DEVICE_MIG_ENABLE,
    )


def _processes(handle: Any) -> tuple[GpuProcess, ...] | None:
    compute = _said(lambda: pynvml.nvmlDeviceGetComputeRunningProcesses(handle))
    graphics = _said(lambda: pynvml.nvmlDeviceGetGraphicsRunningProcesses(handle))
    if compute is None:
        return None
    used: dict[int, int | None] = {}
    for process in [*compute, *(graphics or [])]:
        held = process.usedGpuMemory
        used[int(process.pid)] = None if held is None else int(held)
    return tuple(GpuProcess(pid, procs.name(pid), held) for pid, held in used.items())


def _said(ask: Callable[[], T]) -> T | None:
    """Return what the driver says, None for what it cannot say on this GPU."""
    try:
        return ask()
    except _UNSAID:
        return None


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
