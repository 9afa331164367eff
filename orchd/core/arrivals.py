"""How much interactive work comes in: what overtakes the batch tasks that wait.

A sum that forgets by exp(-t / TIME_S): O(1), and no clock of its own.
"""

from __future__ import annotations

import math
from typing import Final

TIME_S: Final = 60.0
"""What came a minute ago counts by a third. Shorter follows a burst sooner, and errs more."""


class Arrivals:
    """Jobs and their tokens for each second, of late."""

    __slots__ = ("_at", "_jobs", "_since", "_tokens")

    def __init__(self) -> None:
        self._jobs = self._tokens = 0.0
        self._at = 0.0
        self._since: float | None = None

    def add(self, tokens: float, now: float) -> None:
        """Take in one that came."""
        if self._since is None:
            self._since = self._at = now
        left = math.exp((self._at - now) / TIME_S)
        self._jobs, self._tokens, self._at = (
            self._jobs * left + 1,
            self._tokens * left + tokens,
            now,
        )

    def per_s(self, now: float) -> tuple[float, float]:
        """Return jobs and tokens for each second; what was before the first one is not known."""
        if self._since is None:
            return 0.0, 0.0
        left = math.exp((self._at - now) / TIME_S)
        seen_s = TIME_S * (1 - math.exp((self._since - now) / TIME_S))
        known_s = max(seen_s, TIME_S / 10)  # the first job is no flood
        return self._jobs * left / known_s, self._tokens * left / known_s
