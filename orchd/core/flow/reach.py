"""Which slots a waiting task may get, and which work goes before it there: what prediction counts.

Without required masks that is every slot of the pool and all work before the task. With them it is
per mask (fifo.py has the lanes):

* a task that requires a mask counts the slots of that mask; before it go its own lane, and of the
  work for any mask the share that its slots have among all;
* a task for any mask counts all slots, each with the work that only its mask may do put before it.

Both are exact where only one kind waits, and else off by less than the shared-out work.
"""

from __future__ import annotations

import math

from orchd.core.given import wishes
from orchd.core.learning.predict import Slot
from orchd.core.queues.fifo import NOTHING, Backlog
from orchd.core.state.pool import Pool
from orchd.core.state.task import Task
from orchd.wire.ids import DeviceMask, TaskId
from orchd.wire.shapes import Priority, TaskRequest

Reach = tuple[list[Slot], Backlog]
"""Slots, and the work before the task on them."""


def at_once(pool: Pool, request: TaskRequest, now: float) -> bool:
    """Return whether a slot is free for it and nobody waits: then there is nothing to predict."""
    if len(pool.queue):
        return False
    mask, free = wishes.mask_of(request), pool.free_masks(now)
    return mask in free if mask is not None else bool(free)


def at_tail(pool: Pool, request: TaskRequest, now: float, without: TaskId | None = None) -> Reach:
    """Return the reach of a task that would be enqueued now; `without`: who would leave for it."""
    mask, queue, priority = wishes.mask_of(request), pool.queue, request.priority
    if mask is None and not queue.laned:
        return pool.outlook(now), queue.until_tail(priority, without)
    parts = queue.classes[priority].parts()
    if without is not None and priority is Priority.BATCH:
        leaves = Backlog(-1, -queue.classes[priority].tokens_of(without))
        parts.append((queue.classes[priority].mask_of(without), leaves))
    return _reach(pool, mask, _others(pool, priority, parts) + parts, now)


def of_waiting(pool: Pool, task: Task, now: float) -> Reach:
    """Return the reach of a task that waits. Raises KeyError."""
    request, queue = task.request, pool.queue
    if not queue.laned:
        return pool.outlook(now), queue.before(task.task_id, request.priority)
    own = queue.classes[request.priority].parts(task.task_id)
    return _reach(pool, wishes.mask_of(request), _others(pool, request.priority, own) + own, now)


_Parts = list[tuple[DeviceMask | None, Backlog]]


def _others(pool: Pool, priority: Priority, own: _Parts) -> _Parts:
    """Return the work of the other class that goes before so much of this one."""
    jobs = sum(backlog.jobs for _, backlog in own)
    other = Priority.BATCH if priority is Priority.INTERACTIVE else Priority.INTERACTIVE
    fifo, before = pool.queue.classes[other], pool.queue.others(priority, jobs)
    if not before.jobs:
        return []
    part = before.jobs / len(fifo)
    return [(m, Backlog(round(b.jobs * part), round(b.tokens * part))) for m, b in fifo.parts()]


def _reach(pool: Pool, mask: DeviceMask | None, parts: _Parts, now: float) -> Reach:
    work: dict[DeviceMask | None, Backlog] = {}
    for lane, backlog in parts:
        work[lane] = work.get(lane, NOTHING).plus(backlog)
    anywhere = work.get(None, NOTHING)
    slots: list[Slot] = []
    every = 0
    for replica in pool.servable(now):
        own = replica.slots_outlook(pool.forecast, now)
        every += len(own)
        if mask is None:
            slots += _behind(own, work.get(replica.mask, NOTHING), pool.forecast.scale)
        elif replica.mask == mask:
            slots += own
    if mask is None:
        return slots, anywhere
    share = len(slots) / every if every else 0.0
    shared = Backlog(math.ceil(anywhere.jobs * share), round(anywhere.tokens * share))
    return slots, work.get(mask, NOTHING).plus(shared)


def _behind(slots: list[Slot], before: Backlog, scale: float) -> list[Slot]:
    """Return the slots as they are free after `before`, which is spread evenly over them."""
    if not before.jobs or not slots:
        return slots
    mean = scale * before.tokens / before.jobs
    rounds = before.jobs / len(slots)
    return [s.later(rounds * s.job_s(mean)) for s in slots]
