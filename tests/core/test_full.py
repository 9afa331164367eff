"""A pool without room: who is refused, who is dropped, and what both are told."""

from __future__ import annotations

from typing import Any

import pytest

from orchd.core.effects import Accepted, Break, Note, Refused
from orchd.wire.errors import Kind
from orchd.wire.ids import PoolId
from orchd.wire.policy import FullPolicy
from orchd.wire.shapes import Priority, TaskState
from tests.core.making import House, of, only, pool, snapshot, uid

INTERACTIVE, BATCH = Priority.INTERACTIVE, Priority.BATCH
LRU, SHED = FullPolicy.DROP_LRU, FullPolicy.SHED_LOW_PRIORITY


def house(policy: FullPolicy, interactive: int = 2, batch: int = 3, **more: Any) -> House:
    """One slot that task 0 holds for 1 s, and a queue that is empty."""
    made = House.of(
        pool(queue_interactive=interactive, queue_batch=batch, full_policy=policy, **more)
    )
    made.see()
    made.admit(0)
    return made


def fill(made: House, *batch: int, interactive: tuple[int, ...] = ()) -> None:
    for number in batch:
        made.admit(number, priority=BATCH)
    for number in interactive:
        made.admit(number)


def waiting(made: House) -> list[int]:
    return [int(task_id[-12:]) for task_id in made.front.world.pools[PoolId("demo")].queue]


@pytest.mark.req("ORCH-3005", "OC-CORE-1002", "ORCH-3904")
def test_drop_lru_drops_the_oldest_batch_task_for_a_batch_task() -> None:
    made = house(LRU)
    fill(made, 1, 2, 3)
    effects = made.submit(4, priority=BATCH)
    told = only(effects, Break)
    assert told.task_id == uid(1)
    envelope = told.error.envelope()
    assert (envelope.code, envelope.retriable) == ("QUEUE_FULL_DROP_LRU", True)
    assert (envelope.policy_label, envelope.retry_after_ms) == ("drop-lru", 1000)
    assert effects.index(told) < effects.index(only(effects, Accepted))
    assert waiting(made) == [2, 3, 4]
    assert only(effects, Accepted).accepted.queue_position == 2
    assert only(effects, Accepted).accepted.predicted_start_ms == 3000  # as if 1 had never been
    status = made.front.task_status(uid(1), made.now)
    assert (status.state, status.error) == (TaskState.FAILED, "QUEUE_FULL_DROP_LRU")
    note = next(n for n in of(effects, Note) if n.name == "task_failed")
    assert (note.fields["reason"], note.fields["policy_label"]) == (Kind.DROPPED, "drop-lru")
    counts = made.front.counters()
    assert counts["tasks_rejected_total"] == {("mock", "dropped"): 1}
    assert counts["admission_backpressure_events_total"] == {("mock", "drop-lru"): 1}


@pytest.mark.req("ORCH-3904")
def test_an_interactive_task_takes_free_places_before_it_drops_anybody() -> None:
    made = house(LRU)  # 2 + 3 places
    fill(made, 1, 2, interactive=(10, 11, 12))
    assert waiting(made) == [10, 11, 12, 1, 2]
    assert only(made.submit(13), Break).task_id == uid(1)
    assert only(made.submit(14), Break).task_id == uid(2)
    assert waiting(made) == [10, 11, 12, 13, 14]
    error = made.refuse(15)
    assert (error.envelope().code, error.fields.policy_label) == ("QUEUE_FULL_DROP_LRU", "drop-lru")
    assert error.fields.retry_after_ms == 1000  # any start makes a place
    assert "nothing may be dropped" in error.message
    assert made.refuse(16, priority=BATCH).kind is Kind.QUEUE_FULL_DROP_LRU


