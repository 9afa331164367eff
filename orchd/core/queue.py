"""The waiting tasks of one pool: two bounded FIFOs, their order, the work in them, their turns.

Each enqueued task draws a ticket: a number that grows at the tail, or falls at the head when a task
comes back. An OrderedDict (a linked list) keeps the order, so enqueue, dequeue, cancel and
requeue are O(1). A position is the count of live tickets before one's own. It is read off counts
of blocks of 64, 64**2 and 64**3 tickets: a change adds to one block of each size (O(1)), a lookup
sums at most 63 neighbours per size (O(log n) in base 64) and stays right after cancels.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

from orchd.wire.ids import TaskId
from orchd.wire.shapes import Priority

_BITS = 6
_BLOCK = 1 << _BITS
_SIZES = 4  # single tickets, 64, 4,096 and 262,144 of them


class Backlog(NamedTuple):
    """Work that waits: so many jobs, with so many expected tokens in all."""

    jobs: int
    tokens: int


NOTHING = Backlog(0, 0)


class _Ranks:
    """Live tickets and their tokens, summed by blocks."""

    def __init__(self) -> None:
        self._sizes: tuple[dict[int, Backlog], ...] = tuple({} for _ in range(_SIZES))

    def change(self, ticket: int, jobs: int, tokens: int) -> None:
        key = ticket
        for blocks in self._sizes:
            had = blocks.get(key, NOTHING)
            if had.jobs + jobs:
                blocks[key] = Backlog(had.jobs + jobs, had.tokens + tokens)
            else:
                del blocks[key]
            key >>= _BITS

    def before(self, ticket: int) -> Backlog:
        jobs = tokens = 0
        key = ticket
        for blocks in self._sizes[:-1]:
            for neighbour in range(key & -_BLOCK, key):
                if (found := blocks.get(neighbour)) is not None:
                    jobs += found.jobs
                    tokens += found.tokens
            key >>= _BITS
        for block, found in self._sizes[-1].items():
            if block < key:
                jobs += found.jobs
                tokens += found.tokens
        return Backlog(jobs, tokens)


class Fifo:
    """One class of one pool: first in, first out [ORCH-3004, OC-CORE-1003]."""

    def __init__(self, bound: int) -> None:
        self.bound = bound
        """Tasks that may wait. Only a task that comes back may make it more."""
        self._live: OrderedDict[TaskId, tuple[int, int]] = OrderedDict()
        self._ranks = _Ranks()
        self._tokens = 0
        self._tail = 0
        self._head = -1

    def __len__(self) -> int:
        return len(self._live)

    def __contains__(self, task_id: TaskId) -> bool:
        return task_id in self._live

    def __iter__(self) -> Iterator[TaskId]:
        return iter(self._live)

    def __reversed__(self) -> Iterator[TaskId]:
        return reversed(self._live)

    @property
    def full(self) -> bool:
        """Whether the next task is refused."""
        return len(self._live) >= self.bound

    @property
    def backlog(self) -> Backlog:
        """All of its work."""
        return Backlog(len(self._live), self._tokens)

    def push(self, task_id: TaskId, tokens: int) -> None:
        """Append a task that expects `tokens`. The caller has seen that it is not full."""
        if self.full or task_id in self._live:
            raise ValueError(f"the class is full, or has {task_id} already")
        self._add(task_id, self._tail, tokens)
        self._tail += 1

    def push_head(self, task_id: TaskId, tokens: int) -> None:
        """Put back a task that was taken out: it is next, and the bound does not count."""
        if task_id in self._live:
            raise ValueError(f"the queue has {task_id} already")
        self._add(task_id, self._head, tokens)
        self._live.move_to_end(task_id, last=False)
        self._head -= 1

    def remove(self, task_id: TaskId) -> None:
        """Take a task out, wherever it stands. Raises KeyError."""
        ticket, tokens = self._live.pop(task_id)
        self._ranks.change(ticket, -1, -tokens)
        self._tokens -= tokens

    def before(self, task_id: TaskId) -> Backlog:
        """Return the work of this class before a task. Raises KeyError."""
        return self._ranks.before(self._live[task_id][0])

    def tokens_of(self, task_id: TaskId) -> int:
        """Return what a waiting task expects. Raises KeyError."""
        return self._live[task_id][1]

    def _add(self, task_id: TaskId, ticket: int, tokens: int) -> None:
        self._live[task_id] = (ticket, tokens)
        self._ranks.change(ticket, 1, tokens)
        self._tokens += tokens


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
        return sum(map(len, self.classes.values()))

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

    def push(self, task_id: TaskId, priority: Priority, tokens: int) -> None:
        """Append a task. Raises ValueError when it has no room."""
        if not self.room(priority):
            raise ValueError(f"no room for {task_id}")
        self.classes[priority].push(task_id, tokens)

    def start(self, task_id: TaskId, priority: Priority) -> None:
        """Take out the task that starts. Raises KeyError."""
        self.remove(task_id, priority)
        if priority is Priority.BATCH:
            self.passed = 0
        elif len(self.classes[Priority.BATCH]):
            self.passed += 1

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

    def head(self) -> TaskId | None:
        """Return the task that is next, or None."""
        interactive, batch = self.classes[Priority.INTERACTIVE], self.classes[Priority.BATCH]
        if self.passed >= self.batch_after and len(batch):
            return next(iter(batch))
        return next(iter(interactive), None) or next(iter(batch), None)

    def first(self, count: int) -> list[TaskId]:
        """Return at most `count` tasks in the order in which they will go."""
        return list(islice(self, count))

    def ahead(self, priority: Priority) -> Backlog:
        """Return the work that goes before the first of a class."""
        return self._others(priority, 0)

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
        return _sum(self._others(priority, own.jobs), own)

    def before(self, task_id: TaskId, priority: Priority) -> Backlog:
        """Return the work before a task that waits. Raises KeyError."""
        own = self.classes[priority].before(task_id)
        return _sum(self._others(priority, own.jobs), own)

    def to_overtake(self, jobs: int) -> int:
        """Return how many interactive tasks may yet go before the batch task behind `jobs`. O(1).

        It is the b-th of batch, from 0: it goes after at most (b + 1) * batch_after of them.
        """
        waiting = len(self.classes[Priority.INTERACTIVE])
        turns = (jobs - waiting + 1) * self.batch_after - self.passed
        return max(0, turns - waiting) if jobs >= waiting else 0

    def _others(self, priority: Priority, position: int) -> Backlog:
        """Return the work of the other class before the task at `position` of this one."""
        if priority is Priority.BATCH:
            turns = (position + 1) * self.batch_after - self.passed
            return _part(self.classes[Priority.INTERACTIVE].backlog, turns)
        turns = (self.passed + position) // self.batch_after
        return _part(self.classes[Priority.BATCH].backlog, turns)


def _sum(one: Backlog, other: Backlog) -> Backlog:
    return Backlog(one.jobs + other.jobs, one.tokens + other.tokens)


def _part(backlog: Backlog, jobs: int) -> Backlog:
    """Return the first `jobs` of a class, with their share of its tokens."""
    if jobs >= backlog.jobs:
        return backlog
    return Backlog(jobs, round(backlog.tokens * jobs / backlog.jobs)) if jobs > 0 else NOTHING
