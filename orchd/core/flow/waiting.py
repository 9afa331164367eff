"""Into a pool's queue and out of it: everything that is kept of a task because it waits.

That is its place, the timer of its deadline, and the memory that its prompt takes. Who comes and
goes, and why, is decided in incoming.py, runs.py and endings.py.
"""

from __future__ import annotations

from orchd.core.given import wishes
from orchd.core.state.task import Task
from orchd.core.state.world import World


def enter(world: World, task: Task) -> None:
    """Append a task to its class. Raises ValueError when it has no room."""
    pool = world.pools[task.pool_id]
    mask = wishes.mask_of(task.request)
    pool.queue.push(task.task_id, task.request.priority, task.expected, mask)
    _keep(world, task)


def enter_again(world: World, task: Task) -> None:
    """Put a task back that was taken out: it is next of its class, and no bound counts."""
    fifo = world.pools[task.pool_id].queue.classes[task.request.priority]
    fifo.push_head(task.task_id, task.expected, wishes.mask_of(task.request))
    _keep(world, task)


def start(world: World, task: Task) -> None:
    """Take out the task whose turn it is. Raises KeyError."""
    world.pools[task.pool_id].queue.start(task.task_id, task.request.priority)
    _let_go(world, task)


def leave(world: World, task: Task) -> None:
    """Take out a task that will not start. Raises KeyError."""
    world.pools[task.pool_id].queue.remove(task.task_id, task.request.priority)
    _let_go(world, task)


def _keep(world: World, task: Task) -> None:
    world.timers.set(("deadline", task.task_id), task.deadline_at)
    world.queued_bytes += task.content_bytes


def _let_go(world: World, task: Task) -> None:
    world.timers.drop(("deadline", task.task_id))
    world.queued_bytes -= task.content_bytes
