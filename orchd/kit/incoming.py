"""The answer of a peer, whole or as it comes: framing by hand (chunks.py), no h11 for each read.

Asking is client.py's.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Literal, Protocol

import h11
import trio
from attrs import frozen

from orchd.kit.chunks import BadChunk, ChunkDecoder
from orchd.kit.pipe import Pipe, PipeClosed
from orchd.kit.target import Target

Phase = Literal["connect", "send", "unanswered", "receive", "deadline"]


class PeerError(Exception):
    """The peer could not be reached, broke off, spoke no HTTP, or took too long."""

    def __init__(self, target: Target, phase: Phase, why: str) -> None:
        super().__init__(f"{target}: {why}")
        self.target = target
        self.phase = phase
        self.why = why


class Body(Protocol):
    """An answer whose body is read as it comes."""

    @property
    def status(self) -> int:
        """HTTP's status."""
        ...

    async def read_some(self) -> bytes:
        """Return what is there of the body, or wait for some; b"" at its end. Raises PeerError."""
        ...


class Opener(Protocol):
    """Who begins calls whose answers are read as they come."""

    def open(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        headers: Mapping[str, str] = ...,
        first_byte_s: float = ...,
        idle_s: float | None = ...,
        repeatable: bool = ...,
    ) -> AbstractAsyncContextManager[Body]:
        """Begin a call and enter with the head of its answer; leaving early cancels it."""
        ...

    def close(self) -> None:
        """Close the connections that nobody uses."""
        ...


@frozen
class Answer:
    """A whole answer."""

    status: int
    headers: dict[str, str]
    """Names in lower case; a header given twice is joined with `, `."""
    body: bytes


class Incoming:
    """An answer whose body is read as it comes."""

    __slots__ = ("_chunks", "_idle_s", "_left", "_pipe", "_rest", "_target", "headers", "status")

    def __init__(
        self,
        target: Target,
        pipe: Pipe,
        head: h11.Response,
        rest: bytes,
        *,
        bodiless: bool,
        idle_s: float | None,
    ) -> None:
        self.status = head.status_code
        self.headers = headers_of(head)
        self._target = target
        self._pipe = pipe
        self._rest = rest
        self._idle_s = idle_s
        self._chunks: ChunkDecoder | None = None
        self._left: int | None = None
        """Bytes of the body still to come; None: until the connection ends, or by chunks."""
        if bodiless or self.status in {204, 304}:
            self._left = 0
        elif "transfer-encoding" in self.headers:
            self._chunks = ChunkDecoder()
        elif "content-length" in self.headers:
            self._left = int(self.headers["content-length"])  # h11 saw that it is one number

    @property
    def whole(self) -> bool:
        """True once the body was read to its end and the end was marked as such."""
        return self._chunks.done if self._chunks is not None else self._left == 0

    @property
    def reusable(self) -> bool:
        """True if the connection can carry another request."""
        return self.whole and not self._rest and "close" not in self.headers.get("connection", "")

    async def read_some(self) -> bytes:
        """Return what is there of the body, or wait for some; b"" at its end.

        Raises PeerError when the body is cut off, and after `idle_s` seconds without a byte.
        """
        while not self.whole:
            data, self._rest = self._rest, b""
            if not data:
                data = await self._recv()
            if not data:
                if self._chunks is None and self._left is None:
                    self._left = 0
                    self._pipe.close()
                    return b""
                raise PeerError(self._target, "receive", "the answer was cut off")
            data = self._decode(data)
            if data:
                return data
        return b""

    async def _recv(self) -> bytes:
        try:
            if self._idle_s is None:
                return await self._pipe.recv()
            with trio.fail_after(self._idle_s):
                return await self._pipe.recv()
        except PipeClosed as exc:
            raise PeerError(self._target, "receive", f"the answer was cut off: {exc}") from exc
        except trio.TooSlowError:
            why = f"nothing came for {self._idle_s:g} s"
            raise PeerError(self._target, "deadline", why) from None

    def _decode(self, data: bytes) -> bytes:
        if self._chunks is not None:
            try:
                data = self._chunks.feed(data)
            except BadChunk as exc:
                raise PeerError(self._target, "receive", str(exc)) from exc
            self._rest = self._chunks.rest
        elif self._left is not None:
            data, self._rest = data[: self._left], data[self._left :]
            self._left -= len(data)
        return data


def headers_of(head: h11.Response | h11.InformationalResponse) -> dict[str, str]:
    """Return the headers of an answer, names in lower case, repeated ones joined."""
    found: dict[str, str] = {}
    for raw_name, raw_value in head.headers:
        name, value = raw_name.decode("ascii"), raw_value.decode("latin-1")
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found
