"""The waiting tasks of one pool: its two classes, who is next, and the work before each.

What one class is, is fifo.py's; who may wait is admission.py's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import islice

from orchd.core.queues.fifo import NOTHING, Backlog, Fifo
from orchd.wire.ids import DeviceMask, TaskId
from orchd.wire.shapes import Priority


class PoolQueue:
    """Both classes of one pool.

    Interactive goes first [OC-CORE-1004], but after `batch_after` of its starts while batch waits
    the oldest batch task is next: batch never starves. The answers on order are exact in jobs; the
    tokens of a part of a class are its share of the class's sum, as prediction takes means anyhow.
    """

    def __init__(
        self, interactive: int, batch: int, *, shared: bool = False, batch_after: int = 16
    ) -> None:
        self.places = interactive + batch
        """Tasks that may wait in all."""
        self.shared = shared
        """Interactive may take every place, batch its own ones while they are free."""
        self.batch_after = batch_after
        self.passed = 0
        """Interactive starts since the last batch start, while batch waited."""
        self.classes = {
            Priority.INTERACTIVE: Fifo(self.places if shared else interactive),
            Priority.BATCH: Fifo(batch),
        }

    def __len__(self) -> int:
        return len(self.classes[Priority.INTERACTIVE]) + len(self.classes[Priority.BATCH])

    def __bool__(self) -> bool:
        return bool(self.classes[Priority.INTERACTIVE] or self.classes[Priority.BATCH])

    def __iter__(self) -> Iterator[TaskId]:
        """All tasks, in the order in which they will go if no other comes."""
        batch = iter(self.classes[Priority.BATCH])
        passed, next_batch = self.passed, next(batch, None)
        for task_id in self.classes[Priority.INTERACTIVE]:
            if next_batch is not None and passed >= self.batch_after:
                yield next_batch
                passed, next_batch = 0, next(batch, None)
            yield task_id
            passed += 1
        if next_batch is not None:
            yield next_batch
            yield from batch

    def push(
        self, task_id: TaskId, priority: Priority, tokens: int, mask: DeviceMask | None = None
    ) -> None:
        """Append a task, which may require a mask. Raises ValueError when it has no room."""
        if not self.room(priority):
            raise ValueError(f"no room for {task_id}")
        self.classes[priority].push(task_id, tokens, mask)

    def start(self, task_id: TaskId, priority: Priority) -> None:
        """Take out the task that starts. Raises KeyError."""
        self.remove(task_id, priority)
        if priority is Priority.BATCH:
            self.passed = 0
        elif len(self.classes[Priority.BATCH]):
            # where its turn has come, only a slot that it may not use passes it once more
            self.passed = min(self.passed + 1, self.batch_after)

    def remove(self, task_id: TaskId, priority: Priority) -> None:
        """Take out a task that does not start. Raises KeyError."""
        self.classes[priority].remove(task_id)
        if not len(self.classes[Priority.BATCH]):
            self.passed = 0

    def room(self, priority: Priority, gone: int = 0) -> bool:
        """Return whether one more of this class may wait, were `gone` batch tasks gone."""
        fifo = self.classes[priority]
        if len(fifo) - (gone if priority is Priority.BATCH else 0) >= fifo.bound:
            return False
        return not self.shared or len(self) - gone < self.places

    @property
    def laned(self) -> bool:
        """Whether a waiting task requires a mask."""
        return any(fifo.lanes for fifo in self.classes.values())

    def head(self, free: Collection[DeviceMask]) -> TaskId | None:
        """Return the task that is next for a slot on one of these masks, or None."""
        interactive, batch = self.classes[Priority.INTERACTIVE], self.classes[Priority.BATCH]
        turn = batch.head(free) if self.passed >= self.batch_after else None
        return turn or interactive.head(free) or batch.head(free)

    def first(self, count: int) -> list[TaskId]:
        """Return at most `count` tasks in the order in which they will go."""
        return list(islice(self, count))

    def ahead(self, priority: Priority) -> Backlog:
        """Return the work that goes before the first of a class."""
        return self.others(priority, 0)

    def until_place(self, priority: Priority) -> Backlog:
        """Return the work that starts before a class that has no room has room again."""
        if self.shared and not (priority is Priority.BATCH and self.classes[priority].full):
            return NOTHING  # every start makes a place
        return self.ahead(priority)

    def until_tail(self, priority: Priority, without: TaskId | None = None) -> Backlog:
        """Return the work before a task that would be enqueued now. O(1).

        `without`: a batch task that would make room for it.
        """
        own = self.classes[priority].backlog
        if without is not None and priority is Priority.BATCH:
            own = Backlog(own.jobs - 1, own.tokens - self.classes[priority].tokens_of(without))
        return self.others(priority, own.jobs).plus(own)

    def before(self, task_id: TaskId, priority: Priority) -> Backlog:
        """Return the work before a task that waits. Raises KeyError."""
        own = self.classes[priority].before(task_id)
        return self.others(priority, own.jobs).plus(own)

    def to_overtake(self, jobs: int) -> int:
        """Return how many interactive tasks may yet go before the batch task behind `jobs`. O(1).

        It is the b-th of batch, from 0: it goes after at most (b + 1) * batch_after of them.
        """
        waiting = len(self.classes[Priority.INTERACTIVE])
        turns = (jobs - waiting + 1) * self.batch_after - self.passed
        return max(0, turns - waiting) if jobs >= waiting else 0

    def others(self, priority: Priority, position: int) -> Backlog:
        """Return the work of the other class before the task at `position` of this one."""
        if priority is Priority.BATCH:
            turns = (position + 1) * self.batch_after - self.passed
            return _part(self.classes[Priority.INTERACTIVE].backlog, turns)
        turns = (self.passed + position) // self.batch_after
        return _part(self.classes[Priority.BATCH].backlog, turns)


def _part(backlog: Backlog, jobs: int) -> Backlog:
    """Return the first `jobs` of a class, with their share of its tokens."""
    if jobs >= backlog.jobs:
        return backlog
    return Backlog(jobs, round(backlog.tokens * jobs / backlog.jobs)) if jobs > 0 else NOTHING
