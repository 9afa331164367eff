"""Whether clients can still come in: the files of orchd's own unix sockets, looked at now and then.

What is connected goes on without the file, and so does TCP. The sockets are systemd's, which alone
can make the file again, so all that is done here is to say it.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import trio

from orchd.kit import log
from orchd.kit.notify import Notifier
from orchd.kit.sockfile import files_of

LOOK_S: Final = 5.0
"""Between two looks."""


async def watch(listeners: Sequence[socket.socket], notifier: Notifier, status: str) -> None:
    """Tell in the log, and after `status` in the status line, when a file was removed; for ever."""
    files = files_of(listeners)
    told: set[Path] = set()
    while True:
        await trio.sleep(LOOK_S)
        for path in (each.path for each in files if each.removed()):
            said = f"{path} was removed, and nobody finds in by it: systemctl restart orchd.socket"
            notifier.status(f"{status}. {said}")
            if path not in told:
                told.add(path)
                log.event("socket_removed", f"{said}.", level="error", path=str(path))
