"""Micro-batching: tokens of a few milliseconds leave in one write, for readers who want fewer.

Off unless `sse.microbatch_ms` is set. The first token of a stream and its end never wait; nothing
waits longer than the period [ORCH-3400].
"""

from __future__ import annotations

from collections.abc import Iterable

import trio

from orchd.edge.relay import Stream


class Gather:
    """The streams that have something to write, and when it is written."""

    def __init__(self, period_s: float) -> None:
        self._period_s = period_s
        self._waiting: set[Stream] = set()
        self._some = trio.Event()

    def take(self, streams: Iterable[Stream]) -> None:
        """Streams were fed. What is urgent is written now, the rest within the period."""
        for stream in streams:
            if stream.urgent:
                stream.pump()
                self._waiting.discard(stream)
            else:
                self._waiting.add(stream)
        if self._waiting:
            self._some.set()

    async def run(self) -> None:
        """Write what waits, every period in which there is something."""
        while True:
            await self._some.wait()
            await trio.sleep(self._period_s)
            self._some = trio.Event()
            waiting, self._waiting = self._waiting, set()
            for stream in waiting:
                stream.pump()
