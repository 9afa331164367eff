"""When will a task start, and will it end in time: from running jobs, waiting work and rates.

The model: k slots, each free in `free_in_s`, then taking the waiting jobs in order (list
scheduling). The waiting jobs are known by their count and their sum of tokens only, so each counts
with the mean length: the answer costs O(k log k) whatever the length of the queue. It is exact when
k is 1 or when the waiting jobs are equally long; else it is off by less than the longest of them.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence

from attrs import frozen

from orchd.core.queue import Backlog

# Before a pool has measured itself: an 8B model in 4 bits on a 24 GB card. On the fast side, so
# that a guess does not refuse a task for its deadline that a measurement would have let in.
PRIOR_TOKENS_PER_S = 100.0
PRIOR_FIRST_TOKEN_S = 0.1

RELEASE_S = 0.1
"""A canceled job's slot is free after about so long (llama-server: 100 ms while generating)."""

SPREAD = 0.5
"""Standard deviation of a job's real length over its expected one. A prior: the error of each
prediction is exported (predicted_start_error_ms), so an operator can see whether it holds."""

_Z90 = 1.2816  # the 90th percentile of the normal distribution
_LEAST_JOB_S = 1e-6
_ROUNDING = 1e-9


@frozen
class Slot:
    """One slot of a replica that can be placed on."""

    free_in_s: float
    token_s: float
    """Seconds per token."""
    first_token_s: float

    def job_s(self, tokens: float) -> float:
        """Return how long a job of so many tokens takes here. Above 0."""
        return max(_LEAST_JOB_S, self.first_token_s + tokens * self.token_s)


@frozen
class Prediction:
    """Seconds from now until a task starts."""

    start_s: float
    p90_s: float
    """Nine in ten tasks start before this."""


def remaining_tokens(expected: int, limit: int, out: float) -> float:
    """Return how many tokens a running job still puts out, at least 1.

    Past its expectation it is taken to stop halfway to its limit.
    """
    if out < expected:
        return max(1.0, expected - out)
    return max(1.0, (limit - out) / 2)


def predict(slots: Sequence[Slot], before: Backlog) -> Prediction | None:
    """Return when the task behind `before` starts; None when there is no slot at all."""
    if not slots:
        return None
    if not before.jobs and any(slot.free_in_s <= 0.0 for slot in slots):
        return Prediction(0.0, 0.0)
    mean = before.tokens / before.jobs if before.jobs else 0.0
    lengths = [slot.job_s(mean) for slot in slots]
    start = _start(slots, lengths, before.jobs)
    # A wait of n job lengths on a slot: their sum spreads by SPREAD / sqrt(n) of itself.
    several = max(1.0, start / (sum(lengths) / len(lengths)))
    return Prediction(start, start * (1 + _Z90 * SPREAD / math.sqrt(several)))


def _start(slots: Sequence[Slot], lengths: Sequence[float], jobs: int) -> float:
    """Return the (jobs + 1)-th time at which a slot takes a job of its length."""
    level = _level(slots, lengths, jobs)
    # Up to `level` each slot has begun floor((level - free) / length) + 1 jobs: more than `jobs`
    # in all, and at most k too many. Walk back over the latest ones.
    latest: list[tuple[float, float, float]] = []
    begun = 0
    for slot, length in zip(slots, lengths, strict=True):
        if slot.free_in_s <= level:
            full = math.floor((level - slot.free_in_s) / length + _ROUNDING)
            begun += full + 1
            latest.append((-(slot.free_in_s + full * length), length, slot.free_in_s))
    heapq.heapify(latest)
    for _ in range(begun - jobs - 1):
        at, length, free = latest[0]
        if -at - length < free - _ROUNDING * length:
            heapq.heappop(latest)
        else:
            heapq.heapreplace(latest, (at + length, length, free))
    return max(0.0, -latest[0][0])


def _level(slots: Sequence[Slot], lengths: Sequence[float], jobs: int) -> float:
    """Return when `jobs` are done if they could be shared out like water over the slots."""
    order = sorted(zip(slots, lengths, strict=True), key=lambda pair: pair[0].free_in_s)
    level = order[0][0].free_in_s
    left = float(jobs)
    rate = 0.0
    for slot, length in order:
        if rate:
            done = (slot.free_in_s - level) * rate
            if done >= left:
                break
            left -= done
            level = slot.free_in_s
        rate += 1 / length
    return level + left / rate


def on_time(ends_in_s: float, length_s: float, left_s: float) -> float:
    """Return the probability, 0 to 1, that work expected to end in `ends_in_s` ends in `left_s`.

    `length_s` is one job's length: the spread grows with the root of the jobs in the wait.
    """
    sigma = SPREAD * math.sqrt(max(ends_in_s, _LEAST_JOB_S) * max(length_s, _LEAST_JOB_S))
    return 0.5 * (1 + math.erf((left_s - ends_in_s) / (sigma * math.sqrt(2))))
