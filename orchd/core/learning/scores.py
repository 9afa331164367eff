"""How wrong the last predictions were, and so what the next one is worth.

A score is (real start - predicted start) / predicted spread. If the model of predict.py were right,
half the scores were below 0 and nine in ten below 1. They are kept as they come, and a quantile of
them corrects the next prediction: a conformal predictive distribution over a sliding window (Vovk,
Shen, Manokhin, Xie: Nonparametric predictive distributions based on conformal prediction, 2019;
Papadopoulos et al.: normalised scores, 2011). So p90 covers what it says whatever the model has
wrong, as long as tomorrow errs as the last WINDOW starts did.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections import deque
from typing import Final

WINDOW: Final = 256
PRIOR: Final = tuple(z / 1.2816 for z in (
    -1.645, -1.282, -1.036, -0.842, -0.674, -0.524, -0.385, -0.253, -0.126, 0.0,
    0.126, 0.253, 0.385, 0.524, 0.674, 0.842, 1.036, 1.282, 1.645,
))  # fmt: skip
"""What is assumed at first: the normal's twentieths. They leave when the window is full."""


class Scores:
    """The last scores of one kind of wait."""

    __slots__ = ("_recent", "_sorted")

    def __init__(self) -> None:
        self._recent: deque[float] = deque(PRIOR)
        self._sorted: list[float] = list(PRIOR)

    def learn(self, score: float) -> None:
        """Take in the score of a start. O(log WINDOW) comparisons and one move in memory."""
        if len(self._recent) >= WINDOW:
            oldest = self._recent.popleft()
            del self._sorted[bisect_left(self._sorted, oldest)]
        self._recent.append(score)
        insort(self._sorted, score)

    def quantile(self, share: float) -> float:
        """Return what `share` (0 to 1) of the scores are below, between two of them."""
        place = min(max(share * (len(self._sorted) + 1) - 1, 0.0), len(self._sorted) - 1.0)
        below = int(place)
        if below == len(self._sorted) - 1:
            return self._sorted[below]
        low, high = self._sorted[below], self._sorted[below + 1]
        return low + (place - below) * (high - low)

    def share_below(self, score: float) -> float:
        """Return the probability that the next score is below `score`.

        Beyond the ends of what was seen it goes to 0 and 1 as an exponential does.
        """
        known = self._sorted
        at = bisect_right(known, score)
        one = 1 / (len(known) + 1)
        if at == 0:
            return one * math.exp(max(score - known[0], -50.0))
        if at == len(known):
            return 1 - one * math.exp(max(known[-1] - score, -50.0))
        low, high = known[at - 1], known[at]
        return one * (at + (score - low) / (high - low))
