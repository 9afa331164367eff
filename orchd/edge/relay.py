"""Streams: one task's frames, kept for replay and copied to its readers. The hot path of orchd.

A batch of frames comes from a pool link as the bytes that a client reads; it is appended to the log
and written to every reader whose socket takes it, in one step and without waiting. A reader that is
behind is caught up by its own task. What a task is and where it stands is core's business.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import trio

from orchd.kit.http import Sink
from orchd.kit.pipe import PipeClosed
from orchd.wire import codec, sse
from orchd.wire.errors import Envelope, Kind, OrchError
from orchd.wire.ids import PoolId, TaskId
from orchd.wire.link import FRAMES_HEAD
from orchd.wire.shapes import Ended, MetricsFrame, Narration, Started

WINDOW_BYTES: Final = 4 << 20
"""How far a pool may run ahead of the slowest reader: about 70,000 tokens. Past it the engine is
not read, and TCP makes it wait."""
CATCH_UP_BYTES: Final = 64 << 10
STALL_S: Final = (
    120.0  # a reader that takes nothing for this long is reset; nginx gives up after 60
)
SETTLE_S: Final = 0.25
"""How long a cancel's 204 waits for a half-written frame before it resets that reader."""
_EVENT_ID: Final = re.compile(r"[0-9]{1,19}")  # int() refuses thousands of digits with ValueError


class Stream:
    """The frames of one task, in order, and who reads them."""

    __slots__ = (
        "_first",
        "_flushed",
        "_grant",
        "_owed",
        "_tail_id",
        "_token_at",
        "_token_id",
        "done",
        "log",
        "narrated_at",
        "next_id",
        "pool_id",
        "readers",
        "sealed",
        "silent_since",
        "tail_at",
        "task_id",
        "tokens",
        "told",
        "touched",
        "urgent",
    )

    def __init__(self, task_id: TaskId, pool_id: PoolId, now: float) -> None:
        self.task_id = task_id
        self.pool_id = pool_id
        self.log = bytearray()
        self.next_id = sse.FIRST_ID
        self.readers: list[Reader] = []
        self.tokens = 0
        self.done = False
        self.sealed = False
        self.told = 0
        """Tokens that core was last told of."""
        self.touched = False
        """Something was written since the flag was last taken down."""
        self.urgent = False
        """Its first token is not written yet: that waits for no other."""
        self.narrated_at = now
        """When its reader was last told in words how it stands."""
        self.silent_since = now
        self._token_at: int | None = None
        self._token_id = 1 << 62  # no token yet
        self._tail_id = 0
        self.tail_at = 0
        """Where in the log begins what followed a seal."""
        self._owed = 0
        self._grant: Callable[[int], None] | None = None
        self._first: Callable[[TaskId], None] | None = None
        self._flushed: trio.Event | None = None

    # written by orchd

    def say(self, *frames: tuple[str, Started | Narration | Ended | Envelope]) -> None:
        """Append durable frames, in one write."""
        first_id = self.next_id
        self.next_id += len(frames)
        for n, (event, value) in enumerate(frames):
            self.log += sse.frame(first_id + n, event, codec.dumps(value))
        self.pump()

    def hint(self, value: MetricsFrame) -> int:
        """Send a `metrics` frame to the readers that are level; it is not kept [SSE-1004].

        Returns how many readers were not level and so did not get it.
        """
        return self._whisper(sse.frame(self.next_id - 1, "metrics", codec.dumps(value)))

    def murmur(self, value: Narration) -> None:
        """Send a `narration` frame to the readers that are level; it is not kept [SSE-1004].

        The ids behind the first token are the pool's to give, so it repeats the one before it.
        """
        self._whisper(sse.frame(self.next_id - 1, "narration", codec.dumps(value)))

    def heartbeat(self) -> None:
        """Send a comment to the readers that are level."""
        self._whisper(sse.comment("heartbeat"))

    def finish(self, *frames: tuple[str, Narration | Ended | Envelope]) -> None:
        """Append the last frames, in one write; nothing follows [ORCH-3406]."""
        if self.done:
            return
        self.done = True
        self._grant = None
        self.say(*frames)
        for reader in self.readers:
            reader.wake()

    def seal(self) -> None:
        """From this instant no token frame is written to any reader [ORCH-3026].

        Tokens leave the log; readers that were among them go on with what comes next.
        """
        if self.sealed or self.done:
            return
        self.sealed = True
        self._tail_id = self.next_id
        self._grant = None
        if self._token_at is not None:
            del self.log[self._token_at :]
            for reader in self.readers:
                reader.position = min(reader.position, self._token_at)
        self.tail_at = len(self.log)

    async def settle(self) -> None:
        """Wait until no reader has a half-written frame; reset those that take too long."""
        with trio.move_on_after(SETTLE_S):
            while any(reader.sink.pending for reader in self.readers):
                self._flushed = trio.Event()
                await self._flushed.wait()
        for reader in self.readers:
            if reader.sink.pending:
                reader.sink.abort()

    # written by the pool

    def opened(self, grant: Callable[[int], None], first: Callable[[TaskId], None]) -> int:
        """A job for this task starts. Returns the id of its token 0.

        `grant` gives the pool credit; `first` is called before the first token is written.
        """
        self._grant, self._first, self._owed = grant, first, 0
        return self.next_id

    def feed(self, count: int, frames: bytes) -> None:
        """Append `count` token frames just received; pump() passes them on."""
        first = self._token_at is None
        if first and self._first is not None and not (self.sealed or self.done):
            self._first(self.task_id)  # ends the stream when its deadline has just passed
        if self.sealed or self.done:
            return
        if first:
            self._token_at, self._token_id = len(self.log), self.next_id
            self.urgent = True
        self.tokens += count
        self.next_id += count
        self.log += frames
        self._owed += len(frames) + FRAMES_HEAD.size
        if self._owed >= WINDOW_BYTES // 2:
            self.grant()

    def pump(self) -> None:
        """Write what readers lack, in one write each: all frames that one receive brought."""
        self.touched, self.urgent = True, False
        for reader in self.readers:
            reader.pump()

    @property
    def held(self) -> bool:
        """Whether the pool waits for credit because a reader is a whole window behind."""
        return self._owed >= WINDOW_BYTES // 2

    def grant(self) -> None:
        """Give the pool the credit it has used up, if the slowest reader keeps pace."""
        lag = max((len(self.log) - reader.position for reader in self.readers), default=0)
        if self._grant is not None and self._owed >= WINDOW_BYTES // 2 and lag < WINDOW_BYTES:
            owed, self._owed = self._owed, 0
            self._grant(owed)

    # read by clients

    def offset(self, last_event_id: str | None) -> int:
        """Return where in the log a reader begins. Raises OrchError for an id that never was."""
        if last_event_id is None or last_event_id == "":
            return 0
        seen = int(last_event_id) if _EVENT_ID.fullmatch(last_event_id) else -1
        if 0 <= seen < self.next_id:
            if self.sealed and self._token_id - 1 <= seen < self._tail_id:
                return self._token_at or 0  # the tokens are gone; what follows is the end
            at = sse.offset_after(self.log, seen)
            if at is not None:
                return at
        raise OrchError(
            Kind.INVALID_PARAMS,
            f"Last-Event-ID {last_event_id[:20]!r} is not an id of this stream",
            path="Last-Event-ID",
        )

    def flushed(self) -> None:
        """Say that a reader has nothing half-written any more."""
        if self._flushed is not None:
            self._flushed.set()

    def _whisper(self, frame: bytes) -> int:
        end, missed = len(self.log), 0
        for reader in self.readers:
            reader.pump()  # what was gathered for it goes first
            if reader.position == end and not reader.sink.pending:
                reader.write(frame)
            else:
                missed += 1
        return missed


