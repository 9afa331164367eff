"""Leases and the measured speed of a slot."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolmgr.core.slots import SMOOTHING, Slots


@pytest.mark.req("ORCH-3971")
@given(st.integers(1, 5), st.lists(st.booleans()))
def test_leases_stay_between_zero_and_the_total(total: int, takes: list[bool]) -> None:
    slots, held = Slots(total), 0
    for take in takes:
        if take:
            assert slots.take() == (held < total)
            held = min(total, held + 1)
        elif held:
            slots.free()
            held -= 1
        else:
            with pytest.raises(ValueError, match="nobody had"):
                slots.free()
        assert slots.active == held


@pytest.mark.req("ORCH-3972")
def test_speed_is_smoothed_and_leaves_the_first_token_out() -> None:
    slots = Slots(1)
    assert (slots.tokens_per_s, slots.first_token_ms) == (None, None)
    slots.measured(tokens=11, first_token_s=0.5, decode_s=1.5)
    assert slots.tokens_per_s == pytest.approx(10.0)
    assert slots.first_token_ms == pytest.approx(500.0)
    slots.measured(tokens=21, first_token_s=1.0, decode_s=2.0)
    kept = 1 - SMOOTHING
    assert slots.tokens_per_s == pytest.approx((kept * 10 + 20) / (kept * 1.0 + 1.0))
    assert slots.first_token_ms == pytest.approx(500.0 + SMOOTHING * 500.0)
    slots.measured(tokens=0, first_token_s=9.0, decode_s=9.0)
    before = slots.tokens_per_s
    slots.measured(tokens=1, first_token_s=0.6, decode_s=0.6)
    assert slots.tokens_per_s == before


@pytest.mark.parametrize("spent", [1e-6, 1.0])
def test_a_short_job_says_little_of_the_speed(spent: float) -> None:
    slots = Slots(1)
    for _ in range(10):
        slots.measured(tokens=401, first_token_s=0.0, decode_s=4.0)
    slots.measured(tokens=4, first_token_s=0.0, decode_s=spent)
    assert slots.tokens_per_s == pytest.approx(100.0, rel=0.07)


def test_a_replica_without_slots_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Slots(0)
