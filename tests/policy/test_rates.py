"""The buckets of identities, on a clock of numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchd.policy.rates import Buckets

pytestmark = pytest.mark.req("POLICY-4032")


def test_a_minute_s_worth_at_once_and_then_one_by_one() -> None:
    buckets = Buckets(6)
    assert [buckets.take("a", 100.0) for _ in range(6)] == [0.0] * 6
    assert buckets.take("a", 100.0) == pytest.approx(10)
    assert buckets.take("a", 109.0) == pytest.approx(1)
    assert buckets.take("b", 100.0) == 0
    assert buckets.take("a", 110.0) == 0
    assert buckets.take("a", 110.0) == pytest.approx(10)


def test_the_table_has_a_bound_and_who_is_full_again_leaves_it() -> None:
    buckets = Buckets(60, identities_max=3)
    assert [buckets.take(name, 0.0) for name in "abc"] == [0.0] * 3
    assert buckets.take("d", 0.0) == pytest.approx(1)
    assert buckets.take("a", 0.5) == 0  # who is in it goes on
    assert buckets.take("d", 1.0) == 0
    assert len(buckets) == 2


@given(st.lists(st.floats(0, 30), max_size=200), st.integers(1, 20))
def test_never_more_than_twice_a_minute_s_worth_in_a_minute(steps: list[float], per: int) -> None:
    buckets, now = Buckets(per), 0.0
    taken = []
    for step in steps:
        now += step
        if buckets.take("a", now) == 0:
            taken.append(now)
    for at in taken:
        assert sum(at <= other < at + 60 for other in taken) <= 2 * per
