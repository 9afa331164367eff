"""What can be configured of the machine's GPUs.

What is read of the real ones is poolmgr's.
"""

from __future__ import annotations

import enum

from attrs import frozen

from orchd.wire.ids import Count, Positive, Text


class Backend(enum.StrEnum):
    """Where the facts about GPUs come from."""

    NVML = "nvml"
    SIMULATED = "simulated"


@frozen(kw_only=True)
class SimulatedDevice:
    """One GPU that does not exist."""

    name: Text
    """What it is called; say that it is simulated."""
    vram_mb: Positive
    """Its memory in MiB."""


@frozen(kw_only=True)
class Reserve:
    """What engines leave free of one GPU."""

    gpu: Count
    """Its index, as nvidia-smi counts."""
    mb: Count
    """MiB that stay free when an engine is loaded there."""


@frozen(kw_only=True)
class Devices:
    """The GPUs of this machine."""

    backend: Backend = Backend.NVML
    """nvml asks the NVIDIA driver; simulated is for demos and only with engine mock."""
    simulated: tuple[SimulatedDevice, ...] = ()
    """The GPUs of backend simulated; the first has index 0."""
    reserve_mb: Count = Count(0)
    """MiB of each GPU that stay free when an engine is loaded: for a desktop, a game, a browser."""
    reserve: tuple[Reserve, ...] = ()
    """The same for single GPUs, in the place of reserve_mb: { gpu = 0, mb = 2048 }."""

    def reserved_bytes(self, gpu: int) -> int:
        """Return what stays free of the GPU with this index."""
        said = [one.mb for one in self.reserve if one.gpu == gpu]
        return (said[0] if said else self.reserve_mb) << 20
