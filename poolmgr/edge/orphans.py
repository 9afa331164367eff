"""Processes that an earlier life of this replica left behind: found in /proc, killed, named.

systemd kills the whole cgroup of a unit; this is for where nobody does: `orchctl up`, a kill that
failed. Whose a process is, its mark says (core/orphans.py).
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

import trio
from attrs import frozen

from orchd.kit import log
from orchd.kit.client import Target
from orchd.wire.ids import ReplicaId
from poolmgr.core.orphans import Mark, mark_in
from poolmgr.edge import procs
from poolmgr.edge.cgroup import ENGINE, left_over

GONE_S: Final = 5.0
"""From the kill to the end: a process that holds a GPU may be long in the driver on its way out."""


@frozen
class Orphan:
    """A process without its poolmgr."""

    pid: int
    started: int
    name: str
    why: str
    """How it was told, as a clause: `it carries the mark of poolmgr 17, which is gone`."""


def own_mark(socket: Path) -> Mark:
    """Return the mark of an engine that this process starts."""
    return Mark(str(socket), os.getpid(), procs.started(os.getpid()) or 0)


def find(sockets: Collection[Path]) -> list[Orphan]:
    """Return what is left of engines that served these sockets. Call it before one is started.

    Blocks for some 10 ms: it reads the environment of every process that it may.
    """
    names = {str(path) for path in sockets}
    reasons: dict[int, str] = {}
    for pid in _all():
        mark = _mark_of(pid)
        if mark is not None and mark.socket in names and not _lives(mark):
            reasons[pid] = f"it carries the mark of poolmgr {mark.pid}, which is gone"
    for pid in left_over((ENGINE, f"{ENGINE}1")):
        reasons.setdefault(pid, "it is in the engine's cgroup")
    for path in sockets:
        server = procs.server_pid(Target.unix(path)) if path.exists() else None
        if server is not None and _mark_of(server) is None:
            reasons.setdefault(server, f"it answers at {path}")
    reasons.pop(os.getpid(), None)
    found = []
    for pid, why in reasons.items():
        started = procs.started(pid)
        if started is not None:
            found.append(Orphan(pid, started, procs.name(pid), why))
    return found


async def reap(replica_id: ReplicaId, sockets: Collection[Path]) -> frozenset[int]:
    """Kill what `find` finds, and wait for its end; return the processes that it was."""
    found = await trio.to_thread.run_sync(find, sockets)
    with trio.move_on_after(GONE_S):
        async with trio.open_nursery() as nursery:
            for orphan in found:
                nursery.start_soon(_reap, replica_id, orphan)
    return frozenset(orphan.pid for orphan in found)


async def _reap(replica_id: ReplicaId, orphan: Orphan) -> None:
    try:
        pidfd = os.pidfd_open(orphan.pid)
    except ProcessLookupError:
        return  # it has ended by itself
    try:
        # from here on the number cannot become another's without our seeing it
        if procs.started(orphan.pid) != orphan.started:
            return
        killed = "and was killed"
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        except PermissionError:
            killed = "and may not be killed from here: it is another user's"
        except ProcessLookupError:
            killed = "and has ended"
        log.event(
            "orphan_reaped",
            f"Process {orphan.pid} ({orphan.name}) of an earlier life of {replica_id} was still "
            f"there, {killed}: {orphan.why}.",
            level="warning",
            replica_id=replica_id,
            orphan_pid=orphan.pid,
            orphan_name=orphan.name,
        )
        await trio.lowlevel.wait_readable(pidfd)
    finally:
        os.close(pidfd)


def _all() -> Iterator[int]:
    for entry in procs.PROC.iterdir():
        if entry.name.isdecimal():
            yield int(entry.name)


def _mark_of(pid: int) -> Mark | None:
    with contextlib.suppress(OSError):  # it has ended, or is another user's
        return mark_in((procs.PROC / str(pid) / "environ").read_bytes())
    return None


def _lives(mark: Mark) -> bool:
    return procs.started(mark.pid) == mark.started
