"""How a task ends, when no job does it: errors, retention, and what is forgotten.

Each function changes the world and returns the effects. What a job does is in runs.py.
"""

from __future__ import annotations

from typing import Final

from orchd.core.effects import Break, Effect, Forget
from orchd.core.flow import full, notes, reach, turns, waiting
from orchd.core.flow.admission import place_free_ms
from orchd.core.flow.telling import tell
from orchd.core.state.task import Step, Task
from orchd.core.state.world import World
from orchd.wire.errors import Kind, OrchError

_RETAIN: Final = ("retain", "")


def orphan(world: World, task: Task, now: float) -> list[Effect]:
    """A waiting task's pool serves another model now."""
    waiting.leave(world, task)
    return fail(world, task, Step.ORPHAN, orphaned(world, task), now)


def expire(world: World, task: Task, now: float) -> list[Effect]:
    """A waiting task's deadline passed."""
    pool, priority = world.pools[task.pool_id], task.request.priority
    if task.promise is not None:
        outlook = pool.predict(*reach.of_waiting(pool, task, now), priority, now)
        if outlook is not None:  # what it will not live to see: else only short waits count
            pool.forecast.started(task, task.promise, now + outlook.prediction.start_s)
    waiting.leave(world, task)
    return fail(world, task, Step.EXPIRE, too_late(task), now)


def drop(world: World, task: Task, now: float) -> list[Effect]:
    """A waiting task gives its place to another: its stream is told so [OC-CORE-1002]."""
    pool = world.pools[task.pool_id]
    error = full.dropped(pool, task, place_free_ms(pool, task.request.priority, now))
    world.tally.rejected(task.request.engine, error.kind, error.fields.policy_label)
    waiting.leave(world, task)
    return [*fail(world, task, Step.DROP, error, now), *tell(world, pool, now)]


def fail(world: World, task: Task, step: Step, error: OrchError, now: float) -> list[Effect]:
    """A task broke: its stream ends with the error."""
    task.take(step)
    task.error = error.row.code
    effects: list[Effect] = [Break(task.task_id, error), notes.failed(task, error)]
    return effects + retire(world, task, now)


def retire(world: World, task: Task, now: float) -> list[Effect]:
    """A task is over: keep its figures for a while, not its content."""
    if task.ended_at is None:
        task.ended_at = now
    task.drop_content()
    effects = turns.over(world, task, now)
    world.retained[task.task_id] = now + world.limits.retain_s
    world.retained_tokens += task.kept
    return effects + forget(world, now)


def forget(world: World, now: float) -> list[Effect]:
    """Let go of tasks whose retention is over, or that are too many."""
    effects: list[Effect] = []
    while world.retained:
        task_id, until = next(iter(world.retained.items()))
        if until > now and not _crowded(world):
            if _RETAIN not in world.timers:  # it may come early: then it is set anew
                world.timers.set(_RETAIN, until)
            break
        world.retained_tokens -= world.tasks[task_id].kept
        del world.retained[task_id], world.tasks[task_id]
        effects.append(Forget(task_id))
    return effects


def _crowded(world: World) -> bool:
    """Return whether more is kept of tasks that are over than may be."""
    kept, limits = len(world.retained), world.limits
    return kept > limits.retain_max or (kept > 1 and world.retained_tokens > limits.retain_tokens)


def too_late(task: Task) -> OrchError:
    """Return what a task is told whose deadline passed while it waited."""
    return OrchError(
        Kind.DEADLINE_UNMET,
        f"its deadline of {task.request.deadline_ms} ms passed before it could run",
        engine=task.request.engine,
        pool_id=task.pool_id,
    )


def orphaned(world: World, task: Task) -> OrchError:
    """Return what a task is told whose pool serves another model now."""
    served = world.pools[task.pool_id].spec.model_ref
    return OrchError(
        Kind.POOL_UNAVAILABLE,
        f"pool {task.pool_id} serves {served} now, and the task is for {task.request.model_ref}",
        engine=task.request.engine,
        pool_id=task.pool_id,
    )
