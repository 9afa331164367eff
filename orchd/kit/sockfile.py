"""The file of a listening unix socket, and whether it still leads there.

A socket outlives its file: what is connected goes on, and nobody new finds the way. Making the
socket is fds.py's; what to do about a removed file is the daemons'.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from pathlib import Path

from attrs import frozen


@frozen
class SocketFile:
    """The file of one socket as it was when it was looked at first."""

    path: Path
    identity: tuple[int, int] | None
    """Device and inode; None: it was gone already."""

    @classmethod
    def of(cls, path: Path) -> SocketFile:
        """Look at it now, before anybody could have replaced it."""
        return cls(path, _identity(path))

    def removed(self) -> bool:
        """Whether it is gone, or another socket's by now."""
        return self.identity is None or _identity(self.path) != self.identity


def files_of(listeners: Iterable[socket.socket]) -> list[SocketFile]:
    """Return the files of those that have one."""
    named = [listener.getsockname() for listener in listeners if listener.family == socket.AF_UNIX]
    return [
        SocketFile.of(Path(name)) for name in named if isinstance(name, str) and name[:1] == "/"
    ]


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
