"""Errors of predictions: quantiles of a sliding window."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchd.core.learning.scores import PRIOR, WINDOW, Scores


def learned(scores: list[float]) -> Scores:
    made = Scores()
    for score in scores:
        made.learn(score)
    return made


def test_before_any_start_the_model_is_believed() -> None:
    made = Scores()
    assert made.quantile(0.5) == pytest.approx(0)
    assert made.quantile(0.9) == pytest.approx(1, abs=0.01)
    assert made.share_below(0) == pytest.approx(0.5)
    assert made.share_below(-1e6) < 1e-9
    assert made.share_below(1e6) > 1 - 1e-9


def test_p90_covers_nine_in_ten_whatever_the_errors_are_and_follows_a_drift() -> None:
    dice = random.Random(7)
    made, covered = Scores(), []
    for number in range(4000):
        shift = 0.0 if number < 2000 else 5.0  # all at once the model is five spreads early
        score = shift + dice.lognormvariate(0, 1.5)
        covered.append(score <= made.quantile(0.9))
        made.learn(score)
    assert 0.87 < sum(covered[500:2000]) / 1500 < 0.93
    assert 0.87 < sum(covered[2300:]) / 1700 < 0.93


@given(st.lists(st.floats(-10, 10), max_size=600), st.floats(-20, 20), st.floats(0, 20))
def test_it_is_a_distribution_of_the_last_ones(
    scores: list[float], score: float, more: float
) -> None:
    made = learned(scores)
    assert 0 <= made.share_below(score) <= made.share_below(score + more) <= 1
    if len(scores) >= WINDOW:  # then nothing is left of what was assumed
        last = sorted(scores[-WINDOW:])
        assert made.quantile(0.0) == last[0]
        assert made.quantile(1.0) == last[-1]
    assert made.quantile(0.1) <= made.quantile(0.5) <= made.quantile(0.9)
    assert len(PRIOR) == 19
