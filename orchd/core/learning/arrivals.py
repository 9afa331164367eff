"""How much interactive work comes in: what overtakes the batch tasks that wait.

A sum that forgets by exp(-t / TIME_S): O(1), and no clock of its own.
"""

from __future__ import annotations

import math
from typing import Final

TIME_S: Final = 60.0
"""What came a minute ago counts by a third. Shorter follows a burst sooner, and errs more."""


class Arrivals:
    """Jobs and their tokens for each second, of late. Before the first one it was still."""

    __slots__ = ("_at", "_jobs", "_tokens")

    def __init__(self) -> None:
        self._at = self._jobs = self._tokens = 0.0

    def add(self, tokens: float, now: float) -> None:
        """Take in one that came."""
        left = math.exp((self._at - now) / TIME_S)
        self._jobs = self._jobs * left + 1
        self._tokens = self._tokens * left + tokens
        self._at = now

    def per_s(self, now: float) -> tuple[float, float]:
        """Return jobs and tokens for each second. A few at once are no flood: 5 are 5 a minute."""
        left = math.exp((self._at - now) / TIME_S) / TIME_S
        return self._jobs * left, self._tokens * left
