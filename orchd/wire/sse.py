"""Server-sent events: frames to bytes, bytes to events. Ids are 1, 2, 3, ... within a stream.

Frames with an id of their own are durable: they are replayed. A `metrics` frame may be dropped and
is not replayed, so it repeats the id of the durable frame before it: a reader that resumes with
Last-Event-ID after either one misses nothing and sees nothing twice (specs/03-streams.md).
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count

import orjson
from attrs import frozen

from orchd.wire.errors import Kind, OrchError

FIRST_ID = 1
MAX_EVENT_BYTES = 1 << 20  # a decoder's bound on one event; a token frame is about 60 bytes


def frame(frame_id: int, event: str, data: bytes) -> bytes:
    """Return one frame. `data` is one line of JSON."""
    return b"id: %d\nevent: %b\ndata: %b\n\n" % (frame_id, event.encode(), data)


def token_frames(first_id: int, first_index: int, texts: Iterable[str]) -> bytes:
    """Return the frames of consecutive tokens, joined."""
    dumps = orjson.dumps
    return b"".join(
        [
            b'id: %d\nevent: token\ndata: {"t":%b,"i":%d}\n\n' % (frame_id, dumps(text), index)
            for frame_id, index, text in zip(
                count(first_id), count(first_index), texts, strict=False
            )
        ]
    )


def comment(text: str) -> bytes:
    """Return a comment: it keeps a connection alive and no parser sees it."""
    return b": %b\n\n" % text.replace("\n", " ").encode()


def offset_after(log: bytes | bytearray, frame_id: int) -> int | None:
    """Return where in `log`, frames joined in order of id, the frame after `frame_id` begins.

    `len(log)` when `frame_id` is the last; None when `log` never held it. JSON escapes line feeds,
    so `\\n\\nid: N\\n` stands nowhere but at the head of a frame.
    """
    if frame_id == 0:
        return 0
    next_head = log.find(b"\n\nid: %d\n" % (frame_id + 1))
    if next_head >= 0:
        return next_head + 2
    last = b"id: %d\n" % frame_id
    at = 0 if log.startswith(last) else log.rfind(b"\n\n" + last)
    return len(log) if at >= 0 else None


@frozen
class Event:
    """One event as a reader sees it."""

    name: str
    data: str
    id: str | None = None
    """The last id seen, as browsers report it."""


class Decoder:
    """Bytes in any pieces -> events. Tolerant: CRLF, split UTF-8, comments, unknown fields.

    Follows the WHATWG event stream rules, bounded by `limit` bytes for one event.
    """

    def __init__(self, limit: int = MAX_EVENT_BYTES) -> None:
        self._limit = limit
        self._buffer = bytearray()
        self._data: list[str] = []
        self._size = 0
        self._name = ""
        self._id: str | None = None

    def feed(self, data: bytes | bytearray | memoryview) -> list[Event]:
        """Return the events that `data` completes.

        Raises OrchError(ENGINE_PROTOCOL) past the limit.
        """
        self._buffer += data
        events: list[Event] = []
        while True:
            end, skip = self._line_end()
            if end < 0:
                break
            line = self._buffer[:end].decode("utf-8", "replace")
            del self._buffer[: end + skip]
            event = self._line(line)
            if event is not None:
                events.append(event)
        if len(self._buffer) + self._size > self._limit:
            raise OrchError(
                Kind.ENGINE_PROTOCOL, f"an event of more than {self._limit} bytes was received"
            )
        return events

    def _line_end(self) -> tuple[int, int]:
        feed, ret = self._buffer.find(b"\n"), self._buffer.find(b"\r")
        if ret < 0 or 0 <= feed < ret:
            return feed, 1
        if ret == len(self._buffer) - 1:
            return -1, 0  # a line feed may follow in the next piece
        return ret, 2 if self._buffer[ret + 1] == 0x0A else 1

    def _line(self, line: str) -> Event | None:
        if not line:
            if not self._data:
                self._name = ""
                return None
            event = Event(self._name or "message", "\n".join(self._data), self._id)
            self._data, self._name, self._size = [], "", 0
            return event
        if line[0] == ":":
            return None
        key, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if key == "data":
            self._data.append(value)
            self._size += len(line)  # not the value: a million empty ones are memory too
        elif key == "event":
            self._name = value
        elif key == "id" and "\0" not in value:
            self._id = value
        return None
