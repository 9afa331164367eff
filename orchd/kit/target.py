"""Where a daemon or an engine listens, and how to get a connection to it."""

from __future__ import annotations

import errno
import ipaddress
import os
import re
import socket
from pathlib import Path
from typing import Final

import trio
from attrs import frozen

from orchd.kit import tunnel
from orchd.kit.pipe import Pipe

_RETRY_S: Final = 0.005
_HTTP: Final = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[0-9A-Fa-f:.]+\]|[^\s/:?#@\[\]]+)(?::(?P<port>\d{1,5}))?/?"
)


@frozen
class Target:
    """A unix socket (`path`) or a TCP address (`host`, `port`)."""

    path: Path | None = None
    host: str = ""
    port: int = 0
    tls: bool = False
    """TLS on the TCP address: its certificate is verified, against `ca` where that is given."""
    ca: Path | None = None
    """PEM file of who is trusted: a CA, or the server's own certificate. None: the system's."""
    proxy: Target | None = None
    """The HTTP proxy that carries the connection to the TCP address. None: there is none."""
    at: tuple[str, ...] = ()
    """Addresses that `host` has, where whoever asks has looked it up: no others are connected to.
    The certificate is the host's all the same."""

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}"

    @property
    def authority(self) -> str:
        """The Host header."""
        return "localhost" if self.path is not None else str(self).partition("://")[2]

    @property
    def local(self) -> bool:
        """Whether it is this machine: a unix socket, a loopback address or `localhost`."""
        if self.path is not None or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @classmethod
    def unix(cls, path: Path) -> Target:
        """Return the target of a unix socket."""
        return cls(path=path)

    @classmethod
    def parse(cls, text: str, ca: Path | None = None) -> Target:
        """Read `unix:/absolute/path.sock` or `http[s]://host[:port]`. Raises ValueError."""
        if text.startswith("unix:"):
            path = text.removeprefix("unix:").removeprefix("//")
            if not path.startswith("/"):
                raise ValueError(f"{text!r} needs an absolute path, such as unix:/run/x.sock")
            return cls.unix(Path(path))
        match = _HTTP.fullmatch(text)
        tls = match is not None and match["scheme"] == "https"
        port = int(match["port"] or (443 if tls else 80)) if match else 0
        if match is None or not 0 < port < 65536:
            raise ValueError(f"{text!r} is neither unix:/path.sock nor http[s]://host:port")
        return cls(host=match["host"].strip("[]"), port=port, tls=tls, ca=ca if tls else None)

    async def connect(self) -> Pipe:
        """Return a connection. The deadline is the caller's. Raises OSError."""
        if self.path is not None:
            return await _connect_unix(str(self.path))
        if self.proxy is not None:
            return await self._through(self.proxy)
        found = []
        for name in self.at or (self.host,):
            found += await trio.socket.getaddrinfo(name, self.port, type=socket.SOCK_STREAM)
        failure: OSError | None = None
        for family, kind, protocol, _name, address in found:
            sock = socket.socket(family, kind, protocol)
            try:
                pipe = await _connect_tcp(sock, address)
                return await self._secured(pipe) if self.tls else pipe
            except OSError as exc:
                failure = exc
        raise failure or OSError(errno.EADDRNOTAVAIL, "the name has no address")

    async def _through(self, proxy: Target) -> Pipe:
        failure: OSError | None = None
        for name in self.at or (self.host,):
            host = f"[{name}]" if ":" in name else name
            pipe = await proxy.connect()
            try:
                await tunnel.through(pipe, f"{host}:{self.port}")
            except OSError as exc:
                failure = exc  # the proxy may have no way to this one, such as without IPv6
                pipe.close()
                continue
            except BaseException:
                pipe.close()
                raise
            return await self._secured(pipe) if self.tls else pipe
        raise failure or OSError(errno.EADDRNOTAVAIL, "the name has no address")

    async def _secured(self, pipe: Pipe) -> Pipe:
        from orchd.kit import tls  # 10 ms that no local client needs

        try:
            context = tls.client_context(self.ca)
        except OSError:
            pipe.close()
            raise
        return await tls.secured(pipe, context, self.host)


async def _connect_unix(path: str) -> Pipe:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        # EAGAIN: the backlog of the listener is full; no event tells when it is not, unix(7)
        while (code := sock.connect_ex(path)) == errno.EAGAIN:  # noqa: ASYNC110
            await trio.sleep(_RETRY_S)
        if code:
            raise OSError(code, os.strerror(code))
    except BaseException:
        sock.close()
        raise
    return Pipe(sock)


async def _connect_tcp(sock: socket.socket, address: object) -> Pipe:
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        code = sock.connect_ex(address)  # type: ignore[arg-type]  # as getaddrinfo gave it
        if code == errno.EINPROGRESS:
            await trio.lowlevel.wait_writable(sock.fileno())
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
    except BaseException:
        sock.close()
        raise
    return Pipe(sock)
