"""When will a task start, from the slots' remaining work and the work before it. No memory.

A task with n jobs before it starts with the (n+1)-th job that ends (the order is strict and every
slot is taken while it waits). So its start S and the count N(t) of ends until t are one thing:
P(S <= t) = P(N(t) >= n+1). N is a sum of delayed renewal processes, one for each slot: the first
end is that of the job in it, one of `ends`, equally likely; each later job takes the mean length,
with a relative variance cv2. Renewal theory (Cox, Renewal Theory, 1962, ch. 3-5) gives, with u the
time since the first end and m the mean length,

    E N(t) = sum P(first end <= t) * (1 + u / m),   Var N(t) = sum p (1 - p) + cv2 * later ends

and S is where E N(t) - n - 1/2 - Var/6E = z sqrt(Var N(t)), with z = 0 for the median and 1.28 for
the 90th percentile (Var/6E: a count's median is below its mean, 1/3 of a job for Poisson's). What
overtakes (interactive arrivals, while a batch task waits) is a Poisson count that is taken off: in
the mean this is the busy period of the overtaking work, work / (1 - load) (Conway, Maxwell, Miller,
Theory of Scheduling, 1967, ch. 8), at most until the class has its turn.

While no job of the pool has ended, or all come out as foreseen, the answer is that of list
scheduling with the waiting jobs' mean length: exact for one slot or equal jobs, else off by less
than one job. Both cost O(k log k) in the slots, whatever the length of the queue. What the model
has wrong, and it has, forecast.py learns from its errors.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from typing import Final

from attrs import evolve, frozen

from orchd.core.queues.fifo import Backlog

# Before a pool has measured itself: an 8B model in 4 bits on a 24 GB card. On the fast side, so
# that a guess does not refuse a task for its deadline that a measurement would have let in.
PRIOR_TOKENS_PER_S = 100.0
PRIOR_FIRST_TOKEN_S = 0.1

RELEASE_S = 0.1
"""A canceled job's slot is free after about so long (llama-server: 100 ms while generating)."""

SPREAD = 0.5
"""Standard deviation of a job's real length over its expected one, until the pool has shown its
own."""

MAX_LOAD: Final = 0.95
"""Overtaking work is taken to leave at least a twentieth of the pool to who waits."""

_Z90 = 1.2816  # the 90th percentile of the normal distribution
_LEAST_JOB_S = 1e-6
_ROUNDING = 1e-9
_EVEN = 0.01  # a relative variance below this is none


@frozen
class Slot:
    """One slot of a replica that can be placed on."""

    free_in_s: float
    """The mean of `ends` where they are known."""
    token_s: float
    """Seconds per token."""
    first_token_s: float
    ends: tuple[float, ...] = ()
    """Equally likely times at which its job ends, ascending; empty: only the mean is known."""

    def job_s(self, tokens: float) -> float:
        """Return how long a job of so many tokens takes here. Above 0."""
        return max(_LEAST_JOB_S, self.first_token_s + tokens * self.token_s)

    def later(self, by_s: float) -> Slot:
        """Return the slot as it is behind so much other work."""
        ends = tuple([end + by_s for end in self.ends])
        return evolve(self, free_in_s=self.free_in_s + by_s, ends=ends)


@frozen(kw_only=True)
class Ways:
    """What was learned of a pool's jobs beside their number: see forecast.py."""

    scale: float = 1.0
    """Real tokens for each token that the queue counts."""
    cv2: float = 0.0
    """Variance of a job's real length, over the square of its expected one."""
    tokens: float = 0.0
    """What one of its jobs puts out in the mean, for when none waits."""
    overtaking: float = 0.0
    """Jobs that come each second and go before the one that waits."""
    overtaking_tokens: float = 0.0
    """What each of them puts out."""
    overtaken_most: float = math.inf
    """At most so many, until its class has its turn."""


PLAIN: Final = Ways()


@frozen
class Prediction:
    """Seconds from now until a task starts."""

    start_s: float
    """As likely before as after."""
    p90_s: float
    """Nine in ten tasks start before this."""


AT_ONCE: Final = Prediction(0.0, 0.0)


@frozen
class Promise:
    """What was said of a task's start at its admission, and what the model had said before that."""

    start_at: float
    p90_at: float
    model_at: float
    spread_s: float
    kind: int
    """Of wait: which scores it is measured by."""


