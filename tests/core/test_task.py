"""The table of a task's life."""

import pytest

from orchd.core.limits.budgets import Account
from orchd.core.state.sessions import Session, Turn
from orchd.core.state.task import (
    FINAL,
    LEASED,
    TABLE,
    IllegalStepError,
    Life,
    Step,
    Task,
    expected_tokens,
)
from orchd.core.state.task import step as take
from orchd.wire.ids import PoolId
from orchd.wire.shapes import Workload
from tests.core.making import request, session_id


def task() -> Task:
    return Task(
        number=1, request=request(), digest=b"", correlation_id="c", pool_id=PoolId("demo"),
        turn=Turn(session=Session(session_id=session_id(0), account=Account())), admitted_at=0.0,
    )  # fmt: skip


@pytest.mark.parametrize("state", Life)
@pytest.mark.parametrize("step", Step)
def test_a_step_that_the_table_lacks_raises_and_changes_nothing(state: Life, step: Step) -> None:
    one = task()
    one.life = state
    if (state, step) in TABLE:
        one.take(step)
        assert one.life is TABLE[state, step]
    else:
        with pytest.raises(IllegalStepError):
            one.take(step)
        assert one.life is state


def test_every_state_is_reached_and_every_life_can_end() -> None:
    reached = {Life.QUEUED}
    for _ in Life:
        reached |= {after for (state, _), after in TABLE.items() if state in reached}
    assert reached == set(Life)
    ends = set(FINAL)
    for _ in Life:
        ends |= {state for (state, _), after in TABLE.items() if after in ends}
    assert ends == set(Life)


def test_what_is_over_stays_over() -> None:
    assert {TABLE[state, step] for state, step in TABLE if state in FINAL} == FINAL
    for state in FINAL:
        assert {step for (known, step) in TABLE if known is state} == {Step.CANCEL}


def test_only_a_task_without_a_token_goes_back_to_the_queue() -> None:
    back = [key for key, after in TABLE.items() if after is Life.QUEUED]
    assert back == [(Life.STARTING, Step.REQUEUE)]


@pytest.mark.req("OC-CORE-1005")
@pytest.mark.parametrize("state", Life)
def test_cancel_is_idempotent_in_every_state(state: Life) -> None:
    once = take(state, Step.CANCEL)
    assert take(once, Step.CANCEL) is once
    assert once in FINAL | {Life.RELEASING, Life.STOPPING}
    assert (once in LEASED) == (state in LEASED)


def test_expected_tokens_is_the_estimate_within_the_limit() -> None:
    assert expected_tokens(request(max_tokens=100)) == 100
    assert expected_tokens(request(max_tokens=100, expected_tokens=7)) == 7
    assert expected_tokens(request(max_tokens=100, expected_tokens=700)) == 100
    embedding = request(workload=Workload.EMBEDDING, prompt=None, inputs=("a",))
    assert expected_tokens(embedding) == 1
