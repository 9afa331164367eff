"""Ratios of real to foreseen lengths, and what they say of a job that runs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchd.core.learning.lengths import WINDOW, Lengths, remaining_tokens

RATIOS = st.lists(st.floats(0, 20), min_size=1, max_size=600)


def learned(*ratios: float) -> Lengths:
    lengths = Lengths()
    for ratio in ratios:
        lengths.learn(ratio)
    return lengths


def test_what_is_to_come_is_that_of_the_jobs_that_came_so_far() -> None:
    lengths = learned(0.1, 0.2, 0.4, 0.8, 0.1, 0.2, 0.4)
    assert lengths.ends(0, 1000, 1000, 8) == [100, 100, 200, 200, 400, 400, 800, 1000]
    # past 300 tokens four of eight are left, and one goes on to its limit
    assert lengths.ends(300, 1000, 1000, 4) == [100, 100, 500, 700]
    assert lengths.chance(300, 1000, 100) == pytest.approx(2.5 / 4)
    assert lengths.chance(300, 1000, 50) == pytest.approx(0.5 / 4)


def test_a_job_beyond_all_that_were_seen_stops_halfway_to_its_limit() -> None:
    lengths = learned(0.1, 0.2)
    assert lengths.ends(500, 1000, 1000, 8) == [250]
    assert lengths.ends(300, 1000, 1000, 8) == [300]  # or goes on as long as it did
    assert lengths.chance(500, 1000, 10) is None
    assert remaining_tokens(100, 200, 30) == 70
    assert remaining_tokens(100, 200, 100) == 50
    assert remaining_tokens(100, 200, 900) == 1
    assert remaining_tokens(100, 100, 99.5) == 1


def test_nothing_learned_is_as_foreseen() -> None:
    assert Lengths().ends(0, 100, 200, 8) == [100]
    assert Lengths().mean == 1.0
    assert learned(0.5, 0.0).mean == pytest.approx((0.5 + 2 / 3) / (2 + 2 / 3))


@given(RATIOS, st.floats(0, 3000), st.integers(1, 100), st.integers(100, 2000), st.integers(1, 8))
def test_ends_ascend_within_the_limit(
    ratios: list[float], out: float, reference: int, limit: int, count: int
) -> None:
    lengths = learned(*ratios)
    assert len(lengths) == min(len(ratios), WINDOW)
    ends = lengths.ends(out, reference, limit, count)
    assert ends == sorted(ends)
    assert all(1 <= left <= max(1.0, limit - out) for left in ends)
    recent = ratios[-WINDOW:]
    assert min([1.0, *recent]) - 1e-6 <= lengths.mean <= max([1.0, *recent]) + 1e-6


@given(RATIOS, st.floats(0, 500), st.floats(0, 500), st.floats(0, 500))
def test_chance_is_a_probability_that_grows(
    ratios: list[float], out: float, more: float, extra: float
) -> None:
    less, much = (learned(*ratios).chance(out, 100, m) for m in (more, more + extra))
    if less is not None and much is not None:
        assert 0 <= less <= much <= 1
