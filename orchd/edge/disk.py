"""The state folder, asked from the loop: each call of orchd/catalog runs in a thread, few at once.

Which calls may not overlap is the caller's to say (`Turn`). Hashing of models has a thread of its
own, so that it holds up no request.
"""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, TypeVar

import trio

from orchd.catalog import files
from orchd.catalog.shelf import Spoiled
from orchd.kit import log
from orchd.wire.errors import Kind, OrchError

T = TypeVar("T")

AT_ONCE: Final = 4
"""Threads that read or write; a write waits some milliseconds for the disk."""
TURN_S: Final = 10.0
"""For one's turn to write: a disk that takes longer answers nobody."""
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class Disk:
    """The state folder of this daemon; no other daemon writes to it meanwhile."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._threads = trio.CapacityLimiter(AT_ONCE)
        self._hashing = trio.CapacityLimiter(1)
        self._held: int | None = None
        self._shut = ""
        """Why nothing may be written; empty: it may."""

    async def open(self) -> None:
        """Make the folder and take its lock. A folder that cannot be used is logged, and writing
        to it refused; orchd serves without it."""
        self._shut = await self._taken()
        if self._shut:
            log.event(
                "state_unusable",
                f"Nothing is kept in {self.folder}: {self._shut}. Models and artifacts cannot be "
                "stored until orchd is started again.",
                level="error",
            )

    @property
    def usable(self) -> bool:
        """Whether the folder is ours to read and write."""
        return not self._shut

    def close(self) -> None:
        """Let go of the folder."""
        if self._held is not None:
            files.release(self._held)
            self._held = None

    async def read(self, call: Callable[[], T]) -> T:
        """Run a call that changes nothing. Raises OrchError(INTERNAL) when the disk does not."""
        try:
            return await trio.to_thread.run_sync(call, limiter=self._threads)
        except OSError as exc:
            raise self._broken("read", exc) from exc

    async def write(self, call: Callable[[], None]) -> None:
        """Run a call that changes a folder, in its Turn; it is over when this returns or raises.

        Raises OrchError: STORE_FULL without space, INTERNAL when the disk does not write.
        """
        if self._shut:
            why = f"nothing can be stored in {self.folder}: {self._shut}"
            raise OrchError(Kind.INTERNAL, why)
        try:
            await trio.to_thread.run_sync(call, limiter=self._threads)
        except OSError as exc:
            raise self._broken("written", exc) from exc

    async def sha256_of(self, paths: Sequence[str]) -> str:
        """Return the hex digest of files of any size, one after the other. Raises OSError; may be
        canceled."""
        return await trio.to_thread.run_sync(
            files.sha256_of_all,
            paths,
            trio.from_thread.check_cancelled,
            limiter=self._hashing,
            abandon_on_cancel=False,
        )

    async def _taken(self) -> str:
        path = str(self.folder)

        def take() -> int | None:
            files.make_folder(path)
            return files.hold(f"{path}/orchd.lock")

        try:
            self._held = await trio.to_thread.run_sync(take, limiter=self._threads)
        except OSError as exc:
            return exc.strerror or str(exc)
        return "" if self._held is not None else "another orchd uses it (its orchd.lock is held)"

    def _broken(self, done: str, exc: OSError) -> OrchError:
        why = f"the state folder cannot be {done}: {exc.strerror or exc}"
        if exc.errno in _FULL:
            return OrchError(Kind.STORE_FULL, why)
        log.event("state_failed", f"In {self.folder}: {exc}.", level="error")
        return OrchError(Kind.INTERNAL, why)


class Turn:
    """Who writes to one index: one at a time, first come, first served."""

    def __init__(self) -> None:
        self._lock = trio.Lock()

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[None]:
        """Hold it for the body. Raises OrchError(INTERNAL) after 10 s of waiting."""
        try:
            with trio.fail_after(TURN_S):
                await self._lock.acquire()
        except trio.TooSlowError:
            why = f"the disk has not taken what was sent before for {TURN_S:g} s"
            raise OrchError(Kind.INTERNAL, why) from None
        try:
            yield
        finally:
            self._lock.release()


def tell_spoiled(spoiled: list[Spoiled]) -> None:
    """Log each file that could not be used; it was set aside, and orchd goes on without it."""
    for each in spoiled:
        log.event(
            "state_spoiled",
            f"{each.path} could not be read and is left out: {each.why}.",
            level="warning",
            path=each.path,
        )
