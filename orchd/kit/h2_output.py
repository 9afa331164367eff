"""What leaves an HTTP/2 connection: streams take turns, windows are respected, one pipe is fed.

All that is written goes through here, in one thread and without waiting, frame by frame: so frames
never interleave. While the kernel takes nothing, nothing more is framed: a stream's bytes stay its
own (h2_sink.py), and `run` goes on when there is room again. A stream whose window is empty is left
out until the peer opens it, and holds up no other.
"""

from __future__ import annotations

import contextlib
from collections import deque
from typing import Final

import trio
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError

from orchd.kit.h2_heads import Fields
from orchd.kit.h2_sink import H2Sink
from orchd.kit.pipe import Pipe, PipeClosed

BURST: Final = 64 << 10
"""Bytes framed before the kernel is asked again whether it takes more."""


class H2Output:
    """Owns what is written to the pipe; `run` is the connection's writing task."""

    __slots__ = ("_behind", "_h2", "_half_sent", "_pipe", "_turns")

    def __init__(self, pipe: Pipe, h2: H2Connection) -> None:
        self._pipe = pipe
        self._h2 = h2
        self._turns: deque[H2Sink] = deque()
        """Streams that have something to send and, for all we know, a window."""
        self._half_sent: list[H2Sink] = []
        self._behind = trio.lowlevel.ParkingLot()

    @property
    def unsent(self) -> int:
        """Bytes that the kernel has not taken yet."""
        return self._pipe.pending

    async def run(self) -> None:
        """Send what the kernel did not take at once, for ever. Closes the pipe when it breaks."""
        try:
            while True:
                await self._pipe.flush()
                self.pump()
                if not self._pipe.pending:
                    await self._behind.park()
        except PipeClosed:
            self._pipe.close()  # whoever receives finds out too

    def head(self, stream_id: int, fields: Fields, *, end: bool = False) -> None:
        """Frame the head of an answer; it leaves with what is sent next, or a wait on its sink."""
        self._h2.send_headers(stream_id, fields, end_stream=end)

    def offer(self, sink: H2Sink) -> None:
        """Send what the windows and the kernel allow of this stream. Raises PipeClosed."""
        self.queue(sink)
        self.pump()

    def queue(self, sink: H2Sink) -> None:
        """Give a stream its turn when the next bytes are sent: a window may have opened."""
        waits = sink.rest or (sink.ended and not sink.sent)
        if waits and not sink.queued and not sink.gone:
            sink.queued = True
            self._turns.append(sink)

    def pump(self) -> None:
        """Send what can be sent now. Raises PipeClosed."""
        if not self._pipe.pending:
            self._landed()
            while self._turns and not self._pipe.pending:
                self._burst()
        self.emit()

    def emit(self) -> None:
        """Send what h2 has ready. Raises PipeClosed."""
        data = self._h2.data_to_send()
        if data and not self._pipe.send_nowait(data):
            self._behind.unpark_all()

    def say(self, frame: bytes) -> None:
        """Send a frame that h2 did not make. Raises PipeClosed."""
        self.emit()
        if not self._pipe.send_nowait(frame):
            self._behind.unpark_all()

    def reset(self, sink: H2Sink, code: ErrorCodes = ErrorCodes.INTERNAL_ERROR) -> None:
        """Cut a stream off.

        When the kernel still has to take a part of its frames, the whole connection is reset, as
        in HTTP/1.1: after an abort no byte of the stream may leave [ORCH-3026], and a frame that
        is half sent cannot be taken back. Its peer has read nothing for a while then.
        """
        if sink.half_sent and self._pipe.pending:
            self._pipe.abort()
            return
        self.reset_id(sink.stream_id, code)

    def reset_id(self, stream_id: int, code: ErrorCodes) -> None:
        """Send RST_STREAM, unless the stream is over; a peer that has gone is no error."""
        with contextlib.suppress(ProtocolError, PipeClosed):
            self._h2.reset_stream(stream_id, code)
            self.emit()

    def _burst(self) -> None:
        """Frame BURST bytes, a frame of each stream in turn, and give them to the kernel."""
        size = 0
        sent: list[H2Sink] = []
        while self._turns and size < BURST:
            sink = self._turns.popleft()
            sink.queued = False
            taken = self._frame(sink)
            if taken is None:
                continue
            size += taken
            sent.append(sink)
            if sink.rest:
                self.queue(sink)
        self.emit()
        if self._pipe.pending:
            for sink in sent:
                sink.half_sent = True
            self._half_sent = sent
        for sink in sent:
            sink.moved()

    def _frame(self, sink: H2Sink) -> int | None:
        """Frame what one frame holds of a stream; None: it has nothing to send, or no window."""
        if sink.gone or sink.sent:
            return None
        size = len(sink.rest)
        if size:
            room = self._h2.local_flow_control_window(sink.stream_id)
            size = min(size, room, self._h2.max_outbound_frame_size)
            if size <= 0:
                return None
        data = sink.take(size)
        end = sink.ended and not sink.rest
        self._h2.send_data(sink.stream_id, data, end_stream=end)
        sink.sent = end
        return size

    def _landed(self) -> None:
        """The kernel has taken all there was."""
        for sink in self._half_sent:
            sink.half_sent = False
            sink.moved()
        self._half_sent = []
