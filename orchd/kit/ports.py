"""Which TCP ports of this machine are taken, and by whom: /proc/net/tcp, tcp6, and open files."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from attrs import frozen

PROC: Final = Path("/proc")
_LISTEN: Final = "0A"
"""proc(5): TCP_LISTEN of the kernel's include/net/tcp_states.h."""


@frozen(kw_only=True)
class Listener:
    """A socket that takes connections."""

    address: str
    """As the kernel lists it: words of 32 bits in the machine's order, in hex."""
    port: int
    uid: int
    inode: str


def listening() -> Iterator[Listener]:
    """Yield what listens on this machine, in our network namespace. Blocks, a little."""
    for table in ("tcp", "tcp6"):
        # without IPv6 in the kernel there is no tcp6
        with contextlib.suppress(OSError):
            yield from listeners((PROC / "net" / table).read_text())


def listeners(text: str) -> Iterator[Listener]:
    """Yield what listens; `text` is that of /proc/net/tcp or tcp6, heading and all."""
    for line in text.splitlines()[1:]:
        _, local, _, state, _, _, _, uid, _, inode = line.split()[:10]
        address, _, port = local.partition(":")
        if state == _LISTEN:
            yield Listener(address=address, port=int(port, 16), uid=int(uid), inode=inode)


def on_loopback(port: int, there: Iterable[Listener]) -> Listener | None:
    """Return what takes connections to 127.0.0.1:PORT or [::1]:PORT, the closer address first.

    A socket of all addresses takes them too, and one of IPv6's all addresses takes IPv4's
    connections unless it says otherwise (ipv6(7), IPV6_V6ONLY).
    """
    found = {one.address: one for one in there if one.port == port}
    return next((found[address] for address in _TAKES_LOOPBACK if address in found), None)


def holders_of(inode: str) -> frozenset[int]:
    """Return the processes that have a socket open: of other users' only root sees it. Blocks."""
    wanted = f"socket:[{inode}]"
    found = set()
    for folder in PROC.glob("[0-9]*"):
        # a process may end at any moment, close what it had, or be another user's
        with contextlib.suppress(OSError):
            for link in (folder / "fd").iterdir():
                with contextlib.suppress(OSError):
                    if str(link.readlink()) == wanted:
                        found.add(int(folder.name))
    return frozenset(found)


def who_has(port: int) -> str | None:
    """Return who listens on a port, for people: `pid 4711 (nginx)`, of another user's process the
    uid; None: nobody does. Blocks."""
    found = next((one for one in listening() if one.port == port), None)
    if found is None:
        return None
    pid = min(holders_of(found.inode), default=None)  # the eldest, of a server with workers
    if pid is None:
        return f"a process of uid {found.uid}"
    with contextlib.suppress(OSError):
        name = (PROC / str(pid) / "comm").read_text("utf-8", "replace").strip()
        return f"pid {pid} ({name})"
    return f"pid {pid}"


def _as_listed(raw: bytes) -> str:
    return "".join(f"{word:08X}" for word in struct.unpack(f"={len(raw) // 4}I", raw))


_TAKES_LOOPBACK: Final = tuple(
    _as_listed(raw)  # 127.0.0.1, ::1, 0.0.0.0, ::
    for raw in (b"\x7f\0\0\1", bytes(15) + b"\1", bytes(4), bytes(16))
)
