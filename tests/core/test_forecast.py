"""What a pool learns of itself, seen through the door of the core."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchd.core.effects import Observe
from orchd.wire.shapes import Priority
from tests.core.making import House, of, pool, snapshot, uid


def house_that_saw(*tokens: int, **asked: int) -> House:
    """Return a house whose pool has run jobs of so many tokens, each as it came, none waiting."""
    house = House.of(pool(queue_interactive=400, queue_batch=400))
    house.see()
    for number, came in enumerate(tokens):
        house.admit(10_000 + number, max_tokens=1000, **asked)
        house.now += came / 100
        house.finish(10_000 + number, came)
        house.see(snapshot(seq=number + 2))
    return house


def start_ms(house: House, number: int) -> tuple[int, int]:
    frame = house.front.metrics_frame(uid(number), house.now)
    assert frame.predicted_start_ms is not None
    assert frame.predicted_start_p90_ms is not None
    return frame.predicted_start_ms, frame.predicted_start_p90_ms


def test_the_share_of_max_tokens_that_jobs_use_is_learned() -> None:
    house = house_that_saw(*[100] * 40)
    house.admit(1, max_tokens=1000)
    accepted = house.admit(2, max_tokens=1000).accepted
    assert accepted.predicted_start_ms == pytest.approx(1000, rel=0.1)  # and not 10 s
    for number in range(3, 12):
        accepted = house.admit(number, max_tokens=1000).accepted
    assert accepted.predicted_start_ms == pytest.approx(10_000, rel=0.25)


def test_a_clients_estimates_are_learned_apart_from_limits() -> None:
    house = house_that_saw(*[300] * 30, expected_tokens=100)  # always three times as long
    house.admit(1, max_tokens=1000, expected_tokens=200)
    accepted = house.admit(2, max_tokens=1000, expected_tokens=200).accepted
    assert accepted.predicted_start_ms == pytest.approx(6000, rel=0.15)


def test_what_was_queued_before_the_first_job_ended_is_not_forgotten() -> None:
    """A line that was counted by limits shrinks with the first jobs, and so does its tail."""
    house = House.of(pool(queue_interactive=400))
    house.see()
    for number in range(100):
        house.admit(number, max_tokens=1000, deadline_ms=10**7)
    for number in range(20):
        house.now += 1.0
        house.finish(number, 100)
        house.see(snapshot(seq=number + 2))
    assert start_ms(house, 99)[0] == pytest.approx(79_000, rel=0.3)
    for number in range(100, 180):  # they are counted anew, and in the same measure
        house.admit(number, max_tokens=1000, deadline_ms=10**7)
    assert start_ms(house, 179)[0] == pytest.approx(159_000, rel=0.3)


def test_a_heavy_tail_shows_in_a_job_that_runs_on() -> None:
    house = house_that_saw(*([20] * 9 + [900]) * 6)
    house.admit(1, max_tokens=1000)
    house.admit(2)
    early = start_ms(house, 2)[0]
    house.progress(1, 1)
    house.now += 2.0
    house.progress(1, 200)
    assert early < 1000
    assert start_ms(house, 2)[0] == pytest.approx(7000, rel=0.05)  # one of the long ones


def test_interactive_work_that_comes_holds_batch_back() -> None:
    house = House.of(pool(queue_interactive=400, queue_batch=400))
    house.see()
    for number in range(60):  # half of the pool's time, nobody waits
        house.admit(10_000 + number, max_tokens=100)
        house.now += 1.0
        house.finish(10_000 + number, 100)
        house.see(snapshot(seq=number + 2))
        house.now += 1.0
    for number in range(21):
        house.admit(number, max_tokens=100, priority=Priority.BATCH, deadline_ms=10**6)
    at, p90 = start_ms(house, 20)
    assert at == pytest.approx(40_000, rel=0.2)  # 20 jobs of a second, at half the pool's speed
    assert p90 > 1.1 * at


def test_errors_correct_what_is_said_next() -> None:
    """Jobs take half as long again as tokens and rates tell: soon that is foreseen."""
    house = House.of(pool(queue_interactive=400))
    house.see()
    said: list[tuple[float, float, float]] = []
    house.admit(0, deadline_ms=10**6)
    for number in range(1, 200):
        accepted = house.admit(number, deadline_ms=10**6).accepted
        came, seq = house.now, number + 2
        house.now += 1.5
        house.finish(number - 1, 100)
        said.append(
            (house.now - came, accepted.predicted_start_ms / 1000,
             accepted.predicted_start_p90_ms / 1000)
        )  # fmt: skip
        house.see(snapshot(seq=seq))
    real, start, p90 = said[0]
    assert (real, start) == (1.5, 1.0)
    real, start, p90 = said[-1]
    assert start == pytest.approx(real, rel=0.05)
    assert p90 == pytest.approx(real, rel=0.2)


@pytest.mark.req("OC-CTRL-2011")
def test_retry_after_comes_of_what_was_learned() -> None:
    house = house_that_saw(*[100] * 40)
    for number in range(401):
        house.admit(number, max_tokens=1000, deadline_ms=10**7)
    assert house.refuse(500).fields.retry_after_ms == pytest.approx(1000, rel=0.1)


def test_starts_before_and_after_p90_are_counted_where_a_task_had_to_wait() -> None:
    house = House.of(pool(queue_interactive=400))
    house.see()
    for number in (1, 2, 3):
        house.admit(number, deadline_ms=10**6)
    house.now += 1.0
    effects = house.finish(1, 100)
    assert [o.metric for o in of(effects, Observe)].count("predicted_start_error_ms") == 1
    house.now += 60
    house.see()
    house.finish(2, 100)
    where = ("mock", "1.0", "demo", Priority.INTERACTIVE)
    assert house.front.counters()["predicted_start_p90_total"] == {
        (*where, "before"): 1, (*where, "after"): 1,
    }  # fmt: skip


def test_a_task_that_its_deadline_takes_is_a_late_one_all_the_same() -> None:
    house = House.of(pool(queue_interactive=400))
    house.see()
    house.admit(0, max_tokens=100, deadline_ms=10**6)
    for number in range(1, 15):  # the one that runs does not end: each waits 4 s in vain
        house.admit(number, deadline_ms=4_000)
        house.wait(4)
        house.see(snapshot(seq=number + 2))
    assert not len(house.front.world.pools[pool().pool_id].queue)
    house.admit(100, deadline_ms=10**6)
    assert start_ms(house, 100)[1] > 3_500


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=30), st.integers(1, 8))
def test_p90_is_never_before_the_median_and_chances_are_probabilities(
    tokens: list[int], waiting: int
) -> None:
    house = house_that_saw(*tokens)
    for number in range(1, waiting + 2):
        house.admit(number, max_tokens=1000, deadline_ms=10**5)
    at, p90 = start_ms(house, waiting + 1)
    assert 0 <= at <= p90
    for number in range(1, waiting + 2):
        frame = house.front.metrics_frame(uid(number), house.now)
        assert 0 <= frame.on_time_probability <= 1
