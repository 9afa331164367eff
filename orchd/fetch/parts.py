"""One file as parts that come in any order: which are there, what is next. Pure.

Bytes and disks are download.py's.
"""

from __future__ import annotations

from typing import Final

from attrs import define, field

from orchd.wire.ids import Count

MIN_PART: Final = 8 << 20
"""Bytes: below it the request costs more than it brings on a fast line."""
MAX_PART: Final = 128 << 20
"""Bytes: what a connection that breaks near its end has still to bring."""


@define
class Part:
    """Bytes `begin` to `end` of a file, of which those before `at` are there."""

    begin: Count
    at: Count
    end: Count

    @property
    def done(self) -> bool:
        """Whether all of it is there."""
        return self.at >= self.end


@define(kw_only=True)
class Partial:
    """A file on its way. What it is like is kept beside it, so that a kill costs little."""

    size: Count | None
    """None: the source does not say; then it comes in one piece, from its beginning."""
    sha256: str | None = None
    validator: str | None = None
    """ETag or date of what is being fetched: another one, and it begins anew."""
    ranged: bool = True
    """Whether the source gives parts."""
    parts: list[Part] = field(factory=list)

    @property
    def done_bytes(self) -> int:
        """How many bytes are there."""
        return sum(part.at - part.begin for part in self.parts)

    @property
    def done(self) -> bool:
        """Whether all parts are there; a file of unknown size says so itself."""
        return self.size is not None and all(part.done for part in self.parts)

    @property
    def front(self) -> int:
        """Up to where nothing is missing."""
        for part in self.parts:
            if not part.done:
                return part.at
        return self.size or 0

    @property
    def furthest(self) -> int:
        """Up to where the file has been written, with holes."""
        return max((part.at for part in self.parts if part.at > part.begin), default=0)

    def same(self, size: int | None, sha256: str | None, validator: str | None) -> bool:
        """Whether this is the same content still, as far as anybody says."""
        return (
            self.ranged
            and self.size == size
            and (self.sha256 == sha256 or None in (self.sha256, sha256))
            and self.validator == validator
        )


def split(size: int, connections: int) -> list[Part]:
    """Return the parts of a file: enough for every connection to have some until the end."""
    length = max(MIN_PART, min(MAX_PART, -(-size // (connections * 4))))
    return [
        Part(Count(begin), Count(begin), Count(min(begin + length, size)))
        for begin in range(0, size, length)
    ]
