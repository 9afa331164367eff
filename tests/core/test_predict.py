"""Predictions against a simulation of the same slots."""

import heapq

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchd.core.predict import Slot, on_time, predict, remaining_tokens
from orchd.core.queue import NOTHING, Backlog

FREE = st.floats(0, 50)
SLOTS = st.lists(
    st.builds(Slot, FREE, st.floats(0.001, 0.2), st.floats(0, 1)), min_size=1, max_size=6
)
ALIKE = st.integers(1, 6).flatmap(
    lambda k: st.lists(FREE, min_size=k, max_size=k).map(
        lambda frees: [Slot(free, 0.01, 0.1) for free in frees]
    )
)


def simulate(slots: list[Slot], jobs: list[int]) -> float:
    """Return when the job behind `jobs` starts, by doing it."""
    heap = [(slot.free_in_s, number) for number, slot in enumerate(slots)]
    heapq.heapify(heap)
    for tokens in jobs:
        at, number = heapq.heappop(heap)
        heapq.heappush(heap, (at + slots[number].job_s(tokens), number))
    return heap[0][0]


@given(SLOTS, st.integers(0, 60), st.integers(1, 500))
def test_exact_when_jobs_are_equally_long(slots: list[Slot], jobs: int, tokens: int) -> None:
    found = predict(slots, Backlog(jobs, jobs * tokens))
    assert found is not None
    assert found.start_s == pytest.approx(simulate(slots, [tokens] * jobs), abs=1e-5)


@given(FREE, st.lists(st.integers(1, 500), max_size=60))
def test_exact_with_one_slot(free: float, jobs: list[int]) -> None:
    slots = [Slot(free, 0.01, 0.1)]
    found = predict(slots, Backlog(len(jobs), sum(jobs)))
    assert found is not None
    assert found.start_s == pytest.approx(simulate(slots, jobs), abs=1e-5)


@given(ALIKE, st.lists(st.integers(1, 500), max_size=60))
def test_off_by_less_than_the_longest_job(slots: list[Slot], jobs: list[int]) -> None:
    found = predict(slots, Backlog(len(jobs), sum(jobs)))
    assert found is not None
    longest = slots[0].job_s(max(jobs, default=0))
    assert abs(found.start_s - simulate(slots, jobs)) <= longest + 1e-6


@given(SLOTS, st.integers(0, 10**6), st.integers(1, 500))
def test_more_work_never_starts_sooner_and_p90_is_later(
    slots: list[Slot], jobs: int, tokens: int
) -> None:
    now = predict(slots, Backlog(jobs, jobs * tokens))
    later = predict(slots, Backlog(jobs + 1, (jobs + 1) * tokens))
    assert now is not None
    assert later is not None
    assert now.start_s <= later.start_s * (1 + 1e-9) + 1e-6
    assert now.p90_s >= now.start_s >= 0


def test_no_slot_no_prediction_and_a_free_slot_is_now() -> None:
    assert predict([], NOTHING) is None
    free = predict([Slot(0.0, 0.01, 0.1), Slot(9.0, 0.01, 0.1)], NOTHING)
    assert free is not None
    assert (free.start_s, free.p90_s) == (0.0, 0.0)


def test_a_job_takes_its_first_token_and_then_its_tokens() -> None:
    assert Slot(0.0, 0.01, 0.5).job_s(100) == pytest.approx(1.5)
    assert Slot(0.0, 0.0, 0.0).job_s(0) > 0
    found = predict([Slot(2.0, 0.01, 0.5)], Backlog(2, 300))
    assert found is not None
    assert found.start_s == pytest.approx(2 + 2 * 0.5 + 3)
    # a wait of 6 s is 3 mean jobs: 1.2816 * 0.5 / sqrt(3) of it on top
    assert found.p90_s == pytest.approx(6 * 1.36996, rel=1e-4)


def test_remaining_tokens_is_never_nothing() -> None:
    assert remaining_tokens(100, 200, 30) == 70
    assert remaining_tokens(100, 200, 100) == 50  # past its estimate: halfway to its limit
    assert remaining_tokens(100, 200, 900) == 1
    assert remaining_tokens(100, 100, 99.5) == 1


@given(st.floats(0, 1000), st.floats(0, 100), st.floats(-100, 2000), st.floats(0, 500))
def test_on_time_is_a_probability_that_grows_with_the_time_left(
    ends: float, length: float, left: float, more: float
) -> None:
    less, much = on_time(ends, length, left), on_time(ends, length, left + more)
    assert 0 <= less <= much <= 1
    assert on_time(10, 2, 10) == pytest.approx(0.5)
