"""Whether orchd can still come in: a pool whose socket's file was removed can never be linked anew.

The link that stands goes on, so nothing is done before it ends. Then the pool has no jobs, and a
restart makes the file again: systemd's socket unit stops and starts with the service.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import Final

import trio

from orchd.kit import log
from orchd.kit.sockfile import files_of
from orchd.wire.errors import Kind, OrchError

LOOK_S: Final = 1.0


async def shut(listeners: Sequence[socket.socket], linked: Callable[[], bool]) -> OrchError:
    """Return once a socket's file is gone and no link stands; SOCKET_REMOVED."""
    files = files_of(listeners)
    told = False
    while True:
        await trio.sleep(LOOK_S)
        gone = next((each.path for each in files if each.removed()), None)
        if gone is None:
            continue
        if not linked():
            return OrchError(Kind.SOCKET_REMOVED, f"{gone} was removed: orchd cannot link to it")
        if not told:
            told = True
            log.event(
                "socket_removed",
                f"{gone} was removed. The link that stands goes on; when it ends the pool restarts "
                "and makes it again.",
                level="warning",
                path=str(gone),
            )
