"""Whose process is it? The mark in an engine's environment, and what it says. Pure.

Every engine carries the mark of the poolmgr that started it, and so does whatever it forks.
"""

from __future__ import annotations

from typing import Final

from attrs import frozen

MARK: Final = "ORCHD_ENGINE"
"""The variable."""


@frozen
class Mark:
    """Who started an engine, and where it serves."""

    socket: str
    """The engine's socket: there is one for each replica and run directory of a machine."""
    pid: int
    """Of the poolmgr."""
    started: int
    """When it started, in the kernel's clock ticks: with the pid, no two processes are alike."""

    def __str__(self) -> str:
        return f"{self.pid} {self.started} {self.socket}"


def parsed(text: str) -> Mark | None:
    """Return a mark from the variable's value; None where it is none of ours."""
    pid, _, rest = text.partition(" ")
    started, _, socket = rest.partition(" ")
    if not (_number(pid) and _number(started) and socket):
        return None
    return Mark(socket, int(pid), int(started))


def _number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 20


def mark_in(environ: bytes) -> Mark | None:
    """Return the mark in the bytes of /proc/PID/environ."""
    for entry in environ.split(b"\0"):
        name, _, value = entry.partition(b"=")
        if name == MARK.encode():
            return parsed(value.decode("utf-8", "surrogateescape"))
    return None
