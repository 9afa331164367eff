"""What time does to tasks, deadlines and staleness, and how the queue is told that it moved."""

import pytest

from orchd.core.effects import Break, Effect, Forget, Moved, WakeAt
from orchd.wire.errors import Kind
from orchd.wire.shapes import Priority, TaskState
from orchd.wire.snapshot import FRESH_S
from tests.core.making import (
    House,
    acts,
    dispatched,
    of,
    only,
    pool,
    snapshot,
    uid,
)

INTERACTIVE, BATCH = Priority.INTERACTIVE, Priority.BATCH


class TestTime:
    """Deadlines, retention, and the alarm clock."""

    def test_a_deadline_that_passes_in_the_queue(self, house: House) -> None:
        house.admit(1)
        house.admit(2, deadline_ms=2000)
        assert not of(house.wait(1.9), Break)
        effects = house.wait(0.1)
        assert only(effects, Break).error.kind is Kind.DEADLINE_UNMET
        assert house.front.task_status(uid(2), house.now).state is TaskState.FAILED

    def test_what_is_due_comes_before_the_event(self, house: House) -> None:
        house.admit(1)
        house.admit(2, deadline_ms=2000)
        house.now += 3
        effects = house.finish(1)
        assert not dispatched(effects)
        assert only(effects, Break).task_id == uid(2)

    def test_a_canceled_task_has_no_deadline_left(self, house: House) -> None:
        house.admit(1)
        house.admit(2, deadline_ms=1000)
        house.cancel(2)
        assert not of(house.wait(2), Break)

    def test_it_wakes_for_the_earliest_and_asks_once(self) -> None:
        house = House.of(retain_s=600)
        assert only(house.see(), WakeAt).when == house.now + FRESH_S
        house.admit(1)
        assert only(house.submit(2, deadline_ms=2000), WakeAt).when == house.now + 2
        assert not of(house.submit(3, deadline_ms=3000), WakeAt)
        assert only(house.wait(2), WakeAt).when > house.now

    def test_ended_tasks_are_forgotten_after_a_while(self) -> None:
        house = House.of(retain_s=10)
        house.see()
        house.admit(1)
        house.finish(1)
        house.wait(5)
        house.see()
        house.admit(2)
        house.cancel(2)
        house.free(2)
        assert acts(house.wait(5)) == [Forget(uid(1))]
        assert acts(house.wait(5)) == [Forget(uid(2))]
        assert not house.front.world.tasks
        house.see()
        assert house.admit(1).fresh  # its id is free again

    def test_and_when_they_are_too_many(self) -> None:
        house = House.of(retain_max=2)
        house.see()
        forgotten: list[Effect] = []
        for number in range(5):
            house.admit(number)
            forgotten += of(house.finish(number), Forget)
        assert forgotten == [Forget(uid(n)) for n in range(3)]

    def test_and_when_their_tokens_are_too_many(self) -> None:
        house = House.of(retain_tokens=100)
        house.see()
        forgotten: list[Effect] = []
        for number, tokens in enumerate((60, 40, 1, 500, 5)):
            house.admit(number)
            forgotten = of(house.finish(number, tokens), Forget)
            told = {0: [], 1: [], 2: [0], 3: [1, 2], 4: [3]}[number]
            assert forgotten == [Forget(uid(n)) for n in told]

    def test_an_ended_task_keeps_no_content(self, house: House) -> None:
        house.admit(1)
        house.finish(1)
        assert house.front.world.tasks[uid(1)].request.prompt is None


class TestMoved:
    """Waiting streams are told when their numbers change: bounded."""

    def test_the_first_positions_are_told_and_no_more(self) -> None:
        house = House.of(pool(queue_interactive=200), moved_cap=5)
        house.see()
        for number in range(100):
            house.admit(number, deadline_ms=200_000)
        house.now += 1.0
        moved = of(house.finish(0, 100), Moved)  # as foreseen: nothing new is learned
        assert [(m.task_id, m.queue_position) for m in moved] == [(uid(2 + i), i) for i in range(5)]
        assert [m.queue_depth for m in moved] == [98] * 5
        assert [m.predicted_start_ms for m in moved] == [1000 * (i + 1) for i in range(5)]

    def test_not_more_often_than_the_period_but_then_for_sure(self) -> None:
        house = House.of(pool(queue_interactive=50), moved_period_s=0.25)
        house.see()
        for number in range(10):
            house.admit(number)
        assert of(house.finish(0), Moved)
        house.now += 0.1
        effects = house.finish(1)
        assert not of(effects, Moved)
        assert only(effects, WakeAt).when == pytest.approx(house.now + 0.15)
        moved = of(house.wait(0.15), Moved)
        assert [m.queue_position for m in moved] == list(range(7))

    def test_a_new_position_is_told_even_when_the_start_stays(self) -> None:
        house = House.of(pool(replicas=2))
        house.see(snapshot("demo:0"), snapshot("demo:1"))
        for number in (1, 2, 3, 4):
            house.admit(number)
        moved = only(house.cancel(3), Moved)
        assert (moved.queue_position, moved.predicted_start_ms) == (0, 1000)

    def test_what_did_not_change_is_not_told(self, house: House) -> None:
        house.admit(1)
        house.admit(2)
        house.now += 0.5
        house.progress(1, 50)  # as predicted, nothing moved
        assert not of(house.see(snapshot(seq=2)), Moved)
        house.see(snapshot(seq=3, tokens_per_s=10.0))
        assert only(house.wait(0.25), Moved).predicted_start_ms == 4750
