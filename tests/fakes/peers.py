"""In-process peers for tests: pipe pairs, a raw HTTP client, a server on a unix socket.

The raw client reads answers with h11, not with the code under test.
"""

from __future__ import annotations

import contextlib
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import h11
import trio
from attrs import frozen

from orchd.kit import fds, http
from orchd.kit.pipe import Pipe
from orchd.kit.target import Target


@contextlib.contextmanager
def short_folder() -> Iterator[Path]:
    """A folder whose path is short enough for unix sockets (107 bytes), removed at the end."""
    with tempfile.TemporaryDirectory(prefix="o-") as name:
        yield Path(name)


def pipe_pair() -> tuple[Pipe, Pipe]:
    """Two connected pipes."""
    left, right = socket.socketpair()
    return Pipe(left), Pipe(right)


@frozen
class Got:
    """An answer as a client reads it."""

    status: int
    headers: dict[str, str]
    body: bytes
    http_version: bytes


class RawPeer:
    """A client that says exactly the bytes it is told."""

    def __init__(self, pipe: Pipe) -> None:
        self.pipe = pipe
        self._rest = b""

    async def say(self, data: bytes) -> None:
        """Send all of `data`."""
        if not self.pipe.send_nowait(data):
            await self.pipe.flush()

    async def recv(self) -> bytes:
        """Return what is there, or wait for some."""
        if self._rest:
            data, self._rest = self._rest, b""
            return data
        return await self.pipe.recv()

    async def until(self, mark: bytes) -> bytes:
        """Return what comes up to and with `mark`."""
        data = b""
        while mark not in data:
            more = await self.recv()
            assert more, f"ended before {mark!r}: {data!r}"
            data += more
        head, _, self._rest = data.partition(mark)
        return head + mark

    async def to_end(self) -> bytes:
        """Return everything until the peer ends its side."""
        data = b""
        while more := await self.recv():
            data += more
        return data

    async def answer(self, method: str = "GET") -> Got:
        """Return the next answer, read by h11; a 100 Continue before it is skipped."""
        conn = h11.Connection(h11.CLIENT)
        conn.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
        conn.send(h11.EndOfMessage())
        head: h11.Response | None = None
        body = b""
        while True:
            event = conn.next_event()
            if event is h11.NEED_DATA:
                conn.receive_data(await self.recv())
            elif isinstance(event, h11.Response):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                assert head is not None
                self._rest = conn.trailing_data[0]
                headers = {k.decode(): v.decode("latin-1") for k, v in head.headers}
                return Got(head.status_code, headers, body, head.http_version)
            else:
                assert isinstance(event, h11.InformationalResponse), event

    async def ask(self, path: str = "/", method: str = "GET", body: bytes = b"") -> Got:
        """Send a plain request and return its answer."""
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        await self.say(f"{method} {path} HTTP/1.1\r\nHost: x\r\n{length}\r\n".encode() + body)
        return await self.answer(method)


class Served:
    """A running server and the way to it."""

    def __init__(self, path: Path, stop: trio.Event) -> None:
        self.target = Target.unix(path)
        self.path = path
        self.stop = stop
        self.ended = trio.Event()
        self._pipes: list[Pipe] = []

    async def connect(self) -> RawPeer:
        """Return a new connection; it is closed with the server."""
        pipe = await self.target.connect()
        self._pipes.append(pipe)
        return RawPeer(pipe)

    def close(self) -> None:
        """Close the connections that connect() made."""
        for pipe in self._pipes:
            pipe.close()


@contextlib.asynccontextmanager
async def serving(handler: http.Handler, **options: Any) -> AsyncIterator[Served]:
    """Serve `handler` on a unix socket during the block; `options` are serve()'s."""
    with short_folder() as folder:
        listener = fds.bind_unix(folder / "s")
        served = Served(folder / "s", trio.Event())

        async def run(task_status: Any) -> None:
            await http.serve(
                [listener], handler, stop=served.stop, task_status=task_status, **options
            )
            served.ended.set()

        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(run)
                try:
                    yield served
                finally:
                    served.close()
                nursery.cancel_scope.cancel()
        finally:
            listener.close()
