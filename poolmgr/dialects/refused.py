"""An answer that is not 200, of any engine: its body, as far as an error is long.

How an engine words its errors is each dialect's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from orchd.wire.errors import OrchError
from poolmgr.dialects.exchange import Broken, Event

MAX_BYTES: Final = 64 << 10


class ErrorReader:
    """Reads such a body. Has the methods of exchange.Reader."""

    def __init__(self, status: int, meaning: Callable[[int, bytes], OrchError]) -> None:
        """`meaning`: from status and body to the error."""
        self._status = status
        self._meaning = meaning
        self._body = b""
        self._over = False

    def feed(self, data: bytes) -> list[Event]:
        """Keep what there is room for."""
        self._body = (self._body + data)[:MAX_BYTES]
        return []

    def eof(self) -> list[Event]:
        """Return the error."""
        if self._over:
            return []
        self._over = True
        return [Broken(self._meaning(self._status, self._body))]
