"""The HTTP/1.1 client of both daemons and the tool: one peer, kept-alive connections, streams.

h11 reads the answer's head; requests are written, and bodies framed, by hand (heads.py, chunks.py).
Nothing here logs. Asking again is retry.py's, and never for a stream: there only a kept-alive
connection that turned out dead is replaced.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from types import MappingProxyType
from typing import Final

import h11
import trio

from orchd.kit import heads, retry
from orchd.kit.incoming import Answer, Incoming, PeerError, headers_of
from orchd.kit.pipe import Pipe, PipeClosed
from orchd.kit.redact import redact
from orchd.kit.target import Target

__all__ = ["Answer", "Client", "Incoming", "PeerError", "Target"]

NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})
MAX_HEAD: Final = 64 << 10
Gate = Callable[[Target, str, str], Awaitable[None]]
"""Where every request passes, when there is one: target, method, path. It may let it wait."""
IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})  # RFC 9110, 9.2.2


class _DeadConnectionError(Exception):
    """A kept-alive connection ended before any byte of the answer."""


class Client:
    """Requests to one target. Holds at most `max_idle` connections that nobody uses."""

    def __init__(
        self,
        target: Target,
        *,
        token: str | None = None,
        max_idle: int = 8,
        connect_s: float | None = None,
        gate: Gate | None = None,
    ) -> None:
        """`token`, if any, goes out as a bearer token with every request. `connect_s` bounds the
        wait for a connection: name, proxy and TLS included; None: the call's own deadline does.
        `gate` is asked before anything is sent, within the call's deadline, and raises to forbid
        it."""
        self.target = target
        self._max_idle = max_idle
        self._connect_s = connect_s
        self._gate = gate
        self._idle: list[Pipe] = []
        self._standing = [("Host", target.authority)]
        if token is not None:
            self._standing.append(("Authorization", f"Bearer {token}"))

    async def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        headers: Mapping[str, str] = NO_HEADERS,
        deadline_s: float = 10.0,
        max_body: int = 16 << 20,
        attempts: int = 1,
        repeatable: bool = False,
    ) -> Answer:
        """Return the whole answer, whatever its status. Raises PeerError.

        `max_body` bounds the answer's body in bytes. With `attempts` a call that failed for a
        reason that may pass is sent again, all within `deadline_s`; only one that changes nothing:
        by its method, or because the caller says so with `repeatable`. Raises ValueError otherwise.
        """
        repeatable = repeatable or method in IDEMPOTENT
        if attempts > 1 and not repeatable:
            raise ValueError(f"{method} {path} may not be sent twice")

        async def once() -> Answer:
            return await self._request_once(method, path, body, headers, max_body, repeatable)

        with self._deadline(deadline_s):
            return await retry.persist(once, attempts)

    async def _request_once(
        self,
        method: str,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str],
        max_body: int,
        repeatable: bool,
    ) -> Answer:
        pipe, incoming = await self._exchange(method, path, body, headers, None, repeatable)
        try:
            parts: list[bytes] = []
            size = 0
            while data := await incoming.read_some():
                parts.append(data)
                size += len(data)
                if size > max_body:
                    raise PeerError(self.target, "receive", f"answers over {max_body} bytes")
        except BaseException:
            pipe.close()
            raise
        self._give_back(pipe, incoming)
        return Answer(incoming.status, incoming.headers, b"".join(parts))

    def open(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        headers: Mapping[str, str] = NO_HEADERS,
        first_byte_s: float = 30.0,
        idle_s: float | None = None,
        repeatable: bool = False,
    ) -> AbstractAsyncContextManager[Incoming]:
        """Begin a request and enter with the head of its answer: `first_byte_s` bounds that.

        Leaving before the end of the body closes the connection at once: so a generation is
        cancelled. `idle_s` bounds each wait for more of the body; None: for ever. `repeatable`: the
        request may go out again if a kept connection closed without an answer. Raises PeerError.
        """
        repeatable = repeatable or method in IDEMPOTENT
        return self._open(method, path, body, headers, first_byte_s, idle_s, repeatable)

    async def upgrade(
        self,
        path: str,
        protocol: str,
        *,
        headers: Mapping[str, str] = NO_HEADERS,
        deadline_s: float = 10.0,
    ) -> tuple[Pipe, bytes]:
        """Ask to speak `protocol`; return the pipe, now the caller's, and what came behind the 101.

        Raises PeerError, also for any answer but 101 (phase receive) and for none (unanswered).
        """
        asked = {**headers, "Upgrade": protocol, "Connection": "Upgrade"}
        with self._deadline(deadline_s):
            pipe = await self._connect()
            try:
                head, rest = await self._talk(pipe, "GET", path, None, asked)
                if head.status_code == 101 and headers_of(head).get("upgrade") == protocol:
                    return pipe, rest
                why = f"answered {head.status_code} to a request for {protocol}"
                raise PeerError(self.target, "receive", why)
            except _DeadConnectionError:
                pipe.close()
                raise PeerError(self.target, "unanswered", "closed without an answer") from None
            except BaseException:
                pipe.close()
                raise

    def close(self) -> None:
        """Close the connections that nobody uses; those in use close when they are done."""
        self._max_idle = 0
        while self._idle:
            self._idle.pop().close()

    @contextlib.asynccontextmanager
    async def _open(
        self,
        method: str,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str],
        first_byte_s: float,
        idle_s: float | None,
        repeatable: bool,
    ) -> AsyncIterator[Incoming]:
        with self._deadline(first_byte_s):
            pipe, incoming = await self._exchange(method, path, body, headers, idle_s, repeatable)
        try:
            yield incoming
        except BaseException:
            pipe.close()
            raise
        self._give_back(pipe, incoming)

    @contextlib.contextmanager
    def _deadline(self, seconds: float) -> Iterator[None]:
        try:
            with trio.fail_after(seconds):
                yield
        except trio.TooSlowError:
            why = f"no answer within {seconds:g} s"
            raise PeerError(self.target, "deadline", why) from None

    async def _exchange(
        self,
        method: str,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str],
        idle_s: float | None,
        repeatable: bool,
    ) -> tuple[Pipe, Incoming]:
        """Send the request and return with the head of its answer."""
        if self._gate is not None:
            await self._gate(self.target, method, path)
        kept = self._take_idle()
        while True:
            pipe = kept or await self._connect()
            try:
                head, rest = await self._talk(pipe, method, path, body, headers)
                assert isinstance(head, h11.Response)
                incoming = Incoming(
                    self.target, pipe, head, rest, bodiless=method == "HEAD", idle_s=idle_s
                )
                return pipe, incoming
            except _DeadConnectionError:
                pipe.close()
                if kept is None or not repeatable:
                    why = "closed without an answer"
                    raise PeerError(self.target, "receive", why) from None
                kept = None
            except BaseException:
                pipe.close()
                raise

    async def _talk(
        self,
        pipe: Pipe,
        method: str,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str],
    ) -> tuple[h11.Response | h11.InformationalResponse, bytes]:
        conn = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
        conn.send(_asked(method, headers.get("Upgrade", "")))
        conn.send(h11.EndOfMessage())
        try:
            # the peer may answer before it has read a long body, and close: so its answer counts
            with contextlib.suppress(PipeClosed):
                if not pipe.send_nowait(self._request(method, path, body, headers)):
                    await pipe.flush()
            got_any = False
            while True:
                event = conn.next_event()
                if event is h11.NEED_DATA:
                    data = await pipe.recv()
                    if not data and not got_any:
                        raise _DeadConnectionError
                    got_any = True
                    conn.receive_data(data)
                elif isinstance(event, h11.Response):
                    return event, conn.trailing_data[0]
                elif isinstance(event, h11.InformationalResponse):
                    if event.status_code == 101:
                        return event, conn.trailing_data[0]
                else:
                    raise PeerError(self.target, "receive", "the answer was cut off")
        except PipeClosed as exc:
            if not got_any:
                raise _DeadConnectionError from exc
            raise PeerError(self.target, "receive", f"the answer was cut off: {exc}") from exc
        except h11.RemoteProtocolError as exc:
            raise PeerError(self.target, "receive", f"does not speak HTTP/1.1: {exc}") from exc

    def _request(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> bytes:
        said = [*self._standing, *headers.items()]
        if body is not None:
            said.append(("Content-Length", str(len(body))))
            if not any(name.lower() == "content-type" for name in headers):
                said.append(("Content-Type", "application/json"))
        head = heads.request_head(method, path, said)
        return head + body if body else head

    async def _connect(self) -> Pipe:
        limit = math.inf if self._connect_s is None else self._connect_s
        try:
            with trio.fail_after(limit):
                return await self.target.connect()
        except trio.TooSlowError:
            raise PeerError(self.target, "connect", f"no connection within {limit:g} s") from None
        except OSError as exc:
            why = redact(f"cannot connect: {exc.strerror or exc}")
            raise PeerError(self.target, "connect", why) from exc

    def _take_idle(self) -> Pipe | None:
        while self._idle:
            pipe = self._idle.pop()
            if pipe.quiet():
                return pipe
            pipe.close()
        return None

    def _give_back(self, pipe: Pipe, incoming: Incoming) -> None:
        usable = incoming.reusable and not pipe.closed and not pipe.pending
        if usable and len(self._idle) < self._max_idle:
            self._idle.append(pipe)
        else:
            pipe.close()


@functools.lru_cache(16)
def _asked(method: str, upgrade: str) -> h11.Request:
    """Return what h11 must know of a request to read its answer."""
    asked = [("Host", "")]
    if upgrade:
        asked.append(("Upgrade", upgrade))
    return h11.Request(method=method, target="/", headers=asked)
