"""What a pool has learned of itself, and the predictions that come of it.

Three things are learned, each bounded: how long jobs turn out to be (lengths.py), how much
interactive work comes in (arrivals.py), and how wrong the predictions of predict.py were
(scores.py). Nothing here reads a queue: an answer costs O(slots), whatever waits.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Final

from attrs import frozen

from orchd.core.learning.arrivals import Arrivals
from orchd.core.learning.lengths import Lengths, Measure, remaining_tokens
from orchd.core.learning.predict import (
    AT_ONCE,
    PLAIN,
    SPREAD,
    Prediction,
    Promise,
    Slot,
    Ways,
    predict,
)
from orchd.core.learning.scores import Scores
from orchd.core.queues.fifo import Backlog
from orchd.core.state.task import Task, expected_tokens
from orchd.wire.shapes import Priority, TaskRequest, Workload

ATOMS: Final = 32
"""A slot's remaining work is told by at most 8 values, fewer where there are many slots."""
EACH: Final = 8
ENOUGH: Final = 16
"""Jobs of one size that are better to go by than those of any."""
ANY_SIZE: Final = -1
LEAST_SPREAD_S: Final = 0.01


@frozen
class Outlook:
    """When one task will start."""

    prediction: Prediction
    model_s: float
    spread_s: float
    kind: int
    scores: Scores | None

    def promise(self, now: float) -> Promise | None:
        """Return what is kept until the task starts; None when it starts at once."""
        if self.scores is None:
            return None
        said = self.prediction
        return Promise(
            now + said.start_s, now + said.p90_s, now + self.model_s, self.spread_s, self.kind
        )

    def chance(self, within_s: float) -> float:
        """Return the probability that it starts within so many seconds."""
        if within_s < 0:
            return 0.0
        if self.scores is None:
            return 1.0
        return self.scores.share_below((within_s - self.model_s) / self.spread_s)


NOW: Final = Outlook(AT_ONCE, 0.0, 0.0, 0, None)


