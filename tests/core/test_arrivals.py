"""The rate of what comes in."""

import random

import pytest

from orchd.core.learning.arrivals import TIME_S, Arrivals


def test_nothing_came() -> None:
    assert Arrivals().per_s(5.0) == (0.0, 0.0)


def test_a_steady_stream_is_its_rate_after_some_minutes() -> None:
    dice, made, now = random.Random(1), Arrivals(), 1000.0
    while now < 1600:
        now += dice.expovariate(2.0)
        made.add(100.0, now)
        if now > 1240:
            assert made.per_s(now)[0] == pytest.approx(2.0, rel=0.35)
    jobs, tokens = made.per_s(now)
    assert tokens == pytest.approx(100 * jobs)


def test_a_handful_at_once_is_no_flood_and_silence_is_forgotten() -> None:
    made = Arrivals()
    for _ in range(5):
        made.add(100.0, 7.0)
    assert made.per_s(7.0)[0] == pytest.approx(5 / TIME_S)
    assert made.per_s(7.0 + 10 * TIME_S)[0] < 1e-3
