"""An HTTP server of files, with ranges and with faults: what models are fetched from in tests.

Threads of the standard library, so that it runs beside trio and beside other processes. What it
answers is told by `Files`; the Hub's API over it is hubserver.py's.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import ssl
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from attrs import define, field

RANGE = re.compile(r"bytes=(\d+)-(\d*)")


@define
class Served:
    """One file, and what goes wrong with it."""

    data: bytes
    ranges: bool = True
    etag: str | None = None
    """None: that of its content."""
    cut_after: int | None = None
    """Close the connection after so many bytes of an answer..."""
    cuts: int = 0
    """...so many times."""
    statuses: list[int] = field(factory=list)
    """Answered first, one each."""
    headers: dict[str, str] = field(factory=dict)
    redirect: str | None = None
    bytes_per_s: int | None = None
    """Of each connection."""
    length: bool = True
    """False: no Content-Length, the connection's end is the body's."""
    secret: str | None = None
    """The Authorization header that is asked for."""

    @property
    def tag(self) -> str:
        return self.etag or f'"{hashlib.sha256(self.data).hexdigest()[:16]}"'


@define
class Asked:
    """A request that came."""

    path: str
    headers: dict[str, str]


class Files:
    """The server. `url` is its origin; paths are keys of `files`."""

    def __init__(
        self, cert: tuple[Path, Path] | None = None, host: str = "localhost", port: int = 0
    ) -> None:
        self.files: dict[str, Served] = {}
        self.asked: list[Asked] = []
        self.at_once = 0
        """The most answers that were on their way together."""
        self._running = 0
        self._lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"house": self})
        self._server = _Server(("127.0.0.1", port), handler)
        if cert is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*cert)
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.port = int(self._server.server_address[1])
        self.url = f"{'http' if cert is None else 'https'}://{host}:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def add(self, path: str, data: bytes, **faults: object) -> Served:
        """Serve a file."""
        self.files[path] = Served(data, **faults)  # type: ignore[arg-type]
        return self.files[path]

    def paths(self) -> list[str]:
        """Paths that were asked for, in order."""
        return [asked.path for asked in self.asked]

    def answer(self, path: str) -> Served | None:
        """Return what is at a path: for those that make their answers."""
        return self.files.get(path.partition("?")[0])

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        with self._lock:
            self._running += 1
            self.at_once = max(self.at_once, self._running)
        try:
            yield
        finally:
            with self._lock:
                self._running -= 1

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that leaves, or trusts nobody here, is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    house: Files

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's
        """Nothing: the tests read `asked`."""

    def do_GET(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.house.asked.append(Asked(self.path, headers))
        served = self.house.answer(self.path)
        with self.house.counted():
            if served is None:
                self._plain(404)
            elif served.statuses:
                self._plain(served.statuses.pop(0), served.headers)
            elif served.secret is not None and headers.get("authorization") != served.secret:
                self._plain(401, served.headers)
            elif served.redirect is not None:
                self._plain(302, {"Location": served.redirect})
            else:
                self._file(served, headers)

    def _plain(self, status: int, more: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (more or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _file(self, served: Served, headers: dict[str, str]) -> None:
        begin, end, whole = 0, len(served.data), len(served.data)
        match = RANGE.fullmatch(headers.get("range", "")) if served.ranges else None
        if match is not None and headers.get("if-range", served.tag) == served.tag:
            begin, end = int(match[1]), min(int(match[2] or whole - 1) + 1, whole)
            if begin >= whole:
                self._plain(416, {"Content-Range": f"bytes */{whole}"})
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{whole}")
        else:
            self.send_response(200)
        self.send_header("ETag", served.tag)
        for name, value in served.headers.items():
            self.send_header(name, value)
        if served.length:
            self.send_header("Content-Length", str(end - begin))
        else:
            self.send_header("Connection", "close")
        self.end_headers()
        body = memoryview(served.data)[begin:end]
        if served.cut_after is not None and served.cuts and len(body) > served.cut_after:
            served.cuts -= 1
            self._send(body[: served.cut_after], served)
            self.close_connection = True
            self.connection.close()
            return
        self._send(body, served)

    def _send(self, body: memoryview, served: Served) -> None:
        if served.bytes_per_s is None:
            self.wfile.write(body)
            return
        step = max(1, served.bytes_per_s // 50)
        for at in range(0, len(body), step):
            self.wfile.write(body[at : at + step])
            time.sleep(0.02)
