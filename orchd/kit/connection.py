"""One connection: which protocol it speaks, and the way it ends.

This is the one place where the protocol is chosen. Over TLS it is what ALPN agreed on; without it
the first bytes say so: HTTP/2 begins with a preface that is no request (RFC 9113, 3.3 and 3.4).
The exchanges are h1_connection.py's and h2_connection.py's; accepting, counting and stopping
connections is http.py's.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from typing import TYPE_CHECKING

from orchd.kit.exchange import PREFACE, Server, report
from orchd.kit.groups import only
from orchd.kit.h1_connection import Http1
from orchd.kit.message import Peer
from orchd.kit.pipe import Pipe, PipeClosed
from orchd.kit.receiver import Phase, Watch
from orchd.kit.tls import PlainHttp, TlsPipe
from orchd.wire.errors import Kind, OrchError

if TYPE_CHECKING:
    from orchd.kit.h2_connection import Http2


class Connection:
    """Owns its pipe; `run` is its task."""

    __slots__ = ("_http1", "_http2", "_peer", "_pipe", "_server", "_watch")

    def __init__(
        self, server: Server, sock: socket.socket, peer: Peer, tls: ssl.SSLContext | None
    ) -> None:
        """`tls`: what this connection has to speak; None: plain bytes."""
        self._server = server
        self._peer = peer
        self._pipe = Pipe(sock) if tls is None else TlsPipe(sock, tls)
        self._watch = Watch()
        self._http1: Http1 | None = None
        self._http2: Http2 | None = None

    def stop(self) -> None:
        """End it, unless it is in the middle of an exchange or a request is waiting to be read."""
        if self._http2 is not None:
            self._http2.stop()
        elif self._watch.phase is Phase.IDLE and self._pipe.quiet():
            self._pipe.close()

    async def run(self) -> None:
        """Serve until either side is done. Raises nothing but Cancelled."""
        try:
            with self._watch.scope:
                await self._serve()
            if self._watch.scope.cancelled_caught:
                await self._out_of_time()
        except PipeClosed:
            pass  # the client left; what was being done for it knows from the same exception
        except Exception as exc:  # noqa: BLE001 - one connection must not end the server
            self._report(exc)
        except BaseExceptionGroup as exc:  # a handler's nursery broke while it was cancelled
            broke, cancelled = exc.split(Exception)
            if broke is not None and not only(broke, PipeClosed):
                self._report(broke)
            if cancelled is not None:
                raise cancelled from None
        finally:
            self._pipe.close()

    async def refuse(self, error: OrchError) -> None:
        """Answer `error` to whatever the client wanted, then close."""
        try:
            if not isinstance(self._pipe, TlsPipe):  # a handshake is work that was just refused
                await self._refuse(error)
        except PipeClosed:
            pass
        finally:
            self._pipe.close()

    async def _serve(self) -> None:
        if self._server.stopping and self._pipe.quiet():
            return
        self._watch.enter(Phase.IDLE, self._server.limits.head_s)
        if isinstance(self._pipe, TlsPipe):
            try:
                await self._pipe.handshake()
            except PlainHttp:
                self._pipe = Pipe(self._pipe.sock)
                await self._refuse(OrchError(Kind.MALFORMED_HTTP, "https:// is spoken here"))
                return
            http2, rest = self._pipe.protocol == "h2", b""
        else:
            rest = await self._first_bytes()
            if not rest:
                return
            http2 = rest.startswith(PREFACE)
        if http2:
            # 40 ms and 1 MiB that no poolmgr and few lives of orchd need
            from orchd.kit.h2_connection import Http2

            self._http2 = Http2(self._server, self._pipe, self._peer, self._watch)
            await self._http2.run(rest)
        else:
            self._http1 = Http1(self._server, self._pipe, self._peer, self._watch)
            await self._http1.run(rest)

    async def _first_bytes(self) -> bytes:
        """Return so many of the first bytes as tell a preface from a request; b"" at the end."""
        data = b""
        while len(data) < len(PREFACE) and PREFACE.startswith(data):
            more = await self._pipe.recv()
            if not more:
                break
            if not data:
                self._watch.enter(Phase.HEAD, self._server.limits.head_s)
            data += more
        return data

    async def _out_of_time(self) -> None:
        if self._http2 is not None:
            with contextlib.suppress(PipeClosed):
                self._http2.leave()
        elif self._watch.phase is Phase.WRITE:
            self._pipe.abort()
        elif self._watch.phase in {Phase.HEAD, Phase.BODY}:
            part = self._watch.phase.value
            await self._refuse(
                OrchError(Kind.REQUEST_TIMEOUT, f"the {part} of the request took too long")
            )

    async def _refuse(self, error: OrchError) -> None:
        http1 = self._http1 or Http1(self._server, self._pipe, self._peer, self._watch)
        await http1.refuse(error)

    def _report(self, exc: BaseException) -> None:
        report("connection_failed", "A connection broke on an unexpected error", exc, self._peer)