class Forecast:
    """The memory of one pool."""

    def __init__(self, *, deadline_ends: bool = False) -> None:
        self.deadline_ends = deadline_ends
        """Whether a job is stopped at its deadline."""
        self._lengths: defaultdict[tuple[Priority, bool, int], Lengths] = defaultdict(Lengths)
        self._scores: defaultdict[tuple[Priority, int], Scores] = defaultdict(Scores)
        self._arrivals = Arrivals()
        self._measure = Measure()

    # what happened

    def another_model(self) -> None:
        """The pool serves another model: its jobs are not known yet. Who asks stays the same."""
        self._lengths.clear()
        self._scores.clear()
        self._measure = Measure()

    def weigh(self, request: TaskRequest) -> int:
        """Return the tokens that the queue is to count for a task; at least 1.

        What its kind has come to, in the queue's measure: so what was counted before the first job
        ended and what is counted now stay comparable (`Ways.scale` turns both into tokens).
        """
        lengths = self._of(request)
        reference = expected_tokens(request)
        if lengths is None:
            return reference
        return max(1, min(2**40, round(reference * lengths.mean / self._measure.scale)))

    def admitted(self, task: Task, now: float) -> None:
        """A task came."""
        if task.request.priority is Priority.INTERACTIVE:
            self._arrivals.add(task.expected, now)

    def started(self, task: Task, promise: Promise, at: float) -> None:
        """A task that had to wait starts, or would have started, at `at`."""
        score = (at - promise.model_at) / promise.spread_s
        self._scores_of(task.request.priority, promise.kind).learn(score)

    def over(self, task: Task, *, stopped: bool = False) -> None:
        """A job has given its slot back. What a cancel cut short counts: so long it held it.

        A job that was `stopped` at its deadline would have gone on, under a later one: it counts
        with the median of what jobs that came so far still put out.
        """
        request = task.request
        if request.workload is not Workload.COMPLETION:
            return
        whole = float(task.tokens_out)
        if stopped:
            whole += self.ends(request, whole, ATOMS)[0]
        ratio = whole / expected_tokens(request)
        for key in _keys(request):
            self._lengths[key].learn(ratio)
        self._measure.take(task.expected, task.tokens_out)

    # what will be

    @property
    def scale(self) -> float:
        """Real tokens for each token that the queue counts."""
        return self._measure.scale

    def ends(self, request: TaskRequest, out: float, slots: int) -> list[float]:
        """Return equally likely numbers of tokens that a job with `out` of them still puts out."""
        lengths = self._of(request)
        expected, limit = expected_tokens(request), request.max_tokens
        if lengths is None:
            return [remaining_tokens(expected, limit, out)]
        return lengths.ends(out, expected, limit, max(1, min(EACH, ATOMS // max(1, slots))))

    def outlook(
        self,
        slots: Sequence[Slot],
        before: Backlog,
        priority: Priority,
        now: float,
        overtaken_most: int = 0,
    ) -> Outlook | None:
        """Return when the task of this class behind `before` starts; None without a slot.

        `overtaken_most`: interactive tasks that may yet come and go before it.
        """
        ways = self._ways(now, overtaken_most)
        said = predict(slots, before, ways)
        if said is None:
            return None
        if said is AT_ONCE:
            return NOW
        kind = _kind(before.jobs, len(slots))
        scores = self._scores_of(priority, kind)
        spread = max(said.p90_s - said.start_s, 0.02 * said.start_s, LEAST_SPREAD_S)
        start = max(0.0, said.start_s + spread * scores.quantile(0.5))
        p90 = max(start, said.start_s + spread * scores.quantile(0.9))
        return Outlook(Prediction(start, p90), said.start_s, spread, kind, scores)

    def on_time(
        self, request: TaskRequest, outlook: Outlook, slots: Sequence[Slot], left_s: float
    ) -> float:
        """Return the probability, 0 to 1, that a waiting task ends within `left_s`.

        Over the lengths that it may have, on each replica as often as that one takes a job.
        """
        tokens = self._own(request)
        kinds: dict[tuple[float, float], float] = {}
        mean = sum(tokens) / len(tokens)
        for slot in slots:
            key = (slot.token_s, slot.first_token_s)
            kinds[key] = kinds.get(key, 0.0) + 1 / slot.job_s(mean)
        whole = sum(kinds.values()) * len(tokens)
        chance = 0.0
        for (token_s, first_s), weight in kinds.items():
            for own in tokens:
                chance += weight * outlook.chance(left_s - first_s - own * token_s)
        return chance / whole

    def ends_within(self, request: TaskRequest, out: float, more: float) -> float:
        """Return the probability that a job with `out` tokens ends within `more` further ones."""
        expected = expected_tokens(request)
        if out + more >= request.max_tokens:
            return 1.0
        if more < 0:
            return 0.0
        lengths = self._of(request)
        known = lengths.chance(out, expected, more) if lengths is not None else None
        if known is not None:
            return known
        left = remaining_tokens(expected, request.max_tokens, out)
        return 0.5 * (1 + math.erf((more - left) / (SPREAD * expected * math.sqrt(2))))

    # the memory

    def _of(self, request: TaskRequest) -> Lengths | None:
        if request.workload is not Workload.COMPLETION:
            return None
        some, all_sizes = map(self._lengths.get, _keys(request))
        return some if some is not None and len(some) >= ENOUGH else all_sizes

    def _own(self, request: TaskRequest) -> list[float]:
        """Return the tokens that a whole task may put out."""
        lengths, expected = self._of(request), expected_tokens(request)
        if lengths is not None:
            return lengths.ends(0.0, expected, request.max_tokens, EACH)
        if request.workload is not Workload.COMPLETION:
            return [1.0]
        spread = (-1.53, -0.89, -0.49, -0.16, 0.16, 0.49, 0.89, 1.53)  # the normal's eighths
        return [max(1.0, expected * (1 + SPREAD * z)) for z in spread]

    def _scores_of(self, priority: Priority, kind: int) -> Scores:
        return self._scores[priority, kind]

    def _ways(self, now: float, overtaken_most: int) -> Ways:
        measure = self._measure
        if not len(measure):
            return PLAIN
        jobs = tokens = 0.0
        if overtaken_most:
            jobs, tokens = self._arrivals.per_s(now)
        return Ways(
            scale=measure.scale,
            cv2=measure.cv2,
            tokens=measure.mean,
            overtaking=jobs,
            overtaking_tokens=measure.scale * tokens / jobs if jobs else 0.0,
            overtaken_most=overtaken_most,
        )


def _keys(request: TaskRequest) -> tuple[tuple[Priority, bool, int], ...]:
    """Return where a job's length is kept: with those of its size, and with those of any.

    A large estimate is more often too large than a small one (regression to the mean), and a
    small limit is more often reached; within a factor of four that matters little.
    """
    told = request.expected_tokens is not None
    size = expected_tokens(request).bit_length() // 2
    return (request.priority, told, size), (request.priority, told, ANY_SIZE)


def _kind(jobs: int, slots: int) -> int:
    """Return which kind of wait it is: for a slot, for its turn, or in a long line."""
    if jobs < slots:
        return 0
    return 1 if jobs < 4 * slots else 2
