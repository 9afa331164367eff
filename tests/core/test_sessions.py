"""Sessions: turns, time to live, budgets before enqueue, and what is told of them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import pytest

from orchd.core import invariants
from orchd.core.effects import Accepted, Effect, Note, Refused
from orchd.core.events import EndSession, JobEnded, Submit
from orchd.core.limits.budgets import NOTHING, PICO, Budget, Left, Price
from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import SessionId
from orchd.wire.shapes import Determinism, SessionStatus, Workload
from tests.core.making import (
    House,
    dispatched,
    end,
    notes,
    of,
    only,
    pool,
    request,
    session_id,
    snapshot,
    uid,
    unready,
)

ONE = SessionId("00000000-0000-4000-8000-0000000000aa")
TWO = SessionId("00000000-0000-4000-8000-0000000000bb")


@pytest.fixture
def budgeted() -> Iterator[House]:
    """One slot at 100 tokens/s; a session has 1,000 tokens, 20 s and a cost of 1."""
    made = House.of(
        pool(price=Price.per_thousand(0.5, 1.0)),
        budget=Budget(tokens=1000, time_ms=20_000, cost=PICO),
    )
    made.see()
    yield made
    invariants.check(made.front, made.now)


def shown(house: House, session: SessionId = ONE) -> SessionStatus:
    return house.front.session(session, house.now)


def gone(house: House, session: SessionId = ONE) -> bool:
    with contextlib.suppress(OrchError):
        shown(house, session)
        return False
    return True


def turn(house: House, number: int, session: SessionId = ONE, **more: Any) -> list[Effect]:
    """A whole task of the session."""
    house.admit(number, session_id=session, **more)
    return house.finish(number, 10)


def reasons(effects: list[Effect]) -> list[object]:
    return [note.fields["reason"] for note in of(effects, Note) if note.name == "session_over"]


# turns


@pytest.mark.req("ORCH-3021")
def test_eight_turns_then_the_session_is_over_and_its_id_begins_a_new_one(house: House) -> None:
    for number in range(1, 9):
        turn(house, number)
        assert shown(house).turns == number
    effects = house.submit(9, session_id=ONE)
    error = only(effects, Refused).error
    assert (error.kind, error.fields.path) == (Kind.SESSION_OVER, "$.session_id")
    assert "8 turns" in error.message
    assert not of(effects, Accepted)
    with pytest.raises(OrchError, match="no session") as caught:
        shown(house)
    assert caught.value.kind is Kind.UNKNOWN_ID
    turn(house, 9)  # the same task again
    assert shown(house).turns == 1


@pytest.mark.req("ORCH-3021")
def test_repeats_and_refused_tasks_are_no_turns_and_others_are_whatever_becomes_of_them(
    house: House,
) -> None:
    house.admit(1, session_id=ONE)
    assert not house.admit(1, session_id=ONE).fresh
    house.refuse(2, session_id=ONE, ctx=9000)
    assert shown(house).turns == 1
    house.admit(2, session_id=ONE)
    house.cancel(2)  # while it waited
    house.fail(1, Kind.DECODE_TIMEOUT, 1)
    house.admit(3, session_id=ONE)
    house.cancel(3)
    house.free(3)
    assert (shown(house).turns, shown(house).ttl_ms_remaining) == (3, 600_000)


def test_a_task_that_is_refused_anyhow_does_not_end_a_session_that_had_its_turns() -> None:
    house = House.of(session_turns=1)
    house.see()
    turn(house, 1)
    assert house.refuse(2, session_id=ONE, ctx=9000).kind is Kind.INVALID_PARAMS
    assert shown(house).turns == 1
    assert house.refuse(2, session_id=ONE).kind is Kind.SESSION_OVER


def test_the_tasks_of_a_session_that_had_its_turns_go_on_and_are_not_the_new_ones() -> None:
    house = House.of(session_turns=2, budget=Budget(tokens=1000))
    house.see()
    house.admit(1, session_id=ONE)
    house.admit(2, session_id=ONE)
    assert house.refuse(3, session_id=ONE).kind is Kind.SESSION_OVER
    answer = house.admit(3, session_id=ONE)
    assert answer.left.tokens == 890  # its own reservation alone: 7 bytes, 3 more, max_tokens 100
    for number in (1, 2):
        house.finish(number)
    assert (shown(house).turns, shown(house).tokens_budget_remaining) == (1, 890)
    house.finish(3, 10)
    assert shown(house).tokens_budget_remaining == 987


# time to live


@pytest.mark.req("ORCH-3021")
def test_a_session_is_over_ten_minutes_after_its_last_task(house: House) -> None:
    turn(house, 1)
    house.now += 400
    house.see()
    turn(house, 2)
    assert shown(house).ttl_ms_remaining == 600_000
    house.now += 599.999
    assert (shown(house).turns, shown(house).ttl_ms_remaining) == (2, 1)
    house.now += 0.001
    assert gone(house)  # before the timer says so
    assert reasons(house.wait(0)) == ["ttl"]
    assert not house.front.world.sessions.known


@pytest.mark.req("ORCH-3021")
def test_no_session_is_over_while_a_task_of_it_waits_or_runs() -> None:
    house = House.of(session_ttl_s=1)
    house.see()
    house.admit(1, session_id=ONE)
    house.admit(2, session_id=TWO)
    for _ in range(5):
        house.now += 2
        house.see()
        assert (shown(house).turns, shown(house, TWO).ttl_ms_remaining) == (1, 1000)
    house.finish(1)
    house.now += 0.5
    assert shown(house).ttl_ms_remaining == 500
    house.wait(0.5)
    assert gone(house)
    assert not gone(house, TWO)


def test_the_alarm_is_set_for_the_first_session_that_is_over() -> None:
    house = House.of(session_ttl_s=10)
    house.see()
    for number in range(1, 6):
        turn(house, number, session_id(number))
        house.now += 1
        house.see()
    assert len(house.front.world.sessions.known) == 5
    assert reasons(house.wait(7)) == ["ttl", "ttl", "ttl"]
    assert house.front.gauges(house.now)["sessions_active"] == {(): 2}
    assert reasons(house.wait(10)) == ["ttl", "ttl"]


# deletion, and room


def test_a_session_that_is_deleted_is_forgotten_and_its_tasks_go_on(house: House) -> None:
    house.admit(1, session_id=ONE)
    assert reasons(house.send(EndSession(ONE))) == ["deleted"]
    assert gone(house)
    assert not reasons(house.send(EndSession(ONE)))
    assert "task_ended" in notes(house.finish(1))
    assert gone(house)
    turn(house, 2)
    assert shown(house).turns == 1


def test_idle_sessions_make_room_the_longest_idle_first_and_live_ones_never() -> None:
    house = House.of(sessions_idle_max=2)
    house.see()
    house.admit(1, session_id=ONE)
    for number in (2, 3):
        house.admit(number)
        house.cancel(number)
    assert len(house.front.world.sessions.known) == 3
    house.admit(4)
    assert reasons(house.cancel(4)) == ["crowded"]
    assert gone(house, session_id(2))
    assert not gone(house, session_id(3))
    assert shown(house).turns == 1
    house.admit(5, session_id=session_id(3))
    house.cancel(5)  # now 4 is the longest idle
    assert reasons(house.finish(1)) == ["crowded"]
    assert gone(house, session_id(4))


# budgets


@pytest.mark.req("OC-CORE-1023", "ORCH-3099", "OC-CTRL-2068")
def test_a_budget_is_reserved_at_admission_and_charged_with_what_was_used(budgeted: House) -> None:
    answer = budgeted.admit(1, session_id=ONE, max_tokens=200, prompt="x" * 97)
    # at most 100 tokens of prompt, 200 out at 100 a second, 0.5 and 1.0 per thousand
    assert answer.left == Left(tokens=700, time_ms=18_000, cost=0.75)
    assert (answer.started.tokens_used, answer.started.tokens_remaining) == (0, 700)
    budgeted.finish(1, 50, tokens_in=20, decode_ms=600)
    status = shown(budgeted)
    assert status.tokens_budget_remaining == 930
    assert status.time_budget_remaining_ms == 19_400
    assert status.cost_budget_remaining == pytest.approx(0.94)
    second = budgeted.admit(2, session_id=ONE, max_tokens=200, prompt="x" * 97)
    assert (second.started.tokens_used, second.started.tokens_remaining) == (70, 630)
    assert not budgeted.admit(1, session_id=ONE, max_tokens=200, prompt="x" * 97).fresh


@pytest.mark.req("OC-CORE-1023", "ORCH-3099", "OC-CTRL-2068", "ORCH-3014")
@pytest.mark.parametrize(
    ("budget", "word"),
    [
        (Budget(tokens=209), "209 tokens left, and this task may use 210"),
        (Budget(time_ms=1999), "1999 ms of GPU time left, and this task may use 2000"),
        (Budget(cost=PICO // 8), "0.125 of cost left, and this task may use 0.205"),
    ],
)
def test_what_does_not_fit_is_refused_before_it_is_queued_and_leaves_no_session(
    budget: Budget, word: str
) -> None:
    house = House.of(pool(price=Price.per_thousand(0.5, 1.0)), budget=budget)
    house.see()
    effects = house.submit(1, session_id=ONE, max_tokens=200)
    error = only(effects, Refused).error
    assert (error.kind, error.fields.path) == (Kind.BUDGET_SHORT, "$.max_tokens")
    assert word in error.message
    assert not dispatched(effects)
    assert gone(house)
    assert not house.front.world.tasks


@pytest.mark.req("OC-CORE-1023")
def test_tasks_at_the_same_time_cannot_overdraw_together(budgeted: House) -> None:
    for number in (1, 2):
        budgeted.admit(number, session_id=ONE, max_tokens=400)
    error = budgeted.refuse(3, session_id=ONE, max_tokens=400)
    assert "has 180 tokens left, and this task may use 410" in error.message
    budgeted.admit(4, session_id=TWO, max_tokens=400)  # another session has its own
    budgeted.finish(1, 10)
    budgeted.admit(3, session_id=ONE, max_tokens=400)


@pytest.mark.req("OC-CORE-1023")
@pytest.mark.parametrize("how", ["waiting", "running", "running with tokens", "expired", "failed"])
def test_what_is_over_gives_its_reservation_back(budgeted: House, how: str) -> None:
    budgeted.admit(1, session_id=TWO)
    if how.startswith("running") or how == "failed":
        budgeted.finish(1)
    budgeted.admit(2, session_id=ONE, max_tokens=400, deadline_ms=2_000)
    assert shown(budgeted).tokens_budget_remaining == 590
    left = 1000
    match how:
        case "waiting":
            budgeted.cancel(2)
        case "running":
            budgeted.cancel(2)
            budgeted.free(2)
        case "running with tokens":
            budgeted.progress(2, 5)
            budgeted.now += 0.1
            budgeted.cancel(2, tokens=7)
            assert shown(budgeted).tokens_budget_remaining == 590  # until the slot is free
            budgeted.free(2, 9)
            left = 1000 - 9 - 10  # its prompt as reserved: no engine said a figure
            assert shown(budgeted).time_budget_remaining_ms == 19_900
        case "expired":
            budgeted.wait(2)
        case "failed":
            budgeted.fail(2, Kind.DECODE_TIMEOUT)
    assert shown(budgeted).tokens_budget_remaining == left
    account = budgeted.front.world.sessions.known[ONE].account
    assert account.held == NOTHING


def test_a_task_that_waits_again_keeps_its_reservation(budgeted: House) -> None:
    budgeted.admit(1, session_id=ONE, max_tokens=400)
    budgeted.lose()
    assert shown(budgeted).tokens_budget_remaining == 590
    budgeted.see(snapshot(seq=1))
    budgeted.finish(1, 10)
    assert shown(budgeted).tokens_budget_remaining == 987


def test_what_puts_out_no_token_reserves_its_inputs_alone() -> None:
    house = House.of(budget=Budget(tokens=100))
    house.see(snapshot(workloads=(Workload.EMBEDDING,)))
    answer = house.admit(
        1, session_id=ONE, workload=Workload.EMBEDDING, prompt=None, inputs=("ab", "é"),
        max_tokens=1000,
    )  # fmt: skip
    assert answer.left.tokens == 100 - (2 + 3) - (2 + 3)


@pytest.mark.req("OC-CORE-1023")
def test_a_prompt_is_counted_where_the_budget_hangs_on_it() -> None:
    house = House.of(pool(price=Price.per_thousand(1.0, 1.0)), budget=Budget(tokens=500))
    house.see()
    asked = [
        request(1, session_id=ONE, prompt="x" * length, max_tokens=tokens)
        for length, tokens in ((397, 100), (398, 100), (800, 100), (400, 501))
    ]
    by = [house.front.counted_by(each, "me", house.now) for each in asked]
    assert by == [None, "demo:0", "demo:0", None]  # the last is refused whatever its prompt
    assert house.refuse(1, session_id=ONE, prompt="x" * 800).kind is Kind.BUDGET_SHORT
    house.admit(1, session_id=ONE, prompt="x" * 800, prompt_tokens=225)
    assert shown(house).tokens_budget_remaining == 175


@pytest.mark.req("OC-METRICS-7111", "ORCH-3100", "OC-CORE-1024", "HME-021")
def test_metrics_frames_carry_warmth_and_what_is_left(budgeted: House, house: House) -> None:
    budgeted.admit(1, session_id=ONE)
    frame = budgeted.front.metrics_frame(uid(1), budgeted.now)
    assert (frame.kv_warmth, frame.tokens_budget_remaining) == (False, 890)
    assert (frame.time_budget_remaining_ms, frame.cost_budget_remaining) == (19_000, 0.895)
    house.admit(1)
    bare = house.front.metrics_frame(uid(1), house.now)
    assert bare.tokens_budget_remaining is None
    assert bare.cost_budget_remaining is None


# the KV cache


FREE: dict[str, Any] = {"determinism": Determinism.BEST_EFFORT}


@pytest.mark.req("OC-CORE-1024", "ORCH-3022")
def test_a_session_is_warm_while_its_replica_ran_nothing_else(house: House) -> None:
    turn(house, 1, **FREE)
    assert shown(house).kv_warmth
    answer = house.admit(2, session_id=ONE, **FREE)
    assert answer.started.kv_warmth
    assert house.front.metrics_frame(uid(2), house.now).kv_warmth
    assert not shown(house).kv_warmth  # not for another one beside it
    house.finish(2)
    assert shown(house).kv_warmth
    turn(house, 3, TWO, **FREE)
    assert not shown(house).kv_warmth
    assert not house.admit(4, session_id=ONE, **FREE).started.kv_warmth


@pytest.mark.req("ORCH-3022")
def test_the_bytes_of_a_cache_are_said_where_the_pool_says_what_a_token_takes(house: House) -> None:
    turn(house, 1)
    assert (shown(house).kv_warmth, shown(house).kv_bytes) == (True, 0)
    house.see(snapshot(seq=2, kv_bytes_per_token=1000))
    assert shown(house).kv_bytes == 13_000  # 3 in, 10 out
    house.lose()
    assert (shown(house).kv_warmth, shown(house).kv_bytes) == (False, 0)


@pytest.mark.req("ORCH-3022", "ORCH-3023")
@pytest.mark.parametrize("how", ["strict", "canceled", "unready", "lost", "other"])
def test_a_session_is_cold_when_anything_speaks_against_its_cache(how: str) -> None:
    house = House.of(pool(replicas=2))
    house.see(snapshot("demo:0", vram_free_bytes=2000), snapshot("demo:1"))
    house.admit(1, session_id=ONE, **FREE)
    if how == "canceled":
        house.cancel(1)
        house.free(1)
    else:
        house.finish(1)
    assert shown(house).kv_warmth == (how != "canceled")
    match how:
        case "strict":
            assert not house.admit(8, session_id=ONE).started.kv_warmth
            house.finish(8)
            assert shown(house).kv_warmth  # for a turn that may read it
            return
        case "unready":
            house.see(unready("demo:0"))
            assert not shown(house).kv_warmth
            house.see(snapshot("demo:0", vram_free_bytes=2000))
        case "lost":
            house.lose("demo:0")
            assert not shown(house).kv_warmth
            house.see(snapshot("demo:0", vram_free_bytes=2000))
        case "other":
            turn(house, 2, TWO)  # it took the slot
    assert not shown(house).kv_warmth
    answer = house.admit(9, session_id=ONE, **FREE)
    assert (answer.started.kv_warmth, answer.started.kv_migrated) == (False, False)


def test_a_session_that_is_over_draws_no_task_to_its_place() -> None:
    house = House.of(pool(replicas=2))
    house.see(snapshot("demo:0", vram_free_bytes=2000), snapshot("demo:1"))
    house.admit(1, session_id=TWO)
    turn(house, 2)
    house.finish(1)
    house.send(EndSession(ONE))
    assert house.admit(3, session_id=ONE).started.replica_id == "demo:0"


# cost


def step_us(sessions: int) -> float:
    """The median cost of a whole task with so many idle sessions beside its own, in µs."""
    house = House.of(sessions_idle_max=sessions + 1, retain_max=5)
    house.see()
    handle, now, costs = house.front.handle, house.now, []
    for number in range(sessions + 300):
        asked = Submit(request(number), b"", "c")
        over = JobEnded(asked.request.task_id, end())
        begin = time.perf_counter_ns()
        handle(asked, now)
        handle(over, now)
        costs.append((time.perf_counter_ns() - begin) / 1000)
    assert len(house.front.world.sessions.idle) == sessions + 1
    return sorted(costs[-300:])[150]


@pytest.mark.slow
@pytest.mark.req("OC-CORE-1003")
def test_a_task_costs_the_same_with_ten_and_with_ten_thousand_sessions() -> None:
    few, many = step_us(10), step_us(10_000)
    assert many < 4 * few + 20, (few, many)
