"""What waiting streams are told: their new position and prediction, now and then."""

from __future__ import annotations

from typing import Final

from orchd.core.effects import Effect, Moved
from orchd.core.flow import reach
from orchd.core.queues.fifo import Backlog
from orchd.core.state.pool import Pool
from orchd.core.state.world import World

MOVED_MS: Final = 50  # a prediction that changed by less is not told again


def tell(world: World, pool: Pool, now: float) -> list[Effect]:
    """Tell the first waiting tasks their new position and prediction, if it is time.

    Bounded by Limits.moved_cap positions each Limits.moved_period_s: a pool that ends a thousand
    jobs a second does not write a frame to every waiting stream for each of them.
    """
    if not pool.queue:
        return []
    due_at = (pool.moved_at or 0.0) + world.limits.moved_period_s
    if pool.moved_at is not None and now < due_at:
        world.timers.set(("moved", pool.spec.pool_id), due_at)
        return []
    every = pool.outlook(now)
    if not every:
        return []  # nothing can be said of a pool that is not ready
    pool.moved_at = now
    effects: list[Effect] = []
    depth, tokens = len(pool.queue), 0
    laned = pool.queue.laned
    for position, task_id in enumerate(pool.queue.first(world.limits.moved_cap)):
        task = world.tasks[task_id]
        slots, before = every, Backlog(position, tokens)
        if laned:
            slots, before = reach.of_waiting(pool, task, now)
        outlook = pool.predict(slots, before, task.request.priority, now)
        tokens += task.expected
        if outlook is None:
            continue  # the one replica that it may use is not ready
        said = outlook.prediction
        start_at = now + said.start_s
        if task.told is not None:
            told_position, told_at = task.told
            if told_position == position and abs(told_at - start_at) * 1000 < MOVED_MS:
                continue
        task.told = (position, start_at)
        chance = pool.forecast.on_time(task.request, outlook, slots, task.deadline_at - now)
        moved = Moved(
            task_id=task_id,
            queue_position=position,
            predicted_start_ms=round(said.start_s * 1000),
            predicted_start_p90_ms=round(said.p90_s * 1000),
            queue_depth=depth,
            on_time_probability=round(chance, 3),
        )
        effects.append(moved)
    return effects
