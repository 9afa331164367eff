"""How long a job may run, and how long it may be silent [OC-CORE-1022].

The limits are the configuration's (spec.py). Pure questions about one running task; runs.py sets
the timer and takes the task from its replica. An engine's own silence is watched by its poolmgr
too, with the same limits (poolmgr/edge/jobs.py).
"""

from __future__ import annotations

from orchd.core.given.spec import Watchdog
from orchd.core.state.task import Life, Task
from orchd.wire.errors import Kind, OrchError
from orchd.wire.words import many


def due_at(dog: Watchdog, task: Task) -> float:
    """Return when the running task is to be looked at again: when its first limit passes, if it
    says nothing until then."""
    assert task.dispatched_at is not None
    started = task.life is Life.STREAMING
    silent = task.progress_at + dog.idle_s if started else task.dispatched_at + dog.first_token_s
    ends = [silent, task.dispatched_at + dog.wall_s]
    if dog.enforce_deadline:
        ends.append(task.deadline_at)
    return min(ends)


def look_at(dog: Watchdog, task: Task) -> float:
    """Return when a job that starts now is looked at first: before any of its limits can pass.

    With its first token another limit holds; so that one costs no timer.
    """
    assert task.dispatched_at is not None
    return min(due_at(dog, task), task.dispatched_at + dog.idle_s)


def verdict(dog: Watchdog, task: Task, now: float) -> OrchError | None:
    """Return the error of a running task that has passed a limit, or None."""
    if now < due_at(dog, task):
        return None
    assert task.dispatched_at is not None
    kind = Kind.DECODE_TIMEOUT
    if dog.enforce_deadline and now >= task.deadline_at:
        kind = Kind.DEADLINE_PASSED
        why = f"its deadline of {task.request.deadline_ms} ms passed while it ran"
    elif now >= task.dispatched_at + dog.wall_s:
        why = f"it ran for {dog.wall_s:g} s, the longest that its pool lets a job run"
    elif task.life is Life.STREAMING:
        why = f"no token came for {dog.idle_s:g} s"
    else:
        why = f"no first token came within {dog.first_token_s:g} s"
    return OrchError(
        kind,
        f"{why}; it was stopped after {many(task.tokens_out, 'token')}",
        engine=task.request.engine,
        pool_id=task.pool_id,
    )
