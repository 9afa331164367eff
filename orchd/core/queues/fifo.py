"""One class of tasks that wait in a pool: first in, first out, with the work before each of them.

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
from typing import NamedTuple

from orchd.wire.ids import DeviceMask, TaskId

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

    def __bool__(self) -> bool:
        return bool(self._any.live or self._mask_of)

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
