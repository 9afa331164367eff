"""Listening sockets: those that systemd passed, and those bound by hand without it.

What is served on them is not said here.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from pathlib import Path
from typing import Final

from systemd import daemon

from orchd.kit import ports
from orchd.wire.errors import Kind, OrchError

BACKLOG: Final = 1024  # the kernel cuts it to net.core.somaxconn
_PROBE_S: Final = 1.0


def passed() -> dict[str, list[socket.socket]]:
    """Return the sockets that systemd passed, by FileDescriptorName=; {} when there are none.

    LISTEN_PID is checked. The variables are removed, so that no child believes they are its own.
    """
    found: dict[str, list[socket.socket]] = {}
    for fd, name in daemon.listen_fds_with_names(unset_environment=False).items():
        sock = socket.socket(fileno=fd)
        sock.setblocking(False)
        sock.set_inheritable(False)
        found.setdefault(name or "unknown", []).append(sock)
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)  # the library removes them for C programs only
    return found


def bind_tcp(host: str, port: int) -> socket.socket:
    """Return a listening socket on `host` (an address or a name) and `port` (0: any).

    Raises OrchError(CONFIG_INVALID).
    """
    where = f"{host}:{port}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, protocol)
    except OSError as exc:
        raise OrchError(Kind.CONFIG_INVALID, f"cannot listen on {where}: {exc.strerror}") from exc
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError as exc:
        sock.close()
        holder = ports.who_has(port) if exc.errno == errno.EADDRINUSE else None
        why = exc.strerror if holder is None else f"{holder} does already"
        raise OrchError(Kind.CONFIG_INVALID, f"cannot listen on {where}: {why}") from exc
    sock.setblocking(False)
    return sock


def bind_unix(path: Path, mode: int = 0o660) -> socket.socket:
    """Return a listening socket at `path`, with its parent folder made and `mode` set.

    A socket file that nobody answers is replaced. Raises OrchError(CONFIG_INVALID) when somebody
    does, and when something else is in the way.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _clear(path)
        sock.bind(str(path))
        path.chmod(mode)  # before listen(): until then every connect() is refused
        sock.listen(BACKLOG)
    except OSError as exc:
        sock.close()
        # a path over 107 bytes has no errno, only words
        why = exc.strerror or str(exc)
        raise OrchError(Kind.CONFIG_INVALID, f"cannot listen on {path}: {why}") from exc
    except OrchError:
        sock.close()
        raise
    sock.setblocking(False)
    return sock


def _clear(path: Path) -> None:
    """Remove a socket file that no process listens on any more."""
    try:
        is_socket = stat.S_ISSOCK(path.lstat().st_mode)
    except FileNotFoundError:
        return
    if not is_socket:
        raise OrchError(Kind.CONFIG_INVALID, f"cannot listen on {path}: it is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_S)
        answer = probe.connect_ex(str(path))
    if answer == errno.ECONNREFUSED:
        path.unlink(missing_ok=True)
    elif answer != errno.ENOENT:  # EAGAIN: its queue is full, but somebody listens
        raise OrchError(Kind.CONFIG_INVALID, f"cannot listen on {path}: another process does")
