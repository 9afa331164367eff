"""The waiting tasks of one pool: two bounded FIFOs, with their order and the work in them.

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
            raise ValueError(f"the queue is full, or has {task_id} already")
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
    """Both classes of one pool; interactive goes first [OC-CORE-1004]."""

    def __init__(self, interactive: int, batch: int) -> None:
        self.classes = {Priority.INTERACTIVE: Fifo(interactive), Priority.BATCH: Fifo(batch)}

    def __len__(self) -> int:
        return sum(map(len, self.classes.values()))

    def __iter__(self) -> Iterator[TaskId]:
        for fifo in self.classes.values():
            yield from fifo

    def head(self) -> TaskId | None:
        """Return the task that is next, or None."""
        return next(iter(self), None)

    def first(self, count: int) -> list[TaskId]:
        """Return at most `count` tasks in the order in which they will go."""
        return list(islice(self, count))

    def ahead(self, priority: Priority) -> Backlog:
        """Return the work that goes before the whole of a class."""
        if priority is Priority.INTERACTIVE:
            return NOTHING
        return self.classes[Priority.INTERACTIVE].backlog

    def until_tail(self, priority: Priority) -> Backlog:
        """Return the work before a task that would be enqueued now. O(1)."""
        ahead, own = self.ahead(priority), self.classes[priority].backlog
        return Backlog(ahead.jobs + own.jobs, ahead.tokens + own.tokens)

    def before(self, task_id: TaskId, priority: Priority) -> Backlog:
        """Return the work before a task that waits. Raises KeyError."""
        ahead, own = self.ahead(priority), self.classes[priority].before(task_id)
        return Backlog(ahead.jobs + own.jobs, ahead.tokens + own.tokens)
