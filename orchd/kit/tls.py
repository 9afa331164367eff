"""TLS around a pipe: the handshake, ALPN, records in memory. Same contract as a plain Pipe.

OpenSSL works on two buffers in memory and the pipe underneath stays socket-first, so nothing of
the plain path changes. Who has to speak TLS is http.serve's business, and a client's Target's.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import ssl
from pathlib import Path
from typing import Final

import trio

from orchd.kit.pipe import FAIR, RECV_BYTES, Pipe, PipeClosed
from orchd.wire.errors import Kind, OrchError

PROTOCOLS: Final = ["h2", "http/1.1"]
_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""For TLS 1.2: what HTTP/2 does not forbid (RFC 9113, 9.2.2). 1.3 has no others."""


class PlainHttp(PipeClosed):
    """The client spoke plain HTTP where TLS is spoken."""


def server_context(cert: Path, key: Path) -> ssl.SSLContext:
    """Return what a server needs for TLS 1.2 and 1.3 with ALPN.

    `cert` is a chain, the server's own certificate first; `key` has no passphrase. Both are PEM.
    Raises OrchError(CONFIG_INVALID).
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_ciphers(_CIPHERS)
    context.set_alpn_protocols(PROTOCOLS)
    for path in (cert, key):
        try:
            path.read_bytes()
        except OSError as exc:
            raise OrchError(
                Kind.CONFIG_INVALID, f"tls: cannot read {path}: {exc.strerror}", path="$.tls"
            ) from exc
    try:
        # a passphrase would be asked for on the terminal
        context.load_cert_chain(cert, key, password=lambda: "")
    except (ssl.SSLError, ValueError) as exc:
        raise OrchError(
            Kind.CONFIG_INVALID,
            f"tls: {cert} and {key} are no certificate with its key (PEM, without a passphrase): "
            f"{exc}",
            path="$.tls",
        ) from exc
    return context


def client_context(ca: Path | None) -> ssl.SSLContext:
    """Return what a client needs to verify a server: name and certificate, against the PEM file
    `ca`, which may be the server's own certificate, or else the system's CAs.

    Raises OSError for a file that cannot be used.
    """
    try:
        context = ssl.create_default_context(cafile=ca)
    except ssl.SSLError as exc:
        raise OSError(errno.EINVAL, f"{ca} holds no certificate (PEM)") from exc
    except OSError as exc:
        raise OSError(exc.errno, f"cannot read {ca}: {exc.strerror}") from exc
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.set_alpn_protocols(["http/1.1"])
    return context


async def secured(plain: Pipe, context: ssl.SSLContext, server: str) -> TlsPipe:
    """Return a session on a fresh connection. Raises OSError that says what is not trusted."""
    pipe = TlsPipe(plain.sock, context, server)
    try:
        await pipe.handshake()
    except PipeClosed as exc:
        pipe.close()
        cause = exc.__cause__
        if isinstance(cause, ssl.SSLCertVerificationError):
            words = f"its certificate is not trusted: {cause.verify_message}"
        else:
            words = "no TLS session came about: does it speak TLS?"
        raise OSError(errno.EPROTO, words) from exc
    except BaseException:
        pipe.close()
        raise
    return pipe


class TlsPipe(Pipe):
    """A pipe whose bytes are the plain text of a TLS session."""

    __slots__ = ("_in", "_out", "_silent", "_tls")

    def __init__(
        self, sock: socket.socket, context: ssl.SSLContext, server: str | None = None
    ) -> None:
        """Take over `sock`; nothing is sent or received before handshake().

        `server` is the name that the peer has to prove; None: this side is the server.
        """
        super().__init__(sock)
        self._in = ssl.MemoryBIO()
        self._out = ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._in, self._out, server_side=server is None, server_hostname=server
        )
        self._silent = True
        """Nothing is said at the end: there is no session yet, or it broke."""

    @property
    def protocol(self) -> str | None:
        """What ALPN agreed on, one of PROTOCOLS; None: the client named nothing."""
        return self._tls.selected_alpn_protocol()

    async def handshake(self) -> None:
        """Agree on a session. No deadline: that is the caller's. Raises PipeClosed, PlainHttp."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._say()
            except ssl.SSLError as exc:
                self._fail(exc)
            else:
                self._silent = False
                self._say()
                return
            await self._more()

    async def recv(self, max_bytes: int = RECV_BYTES) -> bytes:
        """Return what is there, at most `max_bytes`, or wait; b"" at the end of the stream.

        Raises PipeClosed on a reset and on records that are none.
        """
        self._turns += 1
        if self._turns >= FAIR:  # one packet may hold thousands of records
            self._turns = 0
            await trio.lowlevel.checkpoint()
        while True:
            try:
                return self._tls.read(max_bytes)
            except ssl.SSLWantReadError:
                self._say()  # a key update is answered
            except ssl.SSLEOFError:
                return b""
            except ssl.SSLError as exc:
                self._fail(exc)
            if not await self._more():
                return b""  # without a close_notify: HTTP says itself where a message ends

    def send_nowait(self, data: bytes) -> bool:
        """As Pipe.send_nowait; what is kept and counted are the records."""
        at = 0
        try:
            while at < len(data):
                at += self._tls.write(memoryview(data)[at:])
        except ssl.SSLError as exc:
            raise PipeClosed(str(exc)) from exc
        return super().send_nowait(self._out.read()) if data else not self._pending

    def quiet(self) -> bool:
        """True if the peer has neither sent anything nor hung up."""
        return not self._in.pending and not self._tls.pending() and super().quiet()

    def shutdown(self) -> None:
        """Say that nothing more is sent, in the session too; receiving goes on."""
        self._close_notify()
        super().shutdown()

    def abort(self) -> None:
        """Close with a reset and without a word: what the peer has is not the whole."""
        self._silent = True
        super().abort()

    def close(self) -> None:
        """Close; a session that is in order is ended with close_notify."""
        if not self._closed:
            self._close_notify()
        super().close()

    async def _more(self) -> bool:
        """Receive records; False at the end of the stream. Raises PipeClosed."""
        data = await super().recv()
        if data:
            self._in.write(data)
        else:
            self._in.write_eof()
        return bool(data)

    def _say(self) -> None:
        if self._out.pending:
            super().send_nowait(self._out.read())

    def _fail(self, exc: ssl.SSLError) -> None:
        self._silent = True
        if exc.reason == "HTTP_REQUEST":
            raise PlainHttp("plain HTTP where TLS is spoken") from exc
        with contextlib.suppress(PipeClosed):
            self._say()  # the alert
        raise PipeClosed(str(exc)) from exc

    def _close_notify(self) -> None:
        if self._silent or self._pending:  # behind bytes that are never sent it says nothing
            return
        self._silent = True
        with contextlib.suppress(ssl.SSLError, PipeClosed):
            try:
                self._tls.unwrap()
            except ssl.SSLWantReadError:
                pass  # the peer's own is not waited for
            finally:
                self._say()
