"""What /proc says of processes: an engine's tree, its memory, who answers a socket, free memory."""

from __future__ import annotations

import os
import re
import socket
import struct
from pathlib import Path
from typing import Final

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
    """
    if target.path is not None:
        return _peer_of(target.path)
    inode = _listening_inode(target.port) if target.host in _LOOPBACK else None
    return None if inode is None else _holder_of(inode)


_LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")


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


def _listening_inode(port: int) -> str | None:
    wanted = re.compile(rf"^\s*\d+: [0-9A-F]+:{port:04X} [0-9A-F]+:0000 0A(?: \S+){{5}} (\d+)")
    for table in ("tcp", "tcp6"):
        try:
            lines = (PROC / "net" / table).read_text().splitlines()
        except OSError:
            continue
        for line in lines:
            match = wanted.match(re.sub(r" +", " ", line))
            if match:
                return match[1]
    return None


def _holder_of(inode: str) -> int | None:
    wanted = f"socket:[{inode}]"
    for entry in PROC.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            for link in (entry / "fd").iterdir():
                if str(link.readlink()) == wanted:
                    return int(entry.name)
        except OSError:
            continue  # gone, or another user's
    return None
