"""A task is canceled, waiting or running: its stream ends now, its slot is free later."""

from __future__ import annotations

from orchd.core.effects import CancelJob, Effect, Finish, Refused, Seal
from orchd.core.events import Cancel
from orchd.core.flow import endings, notes, runs, waiting
from orchd.core.flow.telling import tell
from orchd.core.state.task import Life, Step, Task
from orchd.core.state.world import World
from orchd.wire.errors import OrchError
from orchd.wire.ids import Count
from orchd.wire.shapes import Ended, FinishReason


def cancel(world: World, event: Cancel, now: float) -> list[Effect]:
    """Somebody wants a task to end, waiting or running [ORCH-3026]."""
    try:
        task = world.task(event.task_id)
    except OrchError as error:
        return [Refused(error)]
    before = task.life
    task.take(Step.CANCEL)
    if task.life is before:
        return []  # canceled already, or over: nothing is left to cancel
    task.cancel_reason, task.finish_reason = event.reason, FinishReason.CANCELED
    task.ended_at = now
    effects: list[Effect] = [Seal(task.task_id, event.reason)]
    pool = world.pools[task.pool_id]
    if before is Life.QUEUED:
        waiting.leave(world, task)
    else:
        assert task.replica_id is not None
        assert task.dispatched_at is not None
        runs.count(world, task, event.tokens_out, now)
        task.decode_ms = round((now - task.dispatched_at) * 1000)
        world.timers.drop(("watch", task.task_id))
        effects.append(CancelJob(task.task_id, task.replica_id))
    world.tally.canceled(task)
    effects += [Finish(task.task_id, _end(task)), notes.canceled(task)]
    if before is Life.QUEUED:
        effects += endings.retire(world, task, now)
    # The slot of a running task stays leased until it is freed; its place in line is free now.
    return effects + runs.fill(world, pool, now) + tell(world, pool, now)


def _end(task: Task) -> Ended:
    """Return the data of a canceled task's `end` frame."""
    return Ended(
        tokens_out=Count(task.tokens_out),
        decode_time_ms=Count(task.decode_ms or 0),
        decode_ms=Count(task.decode_ms or 0),
        finish_reason=FinishReason.CANCELED,
    )
