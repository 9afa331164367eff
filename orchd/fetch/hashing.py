"""SHA-256 of a file while it comes: the hash follows the front, so the end comes soon after it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import trio

from orchd.fetch.parts import Partial

STEP: Final = 32 << 20
"""Bytes that one call of a thread takes: some 20 ms."""
CHUNK: Final = 1 << 20


async def follow(
    partial: Partial, descriptor: int, moved: Callable[[], trio.lowlevel.ParkingLot]
) -> str:
    """Return the hex digest of a file that is being written, once it is whole."""
    digest, at = hashlib.sha256(), 0
    while True:
        front = partial.front
        if front - at >= STEP or (partial.done and front > at):
            end = min(front, at + STEP)
            await trio.to_thread.run_sync(_feed, digest.update, descriptor, at, end)
            at = end
        elif partial.done:
            return digest.hexdigest()
        else:
            await moved().park()


def of_files(paths: Sequence[Path]) -> str:
    """Return the hex digest of these files, one after the other: that of `cat`. Blocks."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
    return digest.hexdigest()


def _feed(update: Callable[[bytes], object], descriptor: int, at: int, end: int) -> None:
    while at < end:
        chunk = os.pread(descriptor, min(CHUNK, end - at), at)
        if not chunk:
            raise OSError("the file is shorter than what was written of it")
        update(chunk)
        at += len(chunk)
