"""Models that pools fetched, on their way into the catalog: heard on a link, registered soon after.

How one is called there, and what it is compared with, is the catalog's.
"""

from __future__ import annotations

from typing import Final

import trio

from orchd.edge.catalog import Catalog
from orchd.kit import log
from orchd.wire.errors import OrchError
from orchd.wire.ids import Digest
from orchd.wire.modelref import shown

WAITING_MAX: Final = 256
"""Replicas of one orchd are fewer; a pool that fetches ever more models would be broken."""


class Adoption:
    """Registers what pools say that they fetched; the failure of one stops nothing else."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._send, self._heard = trio.open_memory_channel[tuple[str, Digest]](WAITING_MAX)

    def hear(self, ref: str, digest: Digest) -> None:
        """A pool has a fetched model: have it registered soon. Never waits."""
        try:
            self._send.send_nowait((ref, digest))
        except trio.WouldBlock:
            _refused(ref, f"{WAITING_MAX} others wait for the disk")

    async def run(self) -> None:
        """Register until cancelled."""
        async for ref, digest in self._heard:
            try:
                await self._catalog.adopt(ref, digest)
            except OrchError as exc:
                _refused(ref, exc.message)


def _refused(ref: str, why: str) -> None:
    log.event(
        "model_not_registered",
        f"{shown(ref)} was fetched, and the catalog does not have it: {why}. Serving goes on; to "
        "register it: orchctl models add.",
        level="warning",
        model_id=shown(ref),
    )
