"""Folders of small files that survive a kill at any instant. The one module here that does IO.

A file is written beside its name, synced, renamed over it, and then the folder is synced: whoever
opens the folder later finds the old bytes or the new ones. Calls block and raise OSError; two calls
that change one folder must not run at the same time. What the bytes mean is not known here.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterable
from typing import Final

BESIDE: Final = ".tmp"
"""Behind the name of a file that is being written. What a kill left of it is removed by `open`."""
ASIDE: Final = ".bad"
"""Behind the name of a file that could not be used."""
MAX_BYTES: Final = 16 << 20  # a record is smaller by far, a content at most 4 MiB
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,159}")
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CHUNK: Final = 1 << 20


class Folder:
    """One folder of ours. Its files are for our user alone."""

    def __init__(self, path: str) -> None:
        self.path = path

    def open(self) -> None:
        """Make the folder where it is not, and remove what a kill left half-written."""
        make_folder(self.path)
        left = [name for name in os.listdir(self.path) if name.endswith(BESIDE)]
        for name in left:
            os.unlink(os.path.join(self.path, name))
        if left:
            sync_folder(self.path)

    def names(self) -> list[str]:
        """Return the names of the files that are whole, sorted."""
        return sorted(
            name
            for name in os.listdir(self.path)
            if _NAME.fullmatch(name) and not name.endswith((BESIDE, ASIDE))
        )

    def read(self, name: str) -> bytes:
        """Return the bytes of a file. Raises OSError, also for what is no plain file of ours."""
        fd = os.open(self._at(name), _READ)
        with os.fdopen(fd, "rb") as file:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_BYTES:
                raise OSError(f"{name} is no file of at most {MAX_BYTES} bytes")
            return file.read()

    def write(self, name: str, data: bytes) -> None:
        """Put `data` under `name`, in the place of what was there. Returns when the disk has it."""
        path = self._at(name)
        beside = path + BESIDE
        try:
            fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                rest = memoryview(data)
                while rest:
                    rest = rest[os.write(fd, rest) :]
                os.fsync(fd)
            finally:
                os.close(fd)
            os.rename(beside, path)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(beside)  # a full disk gets its space back
            raise
        sync_folder(self.path)

    def remove(self, name: str) -> None:
        """Remove a file; none of that name is no error. Returns when the disk knows."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._at(name))
        sync_folder(self.path)

    def set_aside(self, name: str) -> str:
        """Rename a file that cannot be used, so that nobody stumbles over it again; return where
        it is now. One that was set aside under this name before is replaced."""
        path = self._at(name)
        os.rename(path, path + ASIDE)
        sync_folder(self.path)
        return path + ASIDE

    def _at(self, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name[:40]!r} is no name of a file here")
        return os.path.join(self.path, name)


def make_folder(path: str) -> None:
    """Make a folder and those above it; each is synced into its parent."""
    parent = os.path.dirname(path)
    if not os.path.isdir(path):
        if parent and parent != path:
            make_folder(parent)
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)
        sync_folder(parent or ".")


def sync_folder(path: str) -> None:
    """Have the disk know the names in a folder."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def hold(path: str) -> int | None:
    """Return a descriptor that holds the lock `path` until it is closed; None: another has it.

    The kernel lets go of it when the process dies.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


def release(fd: int) -> None:
    """Let go of what `hold` returned."""
    os.close(fd)


def is_file(path: str) -> bool:
    """Whether there is a plain file, or a link to one."""
    return os.path.isfile(path)


def size_of(paths: Iterable[str]) -> int:
    """Return the bytes of these files; one that is not there counts nothing."""
    total = 0
    for path in paths:
        with contextlib.suppress(OSError):
            total += os.stat(path).st_size
    return total


def sha256_of(path: str, tick: Callable[[], None]) -> str:
    """Return the hex digest of a file of any size; `tick` is called for each MiB and may raise.

    Raises OSError, also for what is no plain file: a pipe or a device would never end.
    """
    return sha256_of_all((path,), tick)


def sha256_of_all(paths: Iterable[str], tick: Callable[[], None]) -> str:
    """Return the hex digest of files, one after the other: that of `cat`. Else as sha256_of."""
    hashed = hashlib.sha256()
    for path in paths:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(fd, "rb", buffering=0) as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise OSError("it is no plain file")
            while chunk := file.read(_CHUNK):
                hashed.update(chunk)
                tick()
    return hashed.hexdigest()
