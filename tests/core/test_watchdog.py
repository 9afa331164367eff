"""A job that runs too long, or says nothing: stopped, told, and its slot held until it is free."""

from __future__ import annotations

from typing import Any

import pytest

from orchd.core.effects import Break, CancelJob, Dispatch, Effect, Finish, Note, Seal
from orchd.core.given.spec import Watchdog
from orchd.core.state.task import Life
from orchd.wire.errors import Kind
from orchd.wire.shapes import TaskState, Workload
from tests.core.making import GONE, House, acts, of, only, pool, snapshot, uid

pytestmark = [pytest.mark.req("OC-CORE-1022")]


def house(**limits: Any) -> House:
    made = House.of(pool(watchdog=Watchdog(**limits)))
    made.see()
    return made


def live(made: House, seconds: float, *, tokens: int | None = None) -> list[Effect]:
    """Let time pass with heartbeats, and a token in each second; return what was done."""
    did: list[Effect] = []
    for second in range(round(seconds)):
        made.now += 1.0
        did += made.see(snapshot(seq=made.steps))
        if tokens is not None:
            did += made.progress(1, tokens + second)
    return did


def stopped(effects: list[Effect]) -> str:
    told = only(effects, Break)
    late = "deadline" in told.error.message
    assert told.error.kind is (Kind.DEADLINE_PASSED if late else Kind.DECODE_TIMEOUT)
    envelope = told.error.envelope()
    assert ("a later deadline_ms" in str(envelope.hint)) == late
    assert (envelope.code, envelope.retriable) == ("DECODE_TIMEOUT", True)
    assert (envelope.pool_id, envelope.engine) == ("demo", "mock")
    job = only(effects, CancelJob)
    assert (job.task_id, job.replica_id) == (told.task_id, "demo:0")
    assert effects.index(told) < effects.index(job)  # no token is written after the error
    assert not of(effects, Seal)
    return told.error.message


def test_a_deadline_that_passes_while_it_runs_stops_it() -> None:
    made = house()
    made.admit(1, deadline_ms=20_000)
    assert not of(live(made, 19, tokens=1), Break)
    assert "deadline of 20000 ms passed while it ran" in stopped(live(made, 1))
    status = made.front.task_status(uid(1), made.now)
    assert (status.state, status.error) == (TaskState.FAILED, "DECODE_TIMEOUT")
    assert status.timings.decode_time_ms == 20_000


def test_or_lets_it_go_on_where_the_operator_says_so() -> None:
    made = house(enforce_deadline=False)
    made.admit(1, deadline_ms=2_000)
    assert not of(live(made, 30, tokens=1), Break)
    assert only(made.finish(1, 40), Finish)


def test_silence_between_tokens_stops_it() -> None:
    made = house(idle_s=5.0)
    made.admit(1)
    assert not of(live(made, 20, tokens=1), Break)
    assert not of(live(made, 4), Break)
    assert "no token came for 5 s" in stopped(live(made, 1))


def test_the_first_token_has_a_limit_of_its_own() -> None:
    made = house(idle_s=1.0, first_token_s=10.0)
    made.admit(1)
    assert not of(live(made, 9), Break)
    assert "no first token came within 10 s" in stopped(live(made, 1))


def test_an_embedding_has_only_that_limit_and_the_wall() -> None:
    made = House.of(pool(watchdog=Watchdog(idle_s=1.0, first_token_s=10.0)))
    made.see(snapshot(workloads=(Workload.EMBEDDING,)))
    made.admit(1, workload=Workload.EMBEDDING, prompt=None, inputs=("a",))
    made.now += 9
    assert only(made.finish(1, 0), Finish)


def test_a_job_that_goes_on_and_on_is_stopped_at_the_wall() -> None:
    made = house(wall_s=30.0, enforce_deadline=False)
    made.admit(1)
    assert not of(live(made, 29, tokens=1), Break)
    assert "it ran for 30 s" in stopped(live(made, 1, tokens=100))


def test_the_defaults_end_no_long_prefill_and_no_slow_generation() -> None:
    made = House.of(pool(max_tokens=8000))
    made.see()
    made.admit(1, ctx=8192, max_tokens=8000, deadline_ms=10**9)
    assert not of(live(made, 590), Break)
    for number in range(200):
        made.now += 59  # a token a minute: nobody would wait, but it works
        made.see(snapshot(seq=made.steps))
        assert not of(made.progress(1, number + 1), Break)


def test_its_slot_stays_leased_until_it_is_free() -> None:
    made = house()
    made.admit(1, deadline_ms=2_000)
    made.admit(2)
    effects = live(made, 2)
    stopped(effects)
    assert not of(effects, Dispatch)
    assert made.front.world.tasks[uid(1)].life is Life.STOPPING
    assert acts(made.progress(1, 9)) == acts(made.cancel(1)) == []
    effects = made.free(1, 12)
    assert only(effects, Dispatch).task_id == uid(2)
    status = made.front.task_status(uid(1), made.now)
    assert (status.state, status.tokens_out) == (TaskState.FAILED, 12)
    assert not of(effects, Break) + of(effects, Finish)
    assert made.front.world.tasks[uid(1)].request.prompt is None


@pytest.mark.parametrize("how", ["end", "fail", "lost"])
def test_whatever_crosses_the_stop_on_the_link_only_frees_the_slot(how: str) -> None:
    made = house()
    made.admit(1, deadline_ms=2_000)
    stopped(live(made, 2))
    match how:
        case "end":
            effects = made.finish(1)
        case "fail":
            effects = made.fail(1)
        case _:
            effects = made.lose(cause=GONE)
    assert not of(effects, Finish) + of(effects, Break)
    assert made.front.world.tasks[uid(1)].life is Life.FAILED


def test_what_is_over_or_waits_again_is_not_watched() -> None:
    made = house(first_token_s=10.0)
    made.admit(1)
    made.finish(1)
    made.admit(2)
    made.cancel(2)
    made.free(2)
    made.admit(3)
    made.lose()
    assert not of(made.wait(20), Break)
    made.see(snapshot(seq=99))
    assert not of(live(made, 9), Break)  # it starts anew, and so does its limit
    stopped(live(made, 1))


def test_it_is_said_in_the_log() -> None:
    made = house()
    made.admit(1, deadline_ms=1_000)
    note = next(n for n in of(live(made, 1), Note) if n.name == "task_failed")
    assert (note.fields["reason"], note.fields["replica_id"]) == (Kind.DEADLINE_PASSED, "demo:0")
