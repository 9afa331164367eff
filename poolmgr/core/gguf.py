"""What a GGUF file says before its data: keys, and how many bytes each tensor takes. Bytes in.

The format: docs/gguf.md of ggml, versions 2 and 3, little-endian. Nothing is opened here. A header
is untrusted: every count is compared with the bytes that are there before anything is made of it,
so one that claims 2^60 entries ends with `Malformed` or `Short` and costs no memory.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final

from attrs import frozen

MAGIC: Final = b"GGUF"
MAX_ENTRIES: Final = 1 << 16
"""Keys, and tensors: the largest models have some thousands."""
MAX_NAME: Final = 256
"""Bytes of a key or of a tensor's name that is kept; a longer one is passed over."""
MAX_LIST: Final = 4096
"""Numbers of a list that is kept (one for each layer); longer ones are passed over."""
MAX_DIMS: Final = 8
_UINT32, _FLOAT32, _BOOL, _STRING, _ARRAY = 4, 6, 7, 8, 9
_NUMBERS: Final = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", _UINT32: "<I", 5: "<i", _FLOAT32: "<f", _BOOL: "<?",
    10: "<Q", 11: "<q", 12: "<d",
}  # fmt: skip

Value = int | float | bool | str | tuple[int | float | bool, ...]


class Malformed(ValueError):  # noqa: N818 a fact of the file
    """This is no GGUF that we can read, in words."""


class Short(Exception):  # noqa: N818 not an error: a request
    """The header goes on behind these bytes: come again with more of the file."""


@frozen
class Gguf:
    """The head of one file."""

    keys: Mapping[str, Value]
    """Numbers, short strings and short lists of numbers; what else there is was passed over."""
    tensors: Mapping[str, int]
    """Bytes of each tensor, its padding included."""


def parse(data: bytes, file_bytes: int) -> Gguf:
    """Return what the first bytes of a file of `file_bytes` say. Raises Malformed, Short."""
    at = _Cursor(data)
    if at.take(4) != MAGIC:
        raise Malformed("it is no GGUF file")
    version = at.number("<I")
    if version not in (2, 3):
        raise Malformed(f"its GGUF version is {version}, and 2 and 3 are known")
    n_tensors, n_keys = at.number("<Q"), at.number("<Q")
    for count, what in ((n_tensors, "tensors"), (n_keys, "keys")):
        if count > MAX_ENTRIES:
            raise Malformed(f"its header claims {count} {what}")
    keys: dict[str, Value] = {}
    for _ in range(n_keys):
        name, kind = at.text(), at.number("<I")
        value = _value(at, kind)
        if name and value is not None:
            keys[name] = value
    offsets: dict[str, int] = {}
    for number in range(n_tensors):
        name = at.text() or f"#{number}"
        dims = at.number("<I")
        if dims > MAX_DIMS:
            raise Malformed(f"its tensor {name} claims {dims} dimensions")
        at.skip(8 * dims + 4)
        offsets[name] = at.number("<Q")
    alignment = keys.get("general.alignment", 32)
    if type(alignment) is not int or not 0 < alignment <= 1 << 20:
        raise Malformed(f"its alignment is {alignment!r}")
    begin = (at.position + alignment - 1) // alignment * alignment
    return Gguf(keys, _sizes(offsets, file_bytes - begin))


def _sizes(offsets: Mapping[str, int], data_bytes: int) -> dict[str, int]:
    """Return how far it is from each tensor to the next, or to the end of the file.

    So the sizes hold for quantisations that nobody here has heard of.
    """
    ordered = sorted(offsets, key=offsets.__getitem__)
    if not ordered:
        return {}
    if offsets[ordered[-1]] >= data_bytes:
        raise Malformed("it is cut short: its header names data behind its end")
    ends = [*(offsets[name] for name in ordered[1:]), data_bytes]
    return {name: end - offsets[name] for name, end in zip(ordered, ends, strict=True)}


def _value(at: _Cursor, kind: int) -> Value | None:
    """Read one value; None for what is passed over."""
    if kind == _STRING:
        return at.text()
    if kind != _ARRAY:
        return at.number(_form(kind))
    inner, count = at.number("<I"), at.number("<Q")
    if inner == _STRING:
        at.skip_texts(count)
        return None
    form = _form(inner)
    if count > MAX_LIST:
        at.skip(count * struct.calcsize(form))
        return None
    return tuple(at.number(form) for _ in range(count))


def _form(kind: int) -> str:
    try:
        return _NUMBERS[kind]
    except KeyError:
        raise Malformed(f"it has a value of type {kind}, which is not known") from None


class _Cursor:
    """A place in the bytes. Raises Short at their end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.position = 0

    def take(self, count: int) -> bytes:
        begin = self.position
        self.skip(count)
        return self._data[begin : self.position]

    def skip(self, count: int) -> None:
        if count > len(self._data) - self.position:
            raise Short
        self.position += count

    def number(self, form: str) -> int:
        value: int = struct.unpack(form, self.take(struct.calcsize(form)))[0]
        return value

    def text(self) -> str | None:
        """Read a string; None for one that is too long to be kept."""
        length = self.number("<Q")
        if length > MAX_NAME:
            self.skip(length)
            return None
        return self.take(length).decode("utf-8", "replace")

    def skip_texts(self, count: int) -> None:
        """Pass over strings: a vocabulary has 250,000, so this one loop is written for speed."""
        data, position, unpack = self._data, self.position, struct.Struct("<Q").unpack_from
        if count * 8 > len(data) - position:
            raise Short
        try:
            for _ in range(count):
                position += 8 + unpack(data, position)[0]
        except (struct.error, OverflowError):
            raise Short from None
        if position > len(data):
            raise Short
        self.position = position