@pytest.mark.req("ORCH-3005", "OC-CORE-1002")
def test_shed_low_priority_drops_the_newest_batch_task_for_an_interactive_one() -> None:
    made = house(SHED)
    fill(made, 1, 2, 3, interactive=(10, 11))
    effects = made.submit(12)
    told = only(effects, Break)
    assert told.task_id == uid(3)
    envelope = told.error.envelope()
    assert (envelope.code, envelope.policy_label) == ("ADMISSION_REJECT", "shed-low-priority")
    assert envelope.retriable
    assert made.front.counters()["tasks_rejected_total"] == {("mock", "dropped"): 1}
    assert waiting(made) == [10, 11, 12, 1, 2]


@pytest.mark.req("OC-CORE-1002")
def test_shed_low_priority_refuses_a_batch_task_that_finds_no_place() -> None:
    made = house(SHED)
    fill(made, 1, 2, 3)
    effects = made.submit(4, priority=BATCH)
    assert not of(effects, Break)
    error = only(effects, Refused).error
    assert (error.kind, error.fields.policy_label) == (Kind.QUEUE_FULL, "shed-low-priority")
    assert error.fields.retry_after_ms == 1000
    counts = made.front.counters()["admission_backpressure_events_total"]
    assert counts == {("mock", "shed-low-priority"): 1}


def test_nothing_is_dropped_for_a_task_that_is_refused_anyhow() -> None:
    made = house(LRU)
    fill(made, 1, 2, 3)
    assert made.refuse(4, priority=BATCH, deadline_ms=1).kind is Kind.DEADLINE_UNMET
    assert made.refuse(5, priority=BATCH, ctx=10**6).kind is Kind.INVALID_PARAMS
    assert waiting(made) == [1, 2, 3]


def test_reject_drops_nobody_and_shares_no_place() -> None:
    made = house(FullPolicy.REJECT)
    fill(made, 1, interactive=(10, 11))
    assert made.refuse(12).fields.policy_label == "reject"
    assert waiting(made) == [10, 11, 1]


def test_a_pool_with_a_place_is_chosen_before_one_that_drops() -> None:
    made = House.of(
        pool("a", queue_batch=1, queue_interactive=1, full_policy=LRU),
        pool("b", queue_batch=9, queue_interactive=1),
    )
    made.see(snapshot("a:0"), snapshot("b:0"))
    for number in range(2):
        made.admit(number)
    assert made.admit(2, priority=BATCH).accepted.pool_id == "a"
    assert made.admit(3, priority=BATCH).accepted.pool_id == "b"
    answer = made.submit(4, priority=BATCH)
    assert only(answer, Accepted).accepted.pool_id == "b"
    assert not of(answer, Break)


@pytest.mark.parametrize("policy", [LRU, SHED])
def test_what_came_back_over_the_bound_makes_nobody_else_leave(policy: FullPolicy) -> None:
    made = house(policy, 1, 1)
    fill(made, 1, interactive=(10,))
    made.lose()  # task 0 waits again: three tasks on two places
    assert waiting(made) == [0, 10, 1]
    made.see(snapshot(draining=False, slots_total=1))
    assert waiting(made) == [10, 1]
    made.lose()
    made.see(snapshot(ctx_max=500))  # ready, but too small for the head: all three stay
    error = made.refuse(12, ctx=200, max_tokens=1)
    assert error.fields.policy_label == policy
    assert waiting(made) == [0, 10, 1]


