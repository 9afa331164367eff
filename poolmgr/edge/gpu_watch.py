"""A watch over the mask's GPUs while a replica lives: their figures, and what befalls them.

Reads them every heartbeat and hears their events (gpu_events.py); what an event means for the pool
is core/xid.py's.
"""

from __future__ import annotations

from typing import Final

import trio

from orchd.kit import log
from orchd.wire.errors import OrchError
from orchd.wire.ids import DeviceMask
from orchd.wire.snapshot import HEARTBEAT_S, Phase
from poolmgr.core import lifewords as lw
from poolmgr.core import xid
from poolmgr.core.life import Life
from poolmgr.edge import gpu_events
from poolmgr.edge.blame import lost
from poolmgr.edge.board import Board
from poolmgr.edge.devices import masked
from poolmgr.edge.health import Say
from poolmgr.edge.succession import Succession

LOG_AGAIN_S: Final = 60.0
"""The same event of the same GPU is logged so often; a broken program brings hundreds a second."""
ASLEEP: Final = (Phase.SLEEPING, Phase.WAKING)
"""Then nobody asks the driver: it suspends itself, and what it says meanwhile means nothing."""


class GpuWatch:
    """The watch of one replica. `say` tells its life."""

    def __init__(
        self, board: Board, life: Life, mask: DeviceMask, engines: Succession, say: Say
    ) -> None:
        self._board = board
        self._life = life
        self._mask = mask
        self._engines = engines
        self._say = say
        self._logged: dict[xid.GpuEvent, float] = {}

    async def refresh(self) -> None:
        """Read the GPUs and the engine's memory every heartbeat, once they are known."""
        while True:
            await trio.sleep(HEARTBEAT_S)
            if not self._board.gpus or self._asleep():
                continue
            try:
                self._board.gpus = masked(await self._engines.now.devices.read(), self._mask)
            except OrchError as exc:
                if self._asleep():
                    continue
                lost(exc, self._board.ledger)
                self._say(lw.Broke(exc))
                return
            # in a thread: an engine with hundreds of threads has as many files to read
            self._board.ram_bytes = await trio.to_thread.run_sync(
                self._engines.now.process.ram_bytes
            )

    def _asleep(self) -> bool:
        return self._life.phase in ASLEEP

    async def listen(self) -> None:
        """Hear the driver's events, once it has answered."""
        if self._engines.now.devices.simulated:
            return
        await self._board.gpus_known.wait()
        await gpu_events.listen(self._mask, self._told)

    def _told(self, event: xid.GpuEvent) -> None:
        now = trio.current_time()
        trouble = self._board.ledger.take(event, now)
        self._log(event, trouble, now)
        self._board.changed()
        if trouble is not None:
            self._say(lw.Sickened(trouble.error) if trouble.drains else lw.Broke(trouble.error))

    def _log(self, event: xid.GpuEvent, trouble: xid.Trouble | None, now: float) -> None:
        if now - self._logged.get(event, -LOG_AGAIN_S) < LOG_AGAIN_S:
            return
        self._logged = {e: at for e, at in self._logged.items() if now - at < LOG_AGAIN_S}
        self._logged[event] = now
        if trouble is None:
            assert event.xid is not None
            words = f"GPU {event.index}: {xid.named(event.xid)}, by a program on it"
        else:
            words = trouble.error.message
        log.event(
            "gpu_event",
            f"The NVIDIA driver tells: {words}.",
            level="warning" if trouble is None else "error",
            device=event.index,
            xid=event.xid,
            reason=xid.APPLICATION if trouble is None else trouble.error.kind,
        )
