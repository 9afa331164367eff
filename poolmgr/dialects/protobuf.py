"""The wire format of Protocol Buffers, as far as poolmgr needs it: fields in, fields out.

protobuf.dev/programming-guides/encoding. Varints, 64-bit, 32-bit and length-delimited fields;
groups are refused. What a field number means is the dialect's (triton_grpc.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

VARINT: Final = 0
FIXED64: Final = 1
BYTES: Final = 2
FIXED32: Final = 5
_SIZES: Final = {FIXED64: 8, FIXED32: 4}
MAX_VARINT: Final = 10  # bytes of 64 bits, 7 at a time


class BadMessage(Exception):  # noqa: N818 - what it is, as BadChunk of the kit
    """These bytes are no message."""


def varint(value: int) -> bytes:
    """Return a number of 0..2**64-1; a negative one as its two's complement."""
    value &= 0xFFFFFFFFFFFFFFFF
    made = bytearray()
    while value > 0x7F:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    made.append(value)
    return bytes(made)


def number(field: int, value: int) -> bytes:
    """Return a varint field: int32, int64, uint64, bool."""
    return varint(field << 3 | VARINT) + varint(value)


def data(field: int, value: bytes) -> bytes:
    """Return a length-delimited field: string, bytes, a message, packed numbers."""
    return varint(field << 3 | BYTES) + varint(len(value)) + value


def fields(message: bytes) -> Iterator[tuple[int, int, int | bytes]]:
    """Yield (field, wire type, value): a varint as a number, all others as bytes.

    Raises BadMessage.
    """
    at, end = 0, len(message)
    while at < end:
        key, at = _varint(message, at)
        kind = key & 7
        if kind == VARINT:
            value, at = _varint(message, at)
            yield key >> 3, kind, value
            continue
        if kind == BYTES:
            size, at = _varint(message, at)
        elif kind in _SIZES:
            size = _SIZES[kind]
        else:
            raise BadMessage(f"wire type {kind}")
        if at + size > end:
            raise BadMessage("a field is cut off")
        yield key >> 3, kind, message[at : at + size]
        at += size


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    for position in range(at, min(len(message), at + MAX_VARINT)):
        byte = message[position]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position + 1
        shift += 7
    raise BadMessage("a number is cut off or too long")
