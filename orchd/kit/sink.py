"""What the writer of a streaming body is given, whatever protocol carries it.

HTTP/1.1's is h1_sink.py, HTTP/2's h2_sink.py. When to write, and what to do about a reader that is
behind, is the writer's business.
"""

from __future__ import annotations

from typing import Protocol


class Sink(Protocol):
    """Writes one body. Its methods raise PipeClosed once the peer has gone."""

    @property
    def pending(self) -> int:
        """Bytes written here that the kernel has not taken yet; 0 means that it has them all."""

    def send_nowait(self, data: bytes, *, last: bool = False) -> bool:
        """Write one piece. False: a rest is pending; await flush() before the next.

        `last`: the end of the body goes out with it, and nothing may follow.
        """

    async def flush(self) -> None:
        """Return when the kernel has taken everything."""

    async def flush_some(self) -> None:
        """Return when the kernel has taken a part of what is pending."""

    async def wait_closed(self) -> None:
        """Return when the peer hung up, or this side closed."""

    def abort(self) -> None:
        """Cut the body off: the reader must not take what it has for the whole."""
