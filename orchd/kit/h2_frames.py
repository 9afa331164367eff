"""HTTP/2's bytes, before the library sees them: whole frames, and how much of what is endured.

h2 collects a frame of up to 16 MiB before it says that it is too long, hands out the events of many
frames at once, and none of them when the last one was broken. So it is given one frame at a time,
and what need not reach it does not (RFC 9113, section 4.1).
"""

from __future__ import annotations

import enum
from typing import Final

from attrs import frozen
from h2.errors import ErrorCodes

from orchd.kit.exchange import PREFACE

MAX_FRAME: Final = 16 << 10  # SETTINGS_MAX_FRAME_SIZE's least and default: nobody needs more
_HEAD: Final = 9
_GOAWAY: Final = 8  # bytes of its payload without words
_ACK: Final = 0x1
_END_STREAM: Final = 0x1
_END_HEADERS: Final = 0x4
RESET: Final = 10
PATIENCE: Final = 2000
"""200 resets at once, all streams of a client that leaves, or so many pings."""
PATIENCE_PER_S: Final = 200.0


class Type(enum.IntEnum):
    """Frame types (RFC 9113, section 6). Others exist and are ignored."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


_COSTS: Final[dict[int, int]] = {
    Type.HEADERS: 0,
    Type.WINDOW_UPDATE: 0,
    Type.RST_STREAM: RESET,
}


class Broken(Exception):  # noqa: N818 - names an event, as PipeClosed does
    """The connection cannot go on: a GOAWAY with this code says why."""

    def __init__(self, code: ErrorCodes, why: str) -> None:
        super().__init__(why)
        self.code = code
        self.why = why


@frozen
class Frame:
    """One whole frame."""

    type: int
    flags: int
    stream_id: int
    length: int
    """Bytes of payload."""
    data: bytes
    """With its head of 9 bytes."""


class Cutter:
    """Bytes in any pieces -> whole frames; one for each connection.

    Sees to it that the preface comes first and SETTINGS next, that nothing stands between the
    frames of a header block, and that neither a frame nor a header block is too long.
    """

    __slots__ = ("_begun", "_block", "_block_id", "_buffer", "_max_block", "_preface")

    def __init__(self, max_block: int) -> None:
        """`max_block` bounds, in bytes, a header block as it is sent, over all its frames."""
        self._max_block = max_block
        self._buffer = bytearray()
        self._preface = PREFACE
        """What of it is still to come."""
        self._begun = False
        self._block_id = 0
        """The stream whose header block is open; 0: none is."""
        self._block = 0

    def feed(self, data: bytes) -> None:
        """Take what was received. Raises Broken when it does not begin with the preface."""
        if self._preface:
            part, data = data[: len(self._preface)], data[len(self._preface) :]
            if not self._preface.startswith(part):
                raise Broken(ErrorCodes.PROTOCOL_ERROR, "no HTTP/2 preface")
            self._preface = self._preface[len(part) :]
        self._buffer += data

    def next_frame(self) -> Frame | None:
        """Return the next whole frame, or None. Raises Broken."""
        buffer = self._buffer
        if len(buffer) < _HEAD:
            return None
        length = int.from_bytes(buffer[:3], "big")
        kind, flags = buffer[3], buffer[4]
        stream_id = int.from_bytes(buffer[5:9], "big") & 0x7FFFFFFF
        self._check(kind, flags, stream_id, length)
        if len(buffer) < _HEAD + length:
            return None
        if kind in {Type.HEADERS, Type.CONTINUATION}:
            self._block += length
            if self._block > self._max_block:
                raise Broken(ErrorCodes.ENHANCE_YOUR_CALM, "a header block is too long")
            self._block_id = 0 if flags & _END_HEADERS else stream_id
            self._block = self._block if self._block_id else 0
        self._begun = True
        frame = Frame(kind, flags, stream_id, length, bytes(buffer[: _HEAD + length]))
        del buffer[: _HEAD + length]
        return frame

    def _check(self, kind: int, flags: int, stream_id: int, length: int) -> None:
        """Say at a frame's head what is wrong with it: its payload need not come for that."""
        if length > MAX_FRAME:
            raise Broken(ErrorCodes.FRAME_SIZE_ERROR, f"a frame of {length} bytes")
        if not self._begun and (kind != Type.SETTINGS or flags & _ACK):
            raise Broken(ErrorCodes.PROTOCOL_ERROR, "the first frame is not SETTINGS")
        if self._block_id and (kind != Type.CONTINUATION or stream_id != self._block_id):
            raise Broken(ErrorCodes.PROTOCOL_ERROR, "a frame between those of a header block")
        if kind == Type.GOAWAY and (stream_id or length < _GOAWAY):
            raise Broken(ErrorCodes.PROTOCOL_ERROR, "a malformed GOAWAY")


class Patience:
    """How many frames are endured that make work and bring nobody anything: a leaky bucket.

    Resets are the dear ones: opening streams only to reset them (CVE-2023-44487), or having us
    reset them (CVE-2025-8671), costs a client nothing and us a request each.
    """

    __slots__ = ("_at", "_left")

    def __init__(self, now: float) -> None:
        self._left = float(PATIENCE)
        self._at = now

    def spend(self, cost: int, now: float) -> None:
        """Take `cost` out of it. Raises Broken when it is empty."""
        self._left = min(PATIENCE, self._left + (now - self._at) * PATIENCE_PER_S) - cost
        self._at = now
        if self._left < 0:
            raise Broken(ErrorCodes.ENHANCE_YOUR_CALM, "too many resets, pings or empty frames")


def cost(frame: Frame) -> int:
    """Return what a frame takes of the patience; 0 for those that every client needs."""
    if frame.type == Type.DATA:
        return 0 if frame.length or frame.flags & _END_STREAM else 1
    return _COSTS.get(frame.type, 1)


def goaway(last_stream_id: int, code: ErrorCodes, why: str = "") -> bytes:
    """Return a GOAWAY, written by hand: after its own, h2 sends nothing on open streams."""
    text = why.encode()
    return b"%b%c\0\0\0\0\0%b%b%b" % (
        (_GOAWAY + len(text)).to_bytes(3, "big"),
        Type.GOAWAY,
        last_stream_id.to_bytes(4, "big"),
        int(code).to_bytes(4, "big"),
        text,
    )
