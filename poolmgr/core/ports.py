"""Which TCP ports are taken, from the text of /proc/net/tcp and /proc/net/tcp6. Pure.

Reading the files, and whose process a socket is, is poolmgr/edge/procs.py's.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from attrs import frozen

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


@frozen(kw_only=True)
class Holder:
    """Who has a port, as far as this user may see it."""

    port: int
    uid: int
    pid: int | None = None
    """None: a process of another user's, of which only root sees the open files."""
    program: str = "?"


def listeners(text: str) -> Iterator[Listener]:
    """Yield what listens; `text` is that of /proc/net/tcp or tcp6, heading and all."""
    for line in text.splitlines()[1:]:
        _, local, _, state, _, _, _, uid, _, inode = line.split()[:10]
        address, _, port = local.partition(":")
        if state == _LISTEN:
            yield Listener(address=address, port=int(port, 16), uid=int(uid), inode=inode)


def on_loopback(port: int, listening: Iterable[Listener]) -> Listener | None:
    """Return what takes connections to 127.0.0.1:PORT or [::1]:PORT, the closer address first.

    Whoever would listen there finds the port in use: a socket of all addresses counts, and one of
    IPv6's too, which takes IPv4's connections unless it says otherwise (ipv6(7), IPV6_V6ONLY).
    """
    found = {one.address: one for one in listening if one.port == port}
    return next((found[address] for address in _TAKES_LOOPBACK if address in found), None)


def in_the_way(
    wanted: Iterable[int], taken: Mapping[int, Holder], first_free: int = 1024
) -> Iterator[tuple[int, str]]:
    """Yield each wanted port that an engine could not listen on, once, and why not.

    `first_free`: ports below it are for root (net.ipv4.ip_unprivileged_port_start).
    """
    for port in dict.fromkeys(wanted):
        if (holder := taken.get(port)) is not None:
            who = "another user's process" if holder.pid is None else f"pid {holder.pid}"
            named = "" if holder.program == "?" else f" ({holder.program})"
            yield port, f"port {port} is taken by {who}{named} of uid {holder.uid}"
        elif port < first_free:
            yield port, f"port {port} is for root: an engine may listen from {first_free} on"


def _as_listed(raw: bytes) -> str:
    return "".join(f"{word:08X}" for word in struct.unpack(f"={len(raw) // 4}I", raw))


_TAKES_LOOPBACK: Final = tuple(
    _as_listed(raw)  # 127.0.0.1, ::1, 0.0.0.0, ::
    for raw in (b"\x7f\0\0\1", bytes(15) + b"\1", bytes(4), bytes(16))
)
