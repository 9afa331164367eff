"""The waiting tasks of one pool: two bounded FIFOs, their order, the work in them, their turns.

A task that requires one device mask waits in a lane of its own within its class, so that a slot
goes to the first task that may use it: the heads of lanes are compared by their tickets.

Each enqueued task draws a ticket: a number that grows at the tail, or falls at the head when a task
comes back. An OrderedDict (a linked list) keeps the order, so enqueue, dequeue, cancel and
requeue are O(1). A position is the count of live tickets before one's own. It is read off counts
of blocks of 64, 64**2 and 64**3 tickets: a change adds to one block of each size (O(1)), a lookup
sums at most 63 neighbours per size (O(log n) in base 64) and stays right after cancels.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Collection, Iterator
from itertools import islice
from typing import NamedTuple

from orchd.wire.ids import DeviceMask, TaskId
from orchd.wire.shapes import Priority

_BITS = 6
_BLOCK = 1 << _BITS
_SIZES = 4  # single tickets, 64, 4,096 and 262,144 of them


class Backlog(NamedTuple):
    """Work that waits: so many jobs, with so many expected tokens in all."""

    jobs: int
    tokens: int

    def plus(self, more: Backlog) -> Backlog:
        """Return both together."""
        return Backlog(self.jobs + more.jobs, self.tokens + more.tokens)


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


class _Lane:
    """The tasks of one class that may use the same replicas, in the order of their tickets."""

    def __init__(self) -> None:
        self.live: OrderedDict[TaskId, tuple[int, int]] = OrderedDict()
        """Ticket and tokens."""
        self.ranks = _Ranks()
        self.tokens = 0

    @property
    def backlog(self) -> Backlog:
        return Backlog(len(self.live), self.tokens)

    def first(self) -> tuple[int, TaskId]:
        """Return ticket and id of the head. The lane is not empty."""
        task_id = next(iter(self.live))
        return self.live[task_id][0], task_id

    def tickets(self) -> Iterator[tuple[int, TaskId]]:
        return ((ticket, task_id) for task_id, (ticket, _) in self.live.items())

    def tickets_back(self) -> Iterator[tuple[int, TaskId]]:
        """From the newest on: who wants one looks at one, however many wait."""
        return ((ticket, task_id) for task_id, (ticket, _) in reversed(self.live.items()))

    def add(self, task_id: TaskId, ticket: int, tokens: int) -> None:
        self.live[task_id] = (ticket, tokens)
        self.ranks.change(ticket, 1, tokens)
        self.tokens += tokens

    def remove(self, task_id: TaskId) -> None:
        ticket, tokens = self.live.pop(task_id)
        self.ranks.change(ticket, -1, -tokens)
        self.tokens -= tokens


class Fifo:
    """One class of one pool: first in, first out [ORCH-3004, OC-CORE-1003]."""

    def __init__(self, bound: int) -> None:
        self.bound = bound
        """Tasks that may wait. Only a task that comes back may make it more."""
        self._any = _Lane()
        """Of tasks that any replica of the pool may run: nearly always all of them."""
        self._masked: dict[DeviceMask, _Lane] = {}
        """Of tasks that require a mask; a lane is gone with its last task."""
        self._mask_of: dict[TaskId, DeviceMask] = {}
        self._tail = 0
        self._head = -1

    def __len__(self) -> int:
        return len(self._any.live) + len(self._mask_of)

    def __contains__(self, task_id: TaskId) -> bool:
        return task_id in self._any.live or task_id in self._mask_of

    def __iter__(self) -> Iterator[TaskId]:
        if not self._masked:
            return iter(self._any.live)
        lanes = (self._any, *self._masked.values())
        return (task_id for _, task_id in heapq.merge(*(lane.tickets() for lane in lanes)))

    def __reversed__(self) -> Iterator[TaskId]:
        if not self._masked:
            return reversed(self._any.live)
        lanes = (lane.tickets_back() for lane in (self._any, *self._masked.values()))
        return (task_id for _, task_id in heapq.merge(*lanes, reverse=True))

    @property
    def full(self) -> bool:
        """Whether the next task is refused."""
        return len(self) >= self.bound

    @property
    def backlog(self) -> Backlog:
        """All of its work."""
        whole = self._any.backlog
        for lane in self._masked.values():
            whole = whole.plus(lane.backlog)
        return whole

    @property
    def lanes(self) -> tuple[DeviceMask, ...]:
        """Return the masks that waiting tasks require."""
        return tuple(self._masked)

    def push(self, task_id: TaskId, tokens: int, mask: DeviceMask | None = None) -> None:
        """Append a task that expects `tokens`. The caller has seen that it is not full."""
        if self.full or task_id in self:
            raise ValueError(f"the class is full, or has {task_id} already")
        self._lane(mask, task_id).add(task_id, self._tail, tokens)
        self._tail += 1

    def push_head(self, task_id: TaskId, tokens: int, mask: DeviceMask | None = None) -> None:
        """Put back a task that was taken out: it is next, and the bound does not count."""
        if task_id in self:
            raise ValueError(f"the queue has {task_id} already")
        lane = self._lane(mask, task_id)
        lane.add(task_id, self._head, tokens)
        lane.live.move_to_end(task_id, last=False)
        self._head -= 1

    def remove(self, task_id: TaskId) -> None:
        """Take a task out, wherever it stands. Raises KeyError."""
        mask = self._mask_of.pop(task_id, None)
        if mask is None:
            self._any.remove(task_id)
            return
        lane = self._masked[mask]
        lane.remove(task_id)
        if not lane.live:
            del self._masked[mask]

    def before(self, task_id: TaskId) -> Backlog:
        """Return the work of this class before a task. Raises KeyError."""
        if not self._masked:
            return self._any.ranks.before(self._any.live[task_id][0])
        whole = NOTHING
        for _, part in self.parts(task_id):
            whole = whole.plus(part)
        return whole

    def parts(self, task_id: TaskId | None = None) -> list[tuple[DeviceMask | None, Backlog]]:
        """Return the work before a task, or all of it, by the mask that it requires.

        Raises KeyError.
        """
        lanes = [(None, self._any), *self._masked.items()]
        if task_id is None:
            return [(mask, lane.backlog) for mask, lane in lanes]
        ticket = self._found(task_id)[0]
        return [(mask, lane.ranks.before(ticket)) for mask, lane in lanes]

    def mask_of(self, task_id: TaskId) -> DeviceMask | None:
        """Return the mask that a waiting task requires."""
        return self._mask_of.get(task_id)

    def tokens_of(self, task_id: TaskId) -> int:
        """Return what a waiting task expects. Raises KeyError."""
        return self._found(task_id)[1]

    def head(self, free: Collection[DeviceMask]) -> TaskId | None:
        """Return the first task that a replica on one of these masks may run, or None."""
        if not self._masked:
            return next(iter(self._any.live), None)
        lanes = [self._masked[mask] for mask in self._masked.keys() & set(free)]
        if self._any.live:
            lanes.append(self._any)
        return min((lane.first() for lane in lanes), default=(0, None))[1]

    def _found(self, task_id: TaskId) -> tuple[int, int]:
        mask = self._mask_of.get(task_id)
        lane = self._any if mask is None else self._masked[mask]
        return lane.live[task_id]

    def _lane(self, mask: DeviceMask | None, task_id: TaskId) -> _Lane:
        if mask is None:
            return self._any
        self._mask_of[task_id] = mask
        return self._masked.setdefault(mask, _Lane())


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