class Reader:
    """One client of a stream. `position` is how much of the log it was given, in bytes."""

    __slots__ = ("_asleep", "_stream", "position", "sink")

    def __init__(self, stream: Stream, position: int, sink: Sink) -> None:
        self._stream = stream
        self.position = position
        self.sink = sink
        self._asleep: trio.CancelScope | None = None

    def pump(self) -> None:
        """The log grew: write it now if nothing stands before it; the rest is for the own task."""
        if not self.sink.pending and self.position < len(self._stream.log):
            self.write(self._next_frames())
            if self.position < len(self._stream.log):
                self.wake()

    def write(self, frames: bytes) -> None:
        """Write, and let the reader's own task do what the socket did not take."""
        try:
            if not self.sink.send_nowait(frames, last=self._all_given()):
                self.wake()
        except PipeClosed:
            self.wake()

    def _all_given(self) -> bool:
        return self._stream.done and self.position == len(self._stream.log)

    def wake(self) -> None:
        """Let the reader's task look again."""
        if self._asleep is not None:
            self._asleep.cancel()

    async def run(self) -> bool:
        """Serve until the stream is done (True) or the client has gone (False)."""
        stream, sink = self._stream, self.sink
        stream.readers.append(self)
        try:
            while True:
                if sink.pending:
                    with trio.move_on_after(STALL_S) as patience:
                        await sink.flush_some()
                    if patience.cancelled_caught:
                        sink.abort()
                        return False
                    stream.flushed()
                elif self.position < len(stream.log):
                    frames = self._next_frames()
                    sink.send_nowait(frames, last=self._all_given())
                    stream.grant()
                    await trio.lowlevel.checkpoint()
                elif stream.done:
                    return True
                elif await self._client_left():
                    return False
        except PipeClosed:
            return False
        finally:
            stream.readers.remove(self)
            stream.flushed()
            stream.grant()

    def _next_frames(self) -> bytes:
        """Return whole frames only: a cancel may cut the log after any of them."""
        log, begin = self._stream.log, self.position
        end = len(log)
        if end - begin > CATCH_UP_BYTES:
            end = log.rfind(b"\n\n", begin, begin + CATCH_UP_BYTES) + 2
            if end == 1:  # one frame longer than that
                end = log.index(b"\n\n", begin) + 2
        self.position = end
        return bytes(log[begin:end])

    async def _client_left(self) -> bool:
        left = False
        with trio.CancelScope() as self._asleep:
            await self.sink.wait_closed()
            left = True
        self._asleep = None
        return left