class TestMemory:
    """The prompts that wait take no more memory than is allowed, in all pools together."""

    TEXT = "x" * 1000

    def test_a_prompt_over_it_is_refused_with_the_time_of_the_next_start(self) -> None:
        made = House.of(pool("a"), pool("b", model_ref="mock:other"), queued_bytes=2500)
        made.see(snapshot("a:0"), snapshot("b:0", model_ref="mock:other"))
        made.admit(0, prompt=self.TEXT)
        assert made.front.world.queued_bytes == 0  # it runs
        made.admit(1, prompt=self.TEXT)
        assert 1000 < made.front.world.queued_bytes < 1200
        made.admit(2, model_ref="mock:other", prompt=self.TEXT)
        made.admit(3, model_ref="mock:other", prompt=self.TEXT)
        error = made.refuse(4, prompt=self.TEXT)
        assert (error.envelope().code, error.fields.policy_label) == ("ADMISSION_REJECT", "reject")
        assert "queued_prompts_mb" in error.message
        assert error.fields.retry_after_ms == 1000
        made.admit(5, prompt="short")
        made.cancel(1)
        made.admit(4, prompt=self.TEXT)

    def test_wide_characters_and_inputs_count_as_they_are_kept(self) -> None:
        made = house(FullPolicy.REJECT)
        made.admit(1, prompt="é" * 500 + "\N{GRINNING FACE}")
        assert made.front.world.queued_bytes > 4 * 500
        made.cancel(1)
        assert made.front.world.queued_bytes == 0

    def test_one_prompt_alone_and_one_that_starts_at_once_are_never_too_much(self) -> None:
        made = House.of(pool(slots=1), queued_bytes=10)
        made.see()
        made.admit(0, prompt=self.TEXT)
        made.admit(1, prompt=self.TEXT)
        assert made.refuse(2).kind is Kind.QUEUE_FULL
        made.finish(0)
        assert made.front.world.queued_bytes == 0

    def test_a_task_that_is_dropped_takes_its_prompt_with_it(self) -> None:
        made = House.of(pool(queue_batch=2, queue_interactive=1, full_policy=LRU),
                        queued_bytes=2500)  # fmt: skip
        made.see()
        made.admit(0)
        made.admit(1, priority=BATCH, prompt=self.TEXT)
        made.admit(2, priority=BATCH, prompt=self.TEXT)
        assert only(made.submit(3, priority=BATCH, prompt=self.TEXT), Break).task_id == uid(1)


class TestTurns:
    """Batch does not starve: after `batch_after` interactive starts it is its turn."""

    def run(self, made: House, first: int, count: int) -> list[int]:
        """End what runs `count` times; another interactive task comes each time."""
        order = []
        for number in range(first, first + count):
            made.admit(number)
            (running,) = made.front.world.pools[PoolId("demo")].replicas.values()
            made.finish(int(next(iter(running.leases))[-12:]))
            order.append(int(next(iter(running.leases))[-12:]))
        return order

    @pytest.mark.req("OC-CORE-1004", "ORCH-3250")
    def test_the_oldest_batch_task_is_next_after_so_many_interactive_ones(self) -> None:
        made = house(FullPolicy.REJECT, 9, 9, batch_after=3)
        fill(made, 1, 2, interactive=(10, 11))
        assert waiting(made) == [10, 11, 1, 2]
        assert self.run(made, 20, 8) == [10, 11, 20, 1, 21, 22, 23, 2]

    def test_turns_are_counted_only_while_batch_waits(self) -> None:
        made = house(FullPolicy.REJECT, 9, 9, batch_after=2)
        fill(made, interactive=(10,))
        assert self.run(made, 20, 5) == [10, 20, 21, 22, 23]
        fill(made, 1, interactive=(30, 31))
        assert self.run(made, 40, 3) == [24, 30, 1]

    def test_positions_and_predictions_know_the_turns(self) -> None:
        made = house(FullPolicy.REJECT, 9, 9, batch_after=2)
        fill(made, interactive=(10, 11, 12, 13, 14))
        answers = [made.admit(n, priority=BATCH).accepted for n in (1, 2, 3)]
        assert [a.queue_position for a in answers] == [2, 5, 7]
        assert [a.predicted_start_ms for a in answers] == [3000, 6000, 8000]
        assert made.admit(15).accepted.queue_position == 7
        assert made.admit(16, max_tokens=1).accepted.queue_position == 9

    def test_a_batch_task_that_left_gives_its_turn_to_the_next(self) -> None:
        made = house(FullPolicy.REJECT, 9, 9, batch_after=2)
        fill(made, 1, 2, interactive=(10, 11, 12))
        assert self.run(made, 20, 2) == [10, 11]
        made.cancel(1)
        assert waiting(made)[0] == 2
        made.cancel(2)
        assert made.front.world.pools[PoolId("demo")].queue.passed == 0
