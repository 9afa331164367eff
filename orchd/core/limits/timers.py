"""What is to happen when: a heap of keys with their times, cheap to set again and to drop."""

from __future__ import annotations

import heapq
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

_SLACK = 64  # dead heap entries that are let lie; more, and they outnumber the live: rebuild


class Timers(Generic[K]):
    """One time per key. `set`, `drop` and `pop_due` cost O(log n) at most, amortised."""

    def __init__(self) -> None:
        self._when: dict[K, tuple[float, int]] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._count = 0

    def __len__(self) -> int:
        return len(self._when)

    def __contains__(self, key: K) -> bool:
        return key in self._when

    def set(self, key: K, when: float) -> None:
        """Let `key` be due at `when`, and no longer at the time set before."""
        self._count += 1
        self._when[key] = (when, self._count)
        heapq.heappush(self._heap, (when, self._count, key))
        if len(self._heap) > 2 * len(self._when) + _SLACK:
            self._heap = [(at, number, k) for k, (at, number) in self._when.items()]
            heapq.heapify(self._heap)

    def drop(self, key: K) -> None:
        """Forget `key`, if it is set."""
        self._when.pop(key, None)

    def next(self) -> float | None:
        """Return the earliest time, or None."""
        while self._heap:
            when, number, key = self._heap[0]
            if self._when.get(key) == (when, number):
                return when
            heapq.heappop(self._heap)
        return None

    def pop_due(self, now: float) -> K | None:
        """Take out and return the earliest key whose time is not after `now`; None when none is."""
        when = self.next()
        if when is None or when > now:
            return None
        key = heapq.heappop(self._heap)[2]
        del self._when[key]
        return key
