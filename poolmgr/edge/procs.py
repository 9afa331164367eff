"""What /proc says of processes: an engine's tree, its memory, who answers a socket, free memory."""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path
from typing import Final

import trio

from orchd.kit import ports
from orchd.kit.client import Target

PROC: Final = Path("/proc")
MAX_TREE: Final = 4096  # an engine has tens of processes; a fork bomb has more
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


def tree(root: int) -> frozenset[int]:
    """Return `root` and its descendants; empty when `root` is gone.

    From /proc/PID/task/TID/children: a process is listed under the thread that started it. Reading
    these costs less than scanning every process of the machine each second.
    """
    if not (PROC / str(root)).exists():
        return frozenset()
    found, todo = {root}, [root]
    while todo and len(found) < MAX_TREE:
        for listing in (PROC / str(todo.pop()) / "task").glob("*/children"):
            try:
                children = {int(pid) for pid in listing.read_text().split()}
            except OSError:
                continue  # the thread has just ended
            todo += children - found
            found |= children
    return frozenset(found)


async def wait_gone(pid: int) -> None:
    """Return when the process has ended."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        await trio.lowlevel.wait_readable(pidfd)
    finally:
        os.close(pidfd)


def resident_bytes(pids: frozenset[int]) -> int:
    """Return the resident memory of these processes; shared pages count once for each."""
    total = 0
    for pid in pids:
        try:
            total += int((PROC / str(pid) / "statm").read_text().split()[1]) * _PAGE
        except (OSError, IndexError):
            continue
    return total


def available_bytes() -> int:
    """Return the host memory that can be had without swapping (MemAvailable)."""
    for line in (PROC / "meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise OSError("no MemAvailable in /proc/meminfo")


def server_pid(target: Target) -> int | None:
    """Return the process that answers `target`, None where it cannot be found.

    A unix socket's peer is told by the kernel (SO_PEERCRED). A loopback port is looked up in
    /proc/net/tcp and then among the open files of processes, which needs the right to see them.
    An ancestor of ours is a supervisor that made the socket for the engine (systemd, a shell): its
    tree holds half the machine, and would prove nothing.
    """
    if target.path is not None:
        pid = _peer_of(target.path)
        return None if pid in _ancestors() else pid
    found = ports.on_loopback(target.port, ports.listening()) if target.host in _LOOPBACK else None
    return None if found is None else _first(ports.holders_of(found.inode) - _ancestors())


def _first(holders: frozenset[int]) -> int | None:
    """Return a server that forked workers: they hold the port too, and are found in its tree."""
    return next((pid for pid in holders if _parent(pid) not in holders), None)


_LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")


def _parent(pid: int) -> int:
    """Return the parent of a process; 0 where there is none, or it cannot be seen."""
    try:
        return int((PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def started(pid: int) -> int | None:
    """Return when a process started, in clock ticks since the boot; None: it is gone, or a zombie.

    With the pid, this is a process's name for all its life (proc(5), starttime).
    """
    try:
        fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in ("Z", "X") else int(fields[19])


def name(pid: int) -> str:
    """Return the short name of a process's program; `?` where it cannot be read."""
    try:
        return (PROC / str(pid) / "comm").read_text("utf-8", "replace").strip()
    except OSError:
        return "?"


def _ancestors() -> frozenset[int]:
    found: set[int] = set()
    pid = os.getppid()
    while pid and pid not in found:
        found.add(pid)
        pid = _parent(pid)
    return frozenset(found)


def _peer_of(path: Path) -> int | None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except OSError:
            return None
        raw = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid = int(struct.unpack("3i", raw)[0])
    return pid or None  # 0: in a PID namespace that we cannot see
