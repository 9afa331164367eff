"""A pool that is too slow sheds load, tries again, and comes back."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchd.core.effects import Note
from orchd.core.given.spec import Slo
from orchd.core.state.slo import LEAST, PROBES, SHED_MAX_S, Breaker, State
from orchd.wire.errors import Kind
from orchd.wire.shapes import Priority
from tests.core.making import House, of, pool, snapshot, uid

SLO = Slo(first_token_s=1.0, breach_s=10.0, shed_s=5.0)


def told(breaker: Breaker, start: float, seconds: float, took_s: float) -> float:
    """First tokens twice a second that took so long; returns the time after them."""
    now = start
    while now < start + seconds:
        breaker.first_token(now - took_s, now)
        now += 0.5
    return now


def opened(at: float = 100.0) -> tuple[Breaker, float]:
    breaker = Breaker(SLO)
    now = told(breaker, at, 12.0, 2.0)
    while breaker.state(now) is State.CLOSED:
        now = told(breaker, now, 0.5, 2.0)
    return breaker, now


@pytest.mark.req("ORCH-3040")
def test_a_breach_opens_it_only_when_it_lasts() -> None:
    breaker = Breaker(SLO)
    now = told(breaker, 100.0, 4.0, 2.0)
    assert breaker.state(now) is State.CLOSED
    assert breaker.late_share(now) == 1.0
    now = told(breaker, now, 6.0, 0.2)  # it was a burst
    assert breaker.state(now) is State.CLOSED
    now = told(breaker, now, 40.0, 0.2)
    assert breaker.late_share(now) == 0.0
    now = told(breaker, now, 25.0, 2.0)
    assert breaker.state(now) is not State.CLOSED
    assert breaker.opened >= 1


@pytest.mark.req("ORCH-3040")
def test_what_was_slow_long_ago_says_nothing_now() -> None:
    breaker = Breaker(SLO)
    now = told(breaker, 100.0, 9.0, 2.0)
    told(breaker, now + 3600, 5.0, 2.0)
    assert breaker.state(now + 3605) is State.CLOSED


@pytest.mark.req("ORCH-3040")
def test_a_pool_that_says_nothing_is_told_by_who_waits() -> None:
    breaker = Breaker(SLO)
    assert breaker.look(LEAST - 1, 100.0) is None
    assert breaker.look(LEAST, 101.0) is None
    assert breaker.look(LEAST, 110.9) is None
    assert breaker.look(LEAST, 111.0) is State.OPEN


@pytest.mark.req("ORCH-3040")
def test_it_tries_a_few_and_closes_when_all_are_in_time() -> None:
    breaker, now = opened()
    assert not breaker.admits(now)
    assert 0 < breaker.wait_s(now) <= SLO.shed_s
    now += breaker.wait_s(now)
    assert breaker.state(now) is State.HALF_OPEN
    for _ in range(PROBES):
        assert breaker.admits(now)
        breaker.admitted(now)
    assert not breaker.admits(now)
    assert breaker.first_token(now - 20, now + 0.1) is None  # it came in before the test
    for _ in range(PROBES - 1):
        assert breaker.first_token(now, now + 0.5) is None
    assert breaker.first_token(now, now + 0.5) is State.CLOSED
    assert breaker.admits(now + 0.5)


@pytest.mark.req("ORCH-3040")
def test_a_test_that_fails_makes_the_next_one_later() -> None:
    breaker, now = opened()
    pauses = []
    for _ in range(9):
        pauses.append(breaker.wait_s(now))
        now += breaker.wait_s(now)
        breaker.admitted(now)
        assert breaker.first_token(now, now + 1.5) is State.OPEN
        now += 1.5
    assert pauses[1:4] == [2 * SLO.shed_s, 4 * SLO.shed_s, 8 * SLO.shed_s]
    assert pauses[-1] == SHED_MAX_S
    assert breaker.opened == 10


@pytest.mark.req("ORCH-3040")
def test_tests_that_are_canceled_do_not_keep_it_shut_for_ever() -> None:
    breaker, now = opened()
    now += breaker.wait_s(now)
    for _ in range(PROBES):
        breaker.admitted(now)
    assert not breaker.admits(now + 1)
    assert breaker.wait_s(now + 1) == pytest.approx(SLO.shed_s - 1)
    assert breaker.admits(now + SLO.shed_s)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["token", "look", "admit"]), st.floats(0.0, 4.0), st.floats(0.0, 3.0)
        ),
        max_size=120,
    )
)
def test_any_sequence_keeps_it_sane(steps: list[tuple[str, float, float]]) -> None:
    breaker, now = Breaker(SLO), 100.0
    for what, pause, took in steps:
        now += pause
        if what == "token":
            breaker.first_token(now - took, now)
        elif what == "look":
            breaker.look(round(took * 3), now)
        elif breaker.admits(now):
            breaker.admitted(now)
        state = breaker.state(now)
        assert breaker.admits(now) is (state is not State.OPEN) or state is State.HALF_OPEN
        if state is not State.CLOSED:
            assert 0 <= breaker.wait_s(now) <= SHED_MAX_S
            assert breaker.opened


def slow_house(**more: Any) -> House:
    house = House.of(pool(slo=SLO, **more))
    house.see()
    return house


def breach(house: House) -> None:
    """Tasks whose first tokens come after two seconds, until load is shed."""
    breaker = house.front.world.pools["demo"].breaker  # type: ignore[index]
    for number in range(1000, 1040):
        if breaker.state(house.now) is not State.CLOSED:
            return
        house.admit(number)
        house.now += 2.0
        house.see()
        house.progress(number, 1)
        house.finish(number)
    raise AssertionError("it never opened")


@pytest.mark.req("ORCH-3040")
def test_load_is_shed_with_the_contracts_words_and_told() -> None:
    house = slow_house()
    breach(house)
    assert house.admit(1).accepted.queue_position == 0  # interactive, and a slot is free
    interactive = house.refuse(2)
    batch = house.refuse(3, priority=Priority.BATCH)
    assert interactive.kind is batch.kind is Kind.SLO_BREACHED
    assert (interactive.row.status, interactive.row.code) == (429, "ADMISSION_REJECT")
    assert interactive.fields.policy_label == "reject"
    assert batch.fields.policy_label == "shed-low-priority"
    assert 0 < (interactive.fields.retry_after_ms or 0) <= 5000
    counts = house.front.counters()
    assert counts["tasks_rejected_total"] == {("mock", "dropped"): 2}
    assert counts["admission_backpressure_events_total"] == {
        ("mock", "reject"): 1,
        ("mock", "shed-low-priority"): 1,
    }
    assert house.front.gauges(house.now)["pool_shedding"] == {("mock", "1.0", "demo"): 1.0}
    (health,) = [p.slo for p in house.front.pools(house.now)]
    assert health is not None
    assert (health.state, health.opened, health.late_share) == ("open", 1, 1.0)


@pytest.mark.req("ORCH-3040")
def test_another_pool_takes_what_one_sheds_and_the_log_says_why() -> None:
    house = House.of(pool(slo=SLO), pool("other"))
    house.see(snapshot("demo:0"))
    breach(house)
    house.see(snapshot("other:0", pool_id="other"))
    accepted = house.admit(1, priority=Priority.BATCH)
    assert accepted.accepted.pool_id == "other"
    log = house.front.world.tasks[uid(1)].decision
    assert log is not None
    assert [c.excluded for c in log.considered if c.pool_id == "demo"] == ["shedding"]


@pytest.mark.req("ORCH-3040")
def test_opening_and_closing_are_noted_once() -> None:
    house = slow_house()
    seen: list[str] = []

    def take(effects: Any) -> None:
        seen.extend(n.name for n in of(effects, Note) if n.name in ("load_shed", "load_taken"))

    for number in range(1, 41):
        take(house.submit(number))
        house.now += 2.0 if "load_shed" not in seen else 0.2
        house.see()
        if uid(number) in house.front.world.tasks:
            take(house.progress(number, 1))
            house.finish(number)
        if "load_shed" in seen:
            house.now += 5.0
            house.see()
    assert seen == ["load_shed", "load_taken"]


def test_without_an_slo_nothing_is_kept_and_nothing_told() -> None:
    house = House.of()
    house.see()
    house.admit(1)
    house.now += 100.0
    house.see()
    house.progress(1, 1)
    assert house.front.world.pools["demo"].breaker == Breaker(Slo())  # type: ignore[index]
    assert house.front.gauges(house.now)["pool_shedding"] == {}
    assert [p.slo for p in house.front.pools(house.now)] == [None]