def predict(slots: Sequence[Slot], before: Backlog, ways: Ways = PLAIN) -> Prediction | None:
    """Return when the task behind `before` starts; None when there is no slot at all."""
    if not slots:
        return None
    if not before.jobs and any(slot.free_in_s <= 0.0 for slot in slots):
        return AT_ONCE
    mean = ways.scale * before.tokens / before.jobs if before.jobs else 0.0
    if not _spread(slots, ways):
        return _plain(slots, [slot.job_s(mean) for slot in slots], before.jobs)
    if not ways.overtaking:
        return _Count(slots, before.jobs, mean, ways).prediction()
    overtaken = _Count(slots, before.jobs, mean, ways).prediction()
    if ways.overtaken_most == math.inf:
        return overtaken
    # it cannot come later than behind all that may overtake it
    jobs = before.jobs + ways.overtaken_most
    tokens = ways.scale * before.tokens + ways.overtaken_most * ways.overtaking_tokens
    last = _Count(slots, jobs, tokens / jobs, evolve(ways, overtaking=0.0)).prediction()
    return Prediction(min(overtaken.start_s, last.start_s), min(overtaken.p90_s, last.p90_s))


def _spread(slots: Sequence[Slot], ways: Ways) -> bool:
    """Return whether anything is known but means."""
    if ways.cv2 > _EVEN or ways.overtaking:
        return True
    return any(slot.ends and slot.ends[-1] > 1.01 * slot.ends[0] for slot in slots)


class _Count:
    """The count of ends as a function of time: steps at `ends`, straight lines between them."""

    def __init__(self, slots: Sequence[Slot], jobs: float, mean: float, ways: Ways) -> None:
        self.slots, self.cv2 = slots, ways.cv2
        lengths = [slot.job_s(mean if jobs else ways.tokens) for slot in slots]
        self.rates = [1 / length for length in lengths]
        each = [slot.job_s(ways.overtaking_tokens) for slot in slots]
        weight = sum(each) / sum(lengths)  # of an overtaking job, in jobs of the mean
        self.overtaking = min(ways.overtaking * weight, MAX_LOAD * sum(self.rates))
        self.noise = self.overtaking * weight * (1 + ways.cv2)
        # Jobs that are equally long end in step: a slot's second end is a whole length behind.
        k = len(slots)
        even = max(0.0, 1 - ways.cv2) / 2 * (k - 1) * jobs / (jobs + k)
        self.need = jobs + 0.5 + even

    def prediction(self) -> Prediction:
        """Walk through the steps until both quantiles are reached; behind the last, solve."""
        marks = sorted(
            [
                (end, i)
                for i, slot in enumerate(self.slots)
                for end in slot.ends or (slot.free_in_s,)
            ]
        )
        weights = [1 / max(1, len(slot.ends)) for slot in self.slots]
        ended = [0.0] * len(self.slots)
        count = first = var_first = flow = at = 0.0
        median: float | None = None
        for time, number in marks:
            until = count + flow * (time - at)
            if until >= self.need:  # before that neither can be reached
                low, low_90, _ = self._over(at, count, first, var_first)
                high, high_90, _ = self._over(time, until, first, var_first)
                if median is None and high >= 0:
                    median = at + (time - at) * _share(low, high)
                if median is not None and high_90 >= 0:
                    return Prediction(
                        median, max(median, at + (time - at) * _share(low_90, high_90))
                    )
            weight, before = weights[number], ended[number]
            ended[number] = before + weight
            count, at = until + weight, time
            first += weight
            var_first += weight * (1 - 2 * before - weight)
            flow += weight * self.rates[number]
            if count >= self.need:
                have, have_90, _ = self._over(at, count, first, var_first)
                if median is None and have >= 0:
                    median = at
                if median is not None and have_90 >= 0:
                    return Prediction(median, at)
        have, _, spread = self._over(at, count, first, var_first)
        net = flow - self.overtaking
        if median is None:
            median = at - have / net
        p90 = at + _reach(have, net, spread, self.cv2 * flow + self.noise)
        return Prediction(median, max(median, p90))

    def _over(
        self, at: float, count: float, first: float, var_first: float
    ) -> tuple[float, float, float]:
        """Return how far beyond the need it is, how far nine times in ten, and the variance."""
        spread = var_first + self.cv2 * (count - first) + self.noise * at
        spread = max(0.0, spread)
        have = count - self.overtaking * at - self.need - spread / (6 * max(count, 1.0))
        return have, have - _Z90 * math.sqrt(spread), spread


def _reach(have: float, net: float, spread: float, grows: float) -> float:
    """Return the x at which have + net x = z90 sqrt(spread + grows x)."""
    z2 = _Z90 * _Z90
    b = 2 * have * net - z2 * grows
    c = have * have - z2 * spread
    return (-b + math.sqrt(max(0.0, b * b - 4 * net * net * c))) / (2 * net * net)


def _share(low: float, high: float) -> float:
    """Return where between 0 and 1 a line from `low` (below 0) to `high` crosses 0."""
    return min(1.0, max(0.0, -low / (high - low))) if high > low else 0.0


def _plain(slots: Sequence[Slot], lengths: Sequence[float], jobs: int) -> Prediction:
    """Return the answer of list scheduling, with the prior's spread."""
    start = _start(slots, lengths, jobs)
    # A wait of n jobs on a slot: their sum spreads by SPREAD / sqrt(n) of itself.
    several = 1 + jobs / len(slots)
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
