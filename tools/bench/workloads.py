"""Workloads for calibration: how jobs come, how long they are, and on what they run. Seeded."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from typing import Final

from attrs import frozen

from orchd.wire.shapes import Priority
from tools.bench.simulation import Job, Machine

MOST: Final = 8000
"""max_tokens of every job."""


@frozen(kw_only=True)
class Load:
    """One workload: what runs it, and how its jobs are made."""

    name: str
    machines: tuple[Machine, ...]
    jobs: Callable[[random.Random, int], list[Job]]


def _even(rate: float) -> Callable[[float], float]:
    return lambda _: rate


FOUR: Final = (Machine(slots=4, rate=_even(50.0)),)
UNLIKE: Final = (Machine(slots=4, rate=_even(60.0)), Machine(slots=2, rate=_even(20.0)))
ONE: Final = (Machine(slots=1, rate=_even(50.0)),)
DRIFTING: Final = (
    Machine(slots=4, rate=lambda at: 50.0 * (1 + 0.5 * math.sin(2 * math.pi * at / 3000))),
)


def lognormal(dice: random.Random, mean: float, sigma: float) -> int:
    """Return tokens with this mean; sigma 1 is an ordinary mix of answers."""
    return _cut(dice.lognormvariate(math.log(mean) - sigma * sigma / 2, sigma))


def pareto(dice: random.Random, mean: float, shape: float) -> int:
    """Return tokens with about this mean and a tail that falls as x ** -shape."""
    return _cut(mean * (shape - 1) / shape * dice.paretovariate(shape))


def _cut(tokens: float) -> int:
    return max(1, min(MOST, round(tokens)))


def poisson(dice: random.Random, per_s: float) -> Iterator[float]:
    """Return times of arrival."""
    at = 0.0
    while True:
        at += dice.expovariate(per_s)
        yield at


def bursts(dice: random.Random, per_s: float, on_s: float, off_s: float) -> Iterator[float]:
    """Return times of arrival that come in bursts, `per_s` in the long run."""
    at, until = 0.0, dice.expovariate(1 / on_s)
    within = per_s * (on_s + off_s) / on_s
    while True:
        at += dice.expovariate(within)
        while at > until:
            off = dice.expovariate(1 / off_s)
            at, until = at + off, until + off + dice.expovariate(1 / on_s)
        yield at


def _deadline(dice: random.Random, typical_s: float) -> float:
    """Return a deadline: one in three has all the time, the others about what a task takes."""
    if dice.random() < 1 / 3:
        return 36_000.0
    return typical_s * math.exp(dice.uniform(-2.0, 1.2))


def _jobs(
    dice: random.Random,
    times: Iterator[float],
    count: int,
    length: Callable[[], int],
    *,
    told: float = 0.0,
    batch: float = 0.0,
    typical_s: float = 20.0,
) -> list[Job]:
    found = []
    for _ in range(count):
        at, tokens = next(times), length()
        guess = None
        if dice.random() < told:  # a client's estimate is off by a third, and on the high side
            guess = max(1, min(MOST, round(tokens * dice.lognormvariate(0.15, 0.35))))
        late = dice.random() < batch
        found.append(
            Job(
                at=at,
                tokens=tokens,
                max_tokens=MOST,
                expected_tokens=guess,
                priority=Priority.BATCH if late else Priority.INTERACTIVE,
                deadline_s=_deadline(dice, typical_s * (4 if late else 1)),
            )
        )
    return found


def _load(
    name: str,
    machines: tuple[Machine, ...],
    *,
    busy: float,
    burst: bool = False,
    length: Callable[[random.Random], int] = lambda dice: lognormal(dice, 250, 0.8),
    mean: float = 250,
    told: float = 0.0,
    batch: float = 0.0,
    typical_s: float = 20.0,
) -> Load:
    speed = sum(m.slots / (m.first_token_s + mean / m.rate(0.0)) for m in machines)

    def jobs(dice: random.Random, count: int) -> list[Job]:
        per_s = busy * speed
        times = bursts(dice, per_s, 120.0, 120.0) if burst else poisson(dice, per_s)
        return _jobs(
            dice, times, count, lambda: length(dice), told=told, batch=batch, typical_s=typical_s
        )

    return Load(name=name, machines=machines, jobs=jobs)


LOADS: Final = (
    _load("steady, 4 slots, load 0.8", FOUR, busy=0.8),
    _load("steady, 1 slot, load 0.8", ONE, busy=0.8, typical_s=30),
    _load("steady, estimates given", FOUR, busy=0.9, told=1.0),
    _load("steady, half with estimates", FOUR, busy=0.9, told=0.5, typical_s=30),
    _load("bursts of 2 min, load 0.8", FOUR, busy=0.8, burst=True, typical_s=40),
    _load(
        "heavy tail (Pareto 1.5)", FOUR, busy=0.7, length=lambda d: pareto(d, 200, 1.5), mean=185
    ),
    _load("heavy tail (lognormal 1.5)", FOUR, busy=0.8, length=lambda d: lognormal(d, 250, 1.5)),
    _load("mixed priorities, load 0.9", FOUR, busy=0.9, batch=0.4),
    _load("mixed priorities, bursts", FOUR, busy=0.8, batch=0.5, burst=True, told=0.5),
    _load("drifting rates (x3 in 25 min)", DRIFTING, busy=0.75, typical_s=40),
    _load("two unlike replicas", UNLIKE, busy=0.85, typical_s=25),
    _load("overload by 20 %", FOUR, busy=1.2, typical_s=60),
)
