"""Requests off one connection: heads, bodies, and the deadline of each part. No answers.

The connection has one cancel scope whose deadline moves: a scope for each wait costs more.
"""

from __future__ import annotations

import enum
import math

import trio

from orchd.kit import heads
from orchd.kit.chunks import BadChunk, ChunkDecoder
from orchd.kit.message import Limits, Peer, Request
from orchd.kit.pipe import RECV_BYTES, Pipe, PipeClosed
from orchd.wire.errors import Kind, OrchError


class Phase(enum.Enum):
    """What the connection waits for: a deadline that passes means another thing in each."""

    IDLE = "idle"
    HEAD = "head"
    BODY = "body"
    HANDLER = "handler"
    WRITE = "write"


class Watch:
    """What a connection is waiting for, and until when."""

    __slots__ = ("phase", "scope")

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.phase = Phase.IDLE

    def enter(self, phase: Phase, seconds: float = math.inf) -> None:
        """Wait for another thing from now on, for `seconds` at most."""
        self.phase = phase
        self.scope.deadline = trio.current_time() + seconds


class Receiver:
    """Reads one request after the other; what a refusal needs of the current one is kept."""

    __slots__ = ("_limits", "_peer", "_pipe", "_watch", "correlation_id", "head_only", "http10")

    def __init__(self, pipe: Pipe, peer: Peer, watch: Watch, limits: Limits) -> None:
        self._pipe = pipe
        self._peer = peer
        self._watch = watch
        self._limits = limits
        self._forget()

    def _forget(self) -> None:
        self.correlation_id = ""
        """"" until a head was read."""
        self.head_only = False
        """The request is a HEAD."""
        self.http10 = False

    async def receive(self, rest: bytes, idle_s: float) -> tuple[Request, bool, bytes] | None:
        """Return the next request, whether another may follow, and what was read past it.

        `rest` is what was read past the last one; `idle_s` bounds the wait for the first byte.
        None when the client is done. Raises OrchError, and PipeClosed in the middle of a body.
        """
        self._forget()
        reader = heads.HeadReader(self._limits)
        head = reader.feed(rest) if rest else None
        if head is None:
            if reader.begun:
                self._watch.enter(Phase.HEAD, self._limits.head_s)
            else:
                self._watch.enter(Phase.IDLE, idle_s)
        while head is None:
            data = await self._pipe.recv()
            if not data:
                return None
            head = reader.feed(data)
            if head is None and self._watch.phase is Phase.IDLE and reader.begun:
                self._watch.enter(Phase.HEAD, self._limits.head_s)
        self.correlation_id = head.correlation_id
        self.head_only = head.method == "HEAD"
        self.http10 = head.http10
        path, query = heads.split_target(head.method, head.target)
        if head.length > self._limits.body_bytes:
            raise self._too_large()
        body, rest = await self._body(head, reader.rest)
        request = Request(
            head.method, path, query, head.headers, body, self._peer, head.correlation_id
        )
        if self._watch.scope.cancel_called:  # its last byte came as its time ran out
            await trio.lowlevel.checkpoint()
        return request, head.keep_alive, rest

    async def _body(self, head: heads.Head, rest: bytes) -> tuple[bytes, bytes]:
        if not head.length and not head.chunked:
            return b"", rest
        if head.expects_continue and not rest:
            self._pipe.send_nowait(heads.CONTINUE)
        if head.chunked:
            return await self._chunked_body(rest)
        return await self._sized_body(rest, head.length)

    async def _more_body(self) -> bytes:
        if self._watch.phase is not Phase.BODY:
            self._watch.enter(Phase.BODY, self._limits.body_s)
        data = await self._pipe.recv()
        if not data:
            raise PipeClosed("the client left in the middle of a request")
        return data

    async def _sized_body(self, rest: bytes, length: int) -> tuple[bytes, bytes]:
        if len(rest) < length:
            gathered = bytearray(rest)
            while len(gathered) < length:
                gathered += await self._more_body()
            rest = bytes(gathered)
        return rest[:length], rest[length:]

    async def _chunked_body(self, data: bytes) -> tuple[bytes, bytes]:
        decoder = ChunkDecoder()
        body = bytearray()
        sent = 0
        limit = self._limits.body_bytes
        while True:
            try:
                body += decoder.feed(data)
            except BadChunk as exc:
                raise OrchError(Kind.MALFORMED_HTTP, str(exc)) from None
            sent += len(data)
            # twice: so many bytes of framing for each byte of body are nobody's honest chunks
            if len(body) > limit or sent > 2 * limit + RECV_BYTES:
                raise self._too_large()
            if decoder.done:
                return bytes(body), decoder.rest
            data = await self._more_body()

    def _too_large(self) -> OrchError:
        return OrchError(Kind.BODY_TOO_LARGE, f"the body is over {self._limits.body_bytes} bytes")
