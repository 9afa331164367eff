"""How long jobs turn out to be: the last ratios of real tokens to what was known before.

One `Lengths` is for jobs of one kind: those whose client gave `expected_tokens` (the ratio is to
that), or those that have a limit only (the ratio is to `max_tokens`). What is asked of it is
conditional on the tokens that are out already: of the jobs that came so far, how many stopped
where. So a heavy tail is as heavy as it was, and nothing is assumed of its shape.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import deque
from typing import Final

WINDOW: Final = 256
"""Ratios that are kept. The 90th percentile of so many is known to 2 % of probability."""


MEASURED: Final = 64
"""Jobs over which the queue's tokens are compared with real ones."""
MOST_CV2: Final = 25.0


class Lengths:
    """The last ratios of one kind, in order of size."""

    __slots__ = ("_recent", "_sorted", "_sum")

    def __init__(self) -> None:
        self._recent: deque[float] = deque()
        self._sorted: list[float] = []
        self._sum = 0.0

    def __len__(self) -> int:
        return len(self._recent)

    def learn(self, ratio: float) -> None:
        """Take in a job that is over. O(log WINDOW) comparisons and one move in memory."""
        if len(self._recent) >= WINDOW:
            oldest = self._recent.popleft()
            del self._sorted[bisect_right(self._sorted, oldest) - 1]
            self._sum -= oldest
        self._recent.append(ratio)
        insort(self._sorted, ratio)
        self._sum += ratio

    @property
    def mean(self) -> float:
        """The mean ratio; at first as it was foreseen."""
        foreseen = doubt(len(self._recent))
        return (self._sum + foreseen) / (len(self._recent) + foreseen)

    def ends(self, out: float, reference: int, limit: int, count: int) -> list[float]:
        """Return `count` equally likely numbers of tokens that are still to come, ascending.

        To the jobs that went on from here one is added that goes on to its limit: of n values
        the next is the largest with probability 1 / (n + 1). Without any job yet it is taken to
        come out as foreseen; beyond all that were seen to go on as long as it did (the median of a
        Pareto tail of exponent 1), or halfway to its limit. Each is at least 1.
        """
        first = bisect_right(self._sorted, out / reference)
        seen = len(self._sorted) - first
        if not self._sorted:
            return [remaining_tokens(reference, limit, out)]
        if not seen:
            return [max(1.0, min(out, (limit - out) / 2))]
        most = max(1.0, limit - out)
        step = (seen + 1) / count
        found = []
        for number in range(count):
            index = int((number + 0.5) * step)
            if index >= seen:
                found.append(most)
            else:
                found.append(min(most, max(1.0, self._sorted[first + index] * reference - out)))
        return found

    def chance(self, out: float, reference: int, more: float) -> float | None:
        """Return the probability that a job with `out` tokens ends within `more` further ones.

        None when no job that came so far is known.
        """
        first = bisect_right(self._sorted, out / reference)
        seen = len(self._sorted) - first
        if not seen:
            return None
        done = bisect_right(self._sorted, (out + more) / reference) - first
        return max(0.0, (done + 0.5) / (seen + 1))


class Measure:
    """Tokens as a queue counted them, beside those that came: of the last 64 jobs."""

    __slots__ = ("_came", "_cross", "_recent", "_said", "_squares", "cv2", "mean", "scale")

    def __init__(self) -> None:
        self._recent: deque[tuple[int, int]] = deque()
        self._said = self._came = self._cross = 0
        self._squares = [0, 0]
        self.scale = 1.0
        """Real tokens for each that the queue counts."""
        self.mean = 0.0
        """A job's tokens."""
        self.cv2 = 0.0
        """The variance of its tokens about what was counted, over the square of the mean."""

    def __len__(self) -> int:
        return len(self._recent)

    def take(self, said: int, came: int) -> None:
        """Take in a job that is over. O(1), and exact: the sums are whole numbers."""
        self._recent.append((said, came))
        self._add(said, came, 1)
        if len(self._recent) > MEASURED:
            self._add(*self._recent.popleft(), -1)
        jobs = len(self._recent)
        foreseen = self._said / jobs * doubt(jobs)
        scale = self.scale = max((self._came + foreseen) / (self._said + foreseen), 1e-6)
        self.mean = max(scale * self._said / jobs, 1.0)
        about = self._squares[1] - 2 * scale * self._cross + scale * scale * self._squares[0]
        self.cv2 = min(max(0.0, about / jobs) / self.mean**2, MOST_CV2)

    def _add(self, said: int, came: int, sign: int) -> None:
        self._said += sign * said
        self._came += sign * came
        self._cross += sign * said * came
        self._squares[0] += sign * said * said
        self._squares[1] += sign * came * came


def doubt(jobs: int) -> float:
    """Return how many jobs as they were foreseen are added to those that were seen, 1 or less."""
    return 4 / (4 + jobs)


def remaining_tokens(expected: int, limit: int, out: float) -> float:
    """Return how many tokens a job still puts out of which nothing is known; at least 1.

    Past its expectation it is taken to stop halfway to its limit.
    """
    if out < expected:
        return max(1.0, expected - out)
    return max(1.0, (limit - out) / 2)
