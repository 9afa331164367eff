"""Events of the mask's GPUs, heard of the driver through pynvml: Xids, and ECC errors.

NVML's event set tells them as they come: a call waits in a thread of its own, with a deadline. What
a GPU has no events for is polled, where it can be. What an event means is core/xid.py's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import pynvml
import trio
from attrs import define, field

from orchd.kit import log
from orchd.wire.ids import DeviceMask
from orchd.wire.snapshot import HEARTBEAT_S
from poolmgr.core.xid import GpuEvent

WAIT_MS: Final = 5000
"""One call waits so long for an event. Short enough for its thread to be found stuck, long enough
to cost nothing."""
STUCK_S: Final = WAIT_MS / 1000 + 10.0
"""Past that a call hangs in the driver (devices.py: READ_DEADLINE_S)."""
ECC_POLL_S: Final = HEARTBEAT_S

_XID: Final = int(pynvml.nvmlEventTypeXidCriticalError)
_ECC: Final = int(pynvml.nvmlEventTypeDoubleBitEccError)
Tell = Callable[[GpuEvent], None]


@define
class _Set:
    """The event set, and what it does not cover."""

    handle: Any
    """None where no GPU has events."""
    xids_unheard: list[int] = field(factory=list)
    ecc_polled: list[int] = field(factory=list)
    """GPUs whose ECC errors are counted and not told."""


async def listen(mask: DeviceMask, tell: Tell) -> None:
    """Tell every event of the mask's GPUs, for ever. The driver must have answered before.

    A driver that fails here is no news of its own: whoever reads the GPUs meets it too.
    """
    limiter = trio.CapacityLimiter(2)  # one that waits, one that polls; a hung one blocks its own
    try:
        events = await _in_thread(lambda: _open(mask), limiter)
    except (pynvml.NVMLError, trio.TooSlowError) as exc:
        events = _Set(None, list(mask.indices), list(mask.indices))
        log.event("gpu_events_missing", f"The driver opens no event set: {exc}.", level="warning")
    _say_unheard(events)
    async with trio.open_nursery() as nursery:
        if events.handle is not None:
            nursery.start_soon(_wait, mask, events, tell, limiter)
        if events.ecc_polled:
            nursery.start_soon(_poll_ecc, tuple(events.ecc_polled), tell, limiter)


def _say_unheard(events: _Set) -> None:
    if not events.xids_unheard:
        return
    numbers = " and ".join(map(str, events.xids_unheard))
    log.event(
        "gpu_events_polled",
        f"Xid events of GPU {numbers} are not told here: a lost GPU is seen by polling, within "
        f"{HEARTBEAT_S:.0f} s, and so are ECC errors where the GPU counts them.",
    )


async def _in_thread(call: Callable[[], Any], limiter: trio.CapacityLimiter) -> Any:
    with trio.fail_after(STUCK_S):
        return await trio.to_thread.run_sync(call, abandon_on_cancel=True, limiter=limiter)


def _open(mask: DeviceMask) -> _Set:
    pynvml.nvmlInit()
    made = _Set(pynvml.nvmlEventSetCreate())
    heard = False
    for index in mask.indices:
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        wanted = _supported(handle) & (_XID | _ECC)
        if wanted:
            try:
                pynvml.nvmlDeviceRegisterEvents(handle, wanted, made.handle)
                heard = True
            except pynvml.NVMLError:  # a sandbox or a virtual GPU that says it can, and cannot
                wanted = 0
        if not wanted & _XID:
            made.xids_unheard.append(index)
        if not wanted & _ECC:
            made.ecc_polled.append(index)
    if not heard:
        made.handle = None
    return made


def _supported(handle: Any) -> int:
    try:
        return int(pynvml.nvmlDeviceGetSupportedEventTypes(handle))
    except pynvml.NVMLError:
        return 0


async def _wait(mask: DeviceMask, events: _Set, tell: Tell, limiter: trio.CapacityLimiter) -> None:
    """Wait for events until the driver fails; what it then polls is ECC alone."""
    while True:
        try:
            event = await _in_thread(lambda: _next(mask, events.handle), limiter)
        except (pynvml.NVMLError, trio.TooSlowError) as exc:
            # a GPU that is lost ends the pool by the read of its figures, which names it
            log.event(
                "gpu_events_ended",
                f"The driver tells no more events: {exc or 'it does not answer'}. A lost GPU is "
                "seen by polling.",
                level="warning",
            )
            return
        if event is not None:
            tell(event)


def _next(mask: DeviceMask, handle: Any) -> GpuEvent | None:
    try:
        data = pynvml.nvmlEventSetWait_v2(handle, WAIT_MS)
    except pynvml.NVMLError_Timeout:
        return None
    index = _index_of(data.device, mask)
    if data.eventType == _XID:
        return GpuEvent(index, int(data.eventData))
    return GpuEvent(index, None) if data.eventType == _ECC else None


def _index_of(handle: Any, mask: DeviceMask) -> int:
    """Return which GPU it was: a lost one does not even say its number."""
    try:
        return int(pynvml.nvmlDeviceGetIndex(handle))
    except pynvml.NVMLError:
        return mask.indices[0]


async def _poll_ecc(indices: tuple[int, ...], tell: Tell, limiter: trio.CapacityLimiter) -> None:
    """Tell ECC errors by their counts; ends where no GPU has any."""
    before: dict[int, int] | None = None
    while True:
        try:
            counts = await _in_thread(lambda: _uncorrected(indices), limiter)
        except (pynvml.NVMLError, trio.TooSlowError):
            return
        if not counts:
            return
        for index, count in counts.items():
            if before is not None and count > before.get(index, count):
                tell(GpuEvent(index, None))
        before = counts
        await trio.sleep(ECC_POLL_S)


def _uncorrected(indices: tuple[int, ...]) -> dict[int, int]:
    """Return the uncorrected ECC errors since the driver was loaded, of GPUs that count them."""
    counts = {}
    for index in indices:
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            counts[index] = int(
                pynvml.nvmlDeviceGetTotalEccErrors(
                    handle, pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, pynvml.NVML_VOLATILE_ECC
                )
            )
        except pynvml.NVMLError:
            continue  # a GeForce has no ECC; a lost GPU is the reader's news
    return counts
