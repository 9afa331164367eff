"""Predictions against a simulation of the same slots."""

import heapq
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchd.core.learning.predict import Slot, Ways, predict
from orchd.core.queues.fifo import NOTHING, Backlog

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
    # one runs and two wait: 1.2816 * 0.5 / sqrt(3) of it on top
    assert found.p90_s == pytest.approx(6 * 1.36996, rel=1e-4)


BACKLOGS = st.tuples(st.integers(0, 40), st.integers(1, 500)).map(
    lambda b: Backlog(b[0], b[0] * b[1])
)
SPREAD_OUT = st.lists(FREE, min_size=2, max_size=8).map(
    lambda ends: Slot(sum(ends) / len(ends), 0.01, 0.1, tuple(sorted(ends)))
)


@given(st.lists(SPREAD_OUT, min_size=1, max_size=6), BACKLOGS, st.floats(0, 3), st.floats(0, 5))
def test_with_a_spread_more_work_or_overtakers_never_start_it_sooner(
    slots: list[Slot], before: Backlog, cv2: float, overtaking: float
) -> None:
    alone, pressed = (
        Ways(cv2=cv2, tokens=100),
        Ways(cv2=cv2, tokens=100, overtaking=overtaking, overtaking_tokens=50),
    )
    found = predict(slots, before, alone)
    assert found is not None
    assert 0 <= found.start_s <= found.p90_s < 1e9
    later = predict(slots, before, pressed)
    assert later is not None
    assert later.start_s >= found.start_s - 1e-6
    if before.jobs:
        more = predict(slots, Backlog(before.jobs + 1, before.tokens + 100), alone)
        assert more is not None
        assert more.start_s >= found.start_s - max(slot.job_s(500) for slot in slots)


@pytest.mark.parametrize("slots", [1, 3, 8])
@pytest.mark.parametrize("jobs", [0, 1, 4, 20, 60])
def test_median_and_p90_are_those_of_a_simulation(slots: int, jobs: int) -> None:
    """Exponential lengths of 100 tokens in the mean, at 100 tokens a second: cv2 is 1."""
    ends = tuple(-math.log(1 - (i + 0.5) / 8) for i in range(8))
    ways = Ways(cv2=1.0, tokens=100)
    found = predict([Slot(1.0, 0.01, 0.0, ends)] * slots, Backlog(jobs, 100 * jobs), ways)
    assert found is not None
    dice = random.Random(slots * 100 + jobs)
    starts = []
    for _ in range(2000):
        heap = [dice.expovariate(1.0) for _ in range(slots)]
        heapq.heapify(heap)
        for _ in range(jobs):
            heapq.heapreplace(heap, heap[0] + dice.expovariate(1.0))
        starts.append(heap[0])
    starts.sort()
    assert found.start_s == pytest.approx(starts[1000], rel=0.15, abs=0.2)
    assert found.p90_s == pytest.approx(starts[1800], rel=0.15, abs=0.3)


def test_overtaking_work_stretches_the_wait_as_a_busy_period() -> None:
    """Work that comes at half the pool's speed doubles a long wait: W / (1 - load)."""
    slot = Slot(1.0, 0.01, 0.0, (0.9, 1.1))
    alone = predict([slot], Backlog(50, 5000), Ways(cv2=0.1))
    pressed = predict(
        [slot], Backlog(50, 5000), Ways(cv2=0.1, overtaking=0.5, overtaking_tokens=100)
    )
    assert alone is not None
    assert pressed is not None
    assert pressed.start_s == pytest.approx(2 * alone.start_s, rel=0.05)
    turn = predict(
        [slot], Backlog(50, 5000),
        Ways(cv2=0.1, overtaking=0.5, overtaking_tokens=100, overtaken_most=10),
    )  # fmt: skip
    assert turn is not None  # its class has its turn after ten: it waits for sixty
    assert turn.start_s == pytest.approx(1.2 * alone.start_s, rel=0.05)
    flood = predict([slot], NOTHING, Ways(tokens=100, overtaking=50, overtaking_tokens=100))
    assert flood is not None
    assert flood.start_s < 100  # more than the pool can do: a twentieth is left
