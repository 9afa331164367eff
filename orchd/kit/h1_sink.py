"""The body of a Streaming answer over HTTP/1.1: chunks framed by hand, written without awaiting.

h11 costs 2.5 us for each send, this framing 0.09 (specs/benchmarks.md).
"""

from __future__ import annotations

from typing import Final

import trio

from orchd.kit.pipe import Pipe, PipeClosed

MAX_REST: Final = 32 << 10
"""Bytes a client may send behind a request whose answer still streams; more is no client."""
_REST_RECV: Final = 4096
END: Final = b"0\r\n\r\n"
"""The chunk that ends a body."""


class H1Sink:
    """Writes one body. Its methods raise PipeClosed once the peer has gone."""

    __slots__ = ("_chunked", "_ended", "_head", "_pipe", "gone", "rest")

    def __init__(self, pipe: Pipe, head: bytes, rest: bytes, *, chunked: bool) -> None:
        self._pipe = pipe
        self._head = head
        """Held back until the first chunk, or the first wait on this sink: one send for both."""
        self._chunked = chunked
        self._ended = False
        self.rest = rest
        """What the client sent behind the request: the next requests."""
        self.gone = False
        """The peer was seen to have hung up, or the body is ended: nothing is written any more."""

    @property
    def pending(self) -> int:
        """Bytes written here that the kernel has not taken yet."""
        return self._pipe.pending

    def send_nowait(self, data: bytes, *, last: bool = False) -> bool:
        """Write one chunk. False: a rest is pending; await flush() before the next.

        `last`: the end of the body goes out with it, and nothing may follow.
        """
        if self.gone:
            raise PipeClosed("the body is closed")
        if not data:
            return not self._pipe.pending  # an empty chunk would end the body
        if self._chunked:
            data = b"%x\r\n%b\r\n%b" % (len(data), data, END if last else b"")
            self._ended = last
        if self._head:
            data = self._head + data
            self._head = b""
        return self._pipe.send_nowait(data)

    def begin(self) -> None:
        """Send the head if no chunk has taken it along."""
        if self._head and not self.gone:
            head, self._head = self._head, b""
            self._pipe.send_nowait(head)

    async def flush(self) -> None:
        """Return when the kernel has taken everything."""
        if self.gone:
            raise PipeClosed("the body is closed")
        self.begin()
        await self._pipe.flush()

    async def flush_some(self) -> None:
        """Return when the kernel has taken a part of what is pending."""
        if self.gone:
            raise PipeClosed("the body is closed")
        self.begin()
        await self._pipe.flush_some()

    async def wait_closed(self) -> None:
        """Return when the peer hung up, or this side closed.

        A peer that only ends its side counts as gone: nothing tells the two apart. Requests that
        arrive meanwhile are kept for later; more than MAX_REST of them reset the connection.
        """
        try:
            if not self.gone:
                self.begin()
            while not self.gone:
                data = await self._pipe.recv(_REST_RECV)
                if not data:
                    self.gone = True
                elif len(self.rest) + len(data) > MAX_REST:
                    self.abort()
                else:
                    self.rest += data
        except PipeClosed:
            self.gone = True
        await trio.lowlevel.checkpoint()

    def abort(self) -> None:
        """Reset the connection: the reader must not take what it has for the whole."""
        self.gone = True
        self._pipe.abort()

    def finish(self) -> None:
        """Write the end of the body: the server's call, after `run`. Nothing may follow."""
        self.gone = True
        end = self._head + (END if self._chunked and not self._ended else b"")
        self._head = b""
        if end:
            self._pipe.send_nowait(end)
