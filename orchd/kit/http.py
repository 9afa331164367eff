"""The HTTP server of both daemons: accepting, the count of connections, the orderly stop.

What is served is the handler's business, a connection's life and its protocol connection.py's. This
is also the name under which handlers import the types of message.py.
"""

from __future__ import annotations

import errno
import socket
import ssl
import struct
from collections.abc import Sequence
from typing import Final, Protocol

import trio

from orchd.kit import log
from orchd.kit.connection import Connection
from orchd.kit.message import (
    Answer,
    Handler,
    Limits,
    Peer,
    Request,
    Response,
    Streaming,
    Upgraded,
    error_response,
    json_response,
    require_json,
)
from orchd.kit.pipe import Pipe, PipeClosed
from orchd.kit.sink import Sink
from orchd.wire.errors import Kind, OrchError

__all__ = [
    "Answer",
    "Handler",
    "Limits",
    "Peer",
    "Pipe",
    "PipeClosed",
    "Request",
    "Response",
    "Sink",
    "Streaming",
    "Upgraded",
    "error_response",
    "json_response",
    "require_json",
    "serve",
]

DEFAULT_LIMITS: Final = Limits()
_REFUSALS: Final = 64
"""Connections over the limit that are told so at the same time; the others are just closed."""
_BATCH: Final = 32  # accepts in a row before the connections get their turn
_FULL_PAUSE_S: Final = 0.1
_NO_ROOM: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_PASSING: Final = frozenset(
    {errno.ECONNABORTED, errno.EPROTO, errno.EPERM, errno.ENETDOWN, errno.ENETUNREACH}
    | {errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENOPROTOOPT, errno.EOPNOTSUPP}
)
"""What accept() says about a connection that has ended already (accept(2), Error handling)."""
_CREDENTIALS: Final = struct.Struct("3i")  # pid, uid, gid (unix(7), SO_PEERCRED)


class Started(Protocol):
    """trio's TaskStatus[None]: what nursery.start() hands in."""

    def started(self) -> None:
        """Let nursery.start() return."""


async def serve(
    listeners: Sequence[socket.socket],
    handler: Handler,
    *,
    limits: Limits = DEFAULT_LIMITS,
    stop: trio.Event | None = None,
    drain_s: float = 5.0,
    tls: ssl.SSLContext | None = None,
    task_status: Started = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve `handler` on the listening sockets: a service for nursery.start.

    With `tls` every TCP connection has to speak it; unix sockets never do.

    When `stop` is set no more connections are accepted, idle ones are closed, the next answers say
    `Connection: close` (HTTP/2: GOAWAY at once, new streams are refused), and open exchanges get
    `drain_s` seconds; then it returns. An upgraded
    connection is an open exchange until its `run` returns. The listeners stay open: they are the
    caller's, and with systemd their backlog waits for the next start.
    """
    server = _Server(handler, limits, tls)
    async with trio.open_nursery() as connections:
        async with trio.open_nursery() as accepting:
            for listener in listeners:
                accepting.start_soon(server.accept, listener, connections)
            task_status.started()
            if stop is not None:
                await stop.wait()
                accepting.cancel_scope.cancel()
        with trio.move_on_after(drain_s):
            await server.drained()
        connections.cancel_scope.cancel()


class _Server:
    """The open connections of one serve()."""

    def __init__(self, handler: Handler, limits: Limits, tls: ssl.SSLContext | None) -> None:
        self.handler = handler
        self.limits = limits
        self._tls = tls
        self.stopping = False
        self._open: set[Connection] = set()
        self._refusing = 0
        self._empty = trio.Event()
        self._full = False
        self._no_room = False

    async def accept(self, listener: socket.socket, nursery: trio.Nursery) -> None:
        """Accept for ever. A machine out of descriptors is waited for, not given up."""
        listener.setblocking(False)
        while True:
            await trio.lowlevel.wait_readable(listener.fileno())
            if (why := self._accept_batch(listener, nursery)) is not None:
                await self._pause(why)

    def _accept_batch(self, listener: socket.socket, nursery: trio.Nursery) -> str | None:
        """Accept what is there; return why the machine has no room for more, if so."""
        try:
            for _ in range(_BATCH):
                sock, address = listener.accept()
                self._no_room = False
                self._admit(sock, address, nursery)
        except BlockingIOError:
            pass
        except OSError as exc:
            if exc.errno in _NO_ROOM:
                return exc.strerror
            if exc.errno not in _PASSING:
                raise
        return None

    async def _pause(self, why: str) -> None:
        if not self._no_room:
            self._no_room = True
            log.event(
                "accept_failed",
                f"No connection can be accepted: {why}. Trying again until it can.",
                level="error",
                retry_s=_FULL_PAUSE_S,
            )
        await trio.sleep(_FULL_PAUSE_S)

    def _admit(self, sock: socket.socket, address: object, nursery: trio.Nursery) -> None:
        try:
            peer = _peer(sock, address)
        except OSError:  # reset between connect() and accept()
            sock.close()
            return
        connection = Connection(self, sock, peer, self._tls if peer.kind == "tcp" else None)
        if len(self._open) < self.limits.connections:
            self._full = False
            self._open.add(connection)
            nursery.start_soon(self._run, connection)
            return
        if not self._full:
            self._full = True
            log.event(
                "connections_full",
                f"{self.limits.connections} connections are open; more are refused",
                level="warning",
            )
        if self._refusing < _REFUSALS:
            self._refusing += 1
            nursery.start_soon(self._refuse, connection)
        else:
            sock.close()

    async def _run(self, connection: Connection) -> None:
        try:
            await connection.run()
        finally:
            self._open.discard(connection)
            if self.stopping and not self._open:
                self._empty.set()

    async def _refuse(self, connection: Connection) -> None:
        try:
            count = self.limits.connections
            await connection.refuse(
                OrchError(Kind.TOO_MANY_CONNECTIONS, f"{count} connections are open already")
            )
        finally:
            self._refusing -= 1

    async def drained(self) -> None:
        """Stop what is idle; return when no connection is left."""
        self.stopping = True
        if not self._open:
            return
        for connection in tuple(self._open):
            connection.stop()
        await self._empty.wait()


def _peer(sock: socket.socket, address: object) -> Peer:
    """Return who connected. Raises OSError."""
    if sock.family == socket.AF_UNIX:
        raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid, uid, _gid = _CREDENTIALS.unpack(raw)
        return Peer("unix", f"pid:{pid}", uid)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    assert isinstance(address, tuple)
    host, port = address[:2]
    return Peer("tcp", f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
