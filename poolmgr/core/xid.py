"""What the driver tells of a GPU in its events, and what a pool does about each. Pure.

An event is an Xid (a number that the driver gives to an error) or an ECC error that could not be
corrected. Hearing of them is poolmgr/edge/gpu_events.py's [ORCH-3053].
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from attrs import define, field, frozen

from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import Count, Positive
from orchd.wire.snapshot import DeviceEvents

APPLICATION: Final = "application_xid"
"""What is counted for an Xid that a program brought about, perhaps not ours."""
BLAME_S: Final = 10.0
"""How long before an engine's end an application's Xid may have come to be named with it. The
driver tells it in milliseconds; the engine first writes its own line, and may write a trace."""


@frozen
class GpuEvent:
    """One event of one GPU of the mask."""

    index: int
    xid: int | None
    """None: an ECC error without an Xid."""


@frozen
class Trouble:
    """What an event means for the pool."""

    error: OrchError
    drains: bool
    """Running jobs may end: what they compute is not in doubt."""


# https://docs.nvidia.com/deploy/xid-errors: what each means, and who is the usual cause
_APPLICATION: Final = {
    13: "graphics engine exception",
    31: "GPU memory page fault",
    43: "GPU stopped processing",
    45: "preemptive cleanup",
    68: "video processor exception",
    69: "graphics engine class error",
    109: "context switch timeout",
}
"""A program did it, and the GPU serves on. The device plugin of Kubernetes passes over the same
(but for 69): a game that crashes on the desktop's GPU must not end a pool."""
_ECC: Final = {
    48: "double bit ECC error",
    63: "memory page retired or row remapped",
    64: "page retirement or row remapping failed",
    92: "high rate of single bit ECC errors",
    94: "contained ECC error",
    95: "uncontained ECC error",
    171: "uncorrectable DRAM error",
    172: "uncorrectable SRAM error",
}
_RESET: Final = {
    61: "internal micro-controller breakpoint",
    62: "internal micro-controller halt",
    79: "GPU has fallen off the bus",
    119: "GSP RPC timeout",
    120: "GSP error",
    154: "GPU recovery action changed",
}
"""After these the GPU is gone, or wants a reset."""
_DRAINS: Final = frozenset({63, 92, 154})
"""What runs is not hurt: the page is taken out, the rate is a warning, the reset is asked for."""


def trouble(event: GpuEvent) -> Trouble | None:
    """Return what an event means for the pool; None: a program's fault, and the GPU serves on."""
    number, gpu = event.xid, f"GPU {event.index}"
    if number is None:
        error = OrchError(Kind.GPU_ECC, f"{gpu} had an ECC error that could not be corrected")
        return Trouble(error, drains=False)
    if number in _APPLICATION:
        return None
    kind = Kind.GPU_ECC if number in _ECC else Kind.GPU_XID
    kind = Kind.DRIVER_RESET if number in _RESET else kind
    return Trouble(OrchError(kind, f"{gpu}: {named(number)}"), drains=number in _DRAINS)


def named(xid: int) -> str:
    """Return `Xid 79 (GPU has fallen off the bus)`; of one that no table has, its number."""
    words = (_APPLICATION | _ECC | _RESET).get(xid)
    return f"Xid {xid} ({words})" if words else f"Xid {xid}"


@define
class Ledger:
    """The events of one life of a poolmgr: counts, and the last that a program brought about."""

    _counts: Counter[tuple[int, str]] = field(factory=Counter)
    _last: tuple[GpuEvent, float] | None = None

    def take(self, event: GpuEvent, now: float) -> Trouble | None:
        """Count an event; return what `trouble` says of it."""
        found = trouble(event)
        self._counts[event.index, APPLICATION if found is None else found.error.kind] += 1
        if found is None:
            self._last = event, now
        return found

    def lost(self, index: int) -> None:
        """A query says that the GPU is gone. Once in a life: there is no way back within one."""
        self._counts[index, Kind.DRIVER_RESET] = max(1, self._counts[index, Kind.DRIVER_RESET])

    def told(self) -> tuple[DeviceEvents, ...]:
        """Return the counts, as snapshots carry them."""
        return tuple(
            DeviceEvents(index=Count(index), reason=reason, count=Positive(count))
            for (index, reason), count in sorted(self._counts.items())
        )

    def blamed(self, error: OrchError, now: float) -> OrchError:
        """Return the error with the Xid that it came with, where one did: then that is its kind.

        Only for an engine that ended or hangs: an Xid explains no wrong configuration.
        """
        if self._last is None or error.kind not in _EXPLAINED or now - self._last[1] > BLAME_S:
            return error
        event = self._last[0]
        assert event.xid is not None, "an ECC error is no program's fault"
        return OrchError(
            Kind.GPU_XID,
            f"{error.message}; the driver told {named(event.xid)} of GPU {event.index} then",
        )


_EXPLAINED: Final = frozenset(
    {Kind.ENGINE_DIED, Kind.CUDA_ERROR, Kind.ENGINE_HUNG, Kind.ENGINE_UNHEALTHY}
)
