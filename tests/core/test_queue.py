"""The queues of a pool: order, bounds, and positions that stay right after cancels."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchd.core.queues.fifo import NOTHING, Backlog, Fifo
from orchd.core.queues.queue import PoolQueue
from orchd.wire.ids import DeviceMask, TaskId
from orchd.wire.shapes import Priority
from tests.core.making import uid

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["push", "push", "push", "pop", "remove", "back"]), st.integers(0, 10**6)
    ),
    max_size=400,
)


@pytest.mark.req("ORCH-3004", "OC-CORE-1001", "OC-CORE-1003", "ORCH-3250")
@given(STEPS)
def test_a_fifo_is_a_list(steps: list[tuple[str, int]]) -> None:
    fifo, plain, next_id = Fifo(50), list[tuple[TaskId, int]](), 0
    for what, number in steps:
        if what == "push":
            next_id += 1
            if len(plain) >= 50:
                assert fifo.full
                with pytest.raises(ValueError):
                    fifo.push(uid(next_id), number)
            else:
                fifo.push(uid(next_id), number)
                plain.append((uid(next_id), number))
        elif what == "back":
            next_id += 1
            fifo.push_head(uid(next_id), number)
            plain.insert(0, (uid(next_id), number))
        elif plain:
            task_id, _ = plain.pop(0 if what == "pop" else number % len(plain))
            fifo.remove(task_id)
            assert task_id not in fifo
        assert list(fifo) == [task_id for task_id, _ in plain]
        assert fifo.backlog == (len(plain), sum(tokens for _, tokens in plain))
    for position, (task_id, _) in enumerate(plain):
        assert fifo.before(task_id) == (position, sum(tokens for _, tokens in plain[:position]))


def test_positions_hold_over_many_blocks() -> None:
    fifo = Fifo(20_000)
    for number in range(10_000):
        fifo.push(uid(number), 1)
    for number in range(0, 10_000, 3):
        fifo.remove(uid(number))
    for number in range(10_000, 10_100):
        fifo.push_head(uid(number), 1)
    order = list(fifo)
    for position in (0, 1, 99, 100, 101, 163, 164, 4_000, len(order) - 1):
        assert fifo.before(order[position]) == Backlog(position, position)


def test_nothing_is_left_of_what_was_removed() -> None:
    fifo = Fifo(1000)
    for number in range(1000):
        fifo.push(uid(number), number)
    for number in range(1000):
        fifo.remove(uid(number))
    assert fifo.backlog == NOTHING
    assert not any(fifo._any.ranks._sizes)


def test_a_task_is_in_a_queue_once() -> None:
    fifo = Fifo(3)
    fifo.push(uid(1), 1)
    with pytest.raises(ValueError):
        fifo.push(uid(1), 1)
    with pytest.raises(ValueError):
        fifo.push_head(uid(1), 1)
    with pytest.raises(KeyError):
        fifo.remove(uid(2))


@pytest.mark.req("OC-CORE-1004")
def test_interactive_goes_before_batch_and_each_in_order() -> None:
    queue = PoolQueue(4, 4)
    for number, priority in enumerate((Priority.BATCH, Priority.INTERACTIVE) * 2):
        queue.classes[priority].push(uid(number), 10)
    assert queue.first(10) == [uid(1), uid(3), uid(0), uid(2)]
    assert queue.first(2) == [uid(1), uid(3)]
    assert queue.head([]) == uid(1)
    assert queue.before(uid(2), Priority.BATCH) == (3, 30)
    assert queue.until_tail(Priority.INTERACTIVE) == (2, 20)
    assert queue.until_tail(Priority.BATCH) == (4, 40)
    assert queue.ahead(Priority.INTERACTIVE) == NOTHING
    assert queue.ahead(Priority.BATCH) == (2, 20)


@given(st.integers(0, 30), st.integers(1, 6), st.integers(1, 5), st.integers(0, 10))
def test_what_may_yet_overtake_batch_is_what_overtakes_it_at_worst(
    interactive: int, batch: int, batch_after: int, started: int
) -> None:
    queue = PoolQueue(100, 100, batch_after=batch_after)
    for number in range(batch):
        queue.push(uid(number), Priority.BATCH, 1)
    for number in range(interactive):
        queue.push(uid(100 + number), Priority.INTERACTIVE, 1)
    for _ in range(started):
        if (head := queue.head([])) is not None:
            queue.start(head, Priority.BATCH if int(head[-3:]) < 100 else Priority.INTERACTIVE)
    if not len(queue.classes[Priority.BATCH]):
        return
    last = list(queue.classes[Priority.BATCH])[-1]
    before = queue.before(last, Priority.BATCH).jobs
    most, gone, fresh = queue.to_overtake(before), 0, 500
    while True:  # interactive work never stops coming
        fresh += 1
        queue.push(uid(fresh), Priority.INTERACTIVE, 1)
        head = queue.head([])
        assert head is not None
        if head == last:
            break
        queue.start(head, Priority.BATCH if int(head[-3:]) < 100 else Priority.INTERACTIVE)
        gone += 1
    assert gone == before + most


MASKS = [None, DeviceMask((0,)), DeviceMask((1,))]


@pytest.mark.req("ORCH-3004", "OC-CORE-1003", "OC-CORE-1004", "ORCH-3903", "ORCH-3250")
@given(STEPS, st.lists(st.sampled_from(MASKS), min_size=400, max_size=400))
def test_a_fifo_with_required_masks_is_a_list(
    steps: list[tuple[str, int]], masks: list[DeviceMask | None]
) -> None:
    fifo, plain = Fifo(1000), list[tuple[TaskId, int, DeviceMask | None]]()
    for at, (what, number) in enumerate(steps):
        task = (uid(at), number, masks[at])
        if what == "push":
            fifo.push(*task)
            plain.append(task)
        elif what == "back":
            fifo.push_head(*task)
            plain.insert(0, task)
        elif plain:
            task_id, _, _ = plain.pop(0 if what == "pop" else number % len(plain))
            fifo.remove(task_id)
            assert task_id not in fifo
        assert list(fifo) == [task_id for task_id, _, _ in plain]
        assert fifo.backlog == (len(plain), sum(tokens for _, tokens, _ in plain))
        for free in ([], MASKS[1:2], MASKS[1:]):
            usable = [task_id for task_id, _, mask in plain if mask is None or mask in free]
            assert fifo.head([mask for mask in free if mask]) == next(iter(usable), None)
    assert set(fifo.lanes) == {mask for _, _, mask in plain if mask}
    for position, (task_id, _, _) in enumerate(plain):
        assert fifo.before(task_id) == (position, sum(tokens for _, tokens, _ in plain[:position]))
        for mask, part in fifo.parts(task_id):
            before = [tokens for _, tokens, own in plain[:position] if own == mask]
            assert part == (len(before), sum(before))
