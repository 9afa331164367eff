"""The body of an answer over HTTP/2: what waits for a window, and whether anybody still reads.

Same contract as HTTP/1.1's (sink.py). When its bytes go out is h2_output.py's: the connection has
other streams too.
"""

from __future__ import annotations

import contextlib
from typing import Protocol

import trio

from orchd.kit.pipe import MAX_PENDING, PipeClosed


class Output(Protocol):
    """What a sink needs of its connection (h2_output.py)."""

    @property
    def unsent(self) -> int:
        """Bytes of all streams that the kernel has not taken yet."""

    def offer(self, sink: H2Sink) -> None:
        """Send what the windows and the kernel allow. Raises PipeClosed."""

    def emit(self) -> None:
        """Send what h2 has ready: heads, resets, acknowledgements. Raises PipeClosed."""

    def reset(self, sink: H2Sink) -> None:
        """Cut the stream off."""


class H2Sink:
    """Writes one body. Its methods raise PipeClosed once the peer has gone."""

    __slots__ = (
        "_left",
        "_moved",
        "_out",
        "ended",
        "gone",
        "half_sent",
        "queued",
        "rest",
        "sent",
        "stream_id",
    )

    def __init__(self, out: Output, stream_id: int) -> None:
        self._out = out
        self.stream_id = stream_id
        self.rest: bytes | bytearray = b""
        """What waits for a window or for the kernel; at most MAX_PENDING and one piece."""
        self.ended = False
        """Nothing follows `rest`."""
        self.sent = False
        """The end of the stream is framed."""
        self.gone = False
        """The peer reset the stream or left, or this side did: nothing is written any more."""
        self.queued = False
        """It waits for its turn in the output."""
        self.half_sent = False
        """Bytes of it are among those that the kernel has not taken."""
        self._moved = trio.lowlevel.ParkingLot()
        self._left = trio.lowlevel.ParkingLot()

    @property
    def pending(self) -> int:
        """Bytes written here that the kernel has not taken yet."""
        return len(self.rest) + (self._out.unsent if self.half_sent else 0)

    def send_nowait(self, data: bytes, *, last: bool = False) -> bool:
        """Write one piece. False: a rest is pending; await flush() before the next.

        `last`: the end of the body goes out with it, and nothing may follow.
        """
        if self.gone or self.ended:
            raise PipeClosed("the body is closed")
        if not data:
            return not self.pending
        self.ended = last
        if not self.rest:
            self.rest = data
            self._out.offer(self)
            return not self.pending
        if len(self.rest) > MAX_PENDING:
            self.abort()
            raise PipeClosed(f"the peer left {MAX_PENDING} bytes unread")
        self.rest += data
        return False

    def take(self, size: int) -> bytes:
        """Return the next `size` bytes, at most all: they are the output's now."""
        if size >= len(self.rest):
            data, self.rest = bytes(self.rest), b""
            return data
        if not isinstance(self.rest, bytearray):
            self.rest = bytearray(self.rest)
        data = bytes(self.rest[:size])
        del self.rest[:size]  # moves a pointer, not the bytes
        return data

    async def flush(self) -> None:
        """Return when the kernel has taken everything."""
        self._begin()
        while True:
            if self.gone:
                raise PipeClosed("the body is closed")
            if not self.pending:
                return
            await self._moved.park()

    async def flush_some(self) -> None:
        """Return when the kernel has taken a part of what is pending."""
        self._begin()
        if self.gone:
            raise PipeClosed("the body is closed")
        if self.pending:
            await self._moved.park()

    async def drain(self, patience_s: float) -> None:
        """Return when the ended body is out; a peer that takes nothing for so long is cut off."""
        while not self.gone and (self.pending or not self.sent):
            with trio.move_on_after(patience_s) as patience:
                await self._moved.park()
            if patience.cancelled_caught:
                self.abort()

    async def wait_closed(self) -> None:
        """Return when the peer left or reset the stream, or this side did."""
        with contextlib.suppress(PipeClosed):  # the connection sees it and says so
            self._begin()
        while not self.gone:
            await self._left.park()
        await trio.lowlevel.checkpoint()

    def _begin(self) -> None:
        """Let the head of the answer out, if no piece has taken it along."""
        if not self.gone:
            self._out.emit()

    def moved(self) -> None:
        """Say that the kernel took something."""
        if self._moved:
            self._moved.unpark_all()

    def abort(self) -> None:
        """Reset the stream: the reader must not take what it has for the whole."""
        if not self.gone:
            self.leave()
            self._out.reset(self)

    def leave(self) -> None:
        """Drop what waits: nobody reads it any more."""
        self.gone = True
        self.rest = b""
        self._moved.unpark_all()
        self._left.unpark_all()

    def finish(self, data: bytes = b"") -> None:
        """End the body with `data`; the END_STREAM goes with its last byte. Raises PipeClosed."""
        if self.gone:
            return
        if data:
            self.rest = self.rest + data if self.rest else data
        self.ended = True
        self._out.offer(self)
