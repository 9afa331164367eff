"""Why an engine broke: often it was its GPU. The driver is asked once; what it means is core's."""

from __future__ import annotations

import trio

from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import DeviceMask
from poolmgr.core.xid import Ledger
from poolmgr.edge.devices import DeviceLost, Devices, masked


def lost(error: OrchError, ledger: Ledger) -> None:
    """Count the GPUs that are gone, where that is what the error says."""
    if isinstance(error, DeviceLost):
        for index in error.indices:
            ledger.lost(index)


async def explained(
    error: OrchError, devices: Devices, mask: DeviceMask, ledger: Ledger
) -> OrchError:
    """Return why an engine really broke: its GPU is gone, or the driver told an Xid; else `error`.

    Asks the driver once; nothing is asked of an engine that broke for want of memory.
    """
    if devices.simulated or error.kind in (Kind.VRAM_SHORT, Kind.RAM_SHORT):
        return error
    try:
        masked(await devices.read(), mask)
    except OrchError as exc:
        lost(exc, ledger)
        return OrchError(exc.kind, f"{exc.message}; {error.message}")
    return ledger.blamed(error, trio.current_time())
