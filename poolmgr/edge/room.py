"""What is done about memory around an engine: lessons of running out, and its return after the end.

Decisions are core's (capacity.py, ending.py); staging.py, process.py and preload.py come here.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Final

import trio
from attrs import evolve

from orchd.kit import log
from orchd.wire.errors import OrchError
from orchd.wire.ids import DeviceMask, ReplicaId
from poolmgr.core import capacity
from poolmgr.core.capacity import Key
from poolmgr.core.fit import Need
from poolmgr.core.gpus import Gpu, gib
from poolmgr.edge.devices import Devices, masked
from poolmgr.provision.models import lessons

MEMORY_BACK_S: Final = 5.0
"""From an engine's end to its memory's return: the driver takes some 100 ms for tens of GB."""
LOOK_S: Final = 0.05


class Room:
    """The memory of one engine of a replica."""

    def __init__(self, path: Path, replica_id: ReplicaId, mask: DeviceMask) -> None:
        self._path = path
        self._replica_id = replica_id
        self._mask = mask
        self._key: Key | None = None
        self._gpus: tuple[Gpu, ...] = ()

    def taught(self, need: Need, key: Key) -> Need:
        """Return a need with what this very engine has been taught."""
        self._key = key
        return evolve(need, at_least=lessons.load(self._path).recall(key))

    def begin(self, gpus: tuple[Gpu, ...]) -> None:
        """Remember what is free for the engine that is to start."""
        self._gpus = gpus

    async def ran_out(self, devices: Devices, line: str, pids: Collection[int]) -> None:
        """The engine has ended, having run out of VRAM: the next one is not tried with as little.

        What others took meanwhile is not the engine's fault: what is free after its end counts,
        where it is less than before its start.
        """
        if self._key is None or not self._gpus:
            return
        gpu = capacity.which(line, self._gpus)
        free = gpu.free_bytes
        try:
            now = {one.index: one for one in await devices.read()}
        except OrchError:
            now = {}
        if gpu.index in now:
            after = now[gpu.index]
            free = min(free, after.free_bytes + (after.held_by(pids) or 0))
        known = lessons.load(self._path).learn(self._key, gpu, free)
        await trio.to_thread.run_sync(lessons.save, self._path, known)
        log.event(
            "capacity_learnt",
            f"With {gib(free)} free on GPU {gpu.index} the engine ran out of VRAM: with less than "
            f"{gib(known.recall(self._key)[gpu.index])} it is not started again. To forget this, "
            f"remove {self._path}.",
            level="warning",
            replica_id=self._replica_id,
            device=gpu.index,
        )

    async def wait_back(self, devices: Devices, pids: Collection[int]) -> None:
        """Return when none of these processes, which have ended, holds memory of a GPU.

        After MEMORY_BACK_S the holder is named in the log.
        """
        held: list[str] = []
        with trio.move_on_after(MEMORY_BACK_S):
            while True:
                try:
                    held = _held(masked(await devices.read(), self._mask), pids)
                except OrchError:
                    return  # the driver's own trouble, told by whoever reads next
                if not held:
                    return
                await trio.sleep(LOOK_S)
        log.event(
            "memory_not_returned",
            f"{MEMORY_BACK_S:.0f} s after the engine's end {', '.join(held)}: nvidia-smi shows who "
            "holds it; a process stuck in the driver goes with a reset of the GPU or a reboot.",
            level="error",
            replica_id=self._replica_id,
        )


def _held(gpus: tuple[Gpu, ...], pids: Collection[int]) -> list[str]:
    return [
        f"{one.name} (pid {one.pid}) still holds "
        f"{'memory' if one.used_bytes is None else gib(one.used_bytes)} of GPU {gpu.index}"
        for gpu in gpus
        for one in gpu.processes or ()
        if one.pid in pids
    ]
