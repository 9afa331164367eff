"""Who is refused while a pool is too slow, and in what words [ORCH-3040].

Whether it is too slow is slo.py's. Batch is refused, and whoever would have to wait; an interactive
task that finds a free slot comes in.
"""

from __future__ import annotations

import math
from itertools import islice

from orchd.core.effects import Effect
from orchd.core.flow import notes, reach
from orchd.core.state.pool import Pool
from orchd.core.state.slo import LEAST, State
from orchd.core.state.world import World
from orchd.wire.control import SloHealth
from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import Count, Positive
from orchd.wire.policy import FullPolicy
from orchd.wire.shapes import Priority, TaskRequest


def sheds(pool: Pool, request: TaskRequest, now: float) -> bool:
    """Whether the pool refuses this task because it is too slow. Changes nothing."""
    if pool.spec.slo.off or pool.breaker.admits(now):
        return False
    return request.priority is Priority.BATCH or not reach.at_once(pool, request, now)


def refusal(pool: Pool, request: TaskRequest, now: float) -> OrchError:
    """Return the 429 of a task that is shed."""
    spec, wait_ms = pool.spec, retry_after_ms(pool, now)
    batch = request.priority is Priority.BATCH
    return OrchError(
        Kind.SLO_BREACHED,
        f"pool {spec.pool_id} sheds load: most first tokens came later than the "
        f"{spec.slo.first_token_s * 1000:.0f} ms of its SLO; in about {wait_ms} ms it tries again",
        engine=spec.engine,
        pool_id=spec.pool_id,
        retry_after_ms=wait_ms,
        policy_label=FullPolicy.SHED_LOW_PRIORITY if batch else FullPolicy.REJECT,
    )


def retry_after_ms(pool: Pool, now: float) -> int:
    """Return when it is worth asking again, in ms, at least 1."""
    return max(1, math.ceil(pool.breaker.wait_s(now) * 1000))


def look(world: World, request: TaskRequest, now: float) -> list[Effect]:
    """A task asks to be let in: see whether those that wait have waited for too long already."""
    effects: list[Effect] = []
    for pool in world.serving.get((request.engine, request.model_ref), ()):
        slo = pool.spec.slo
        if slo.off:
            continue
        limit = now - slo.first_token_s
        heads = [
            world.tasks[one] for fifo in pool.queue.classes.values() for one in islice(fifo, LEAST)
        ]
        overdue = sum(task.admitted_at < limit for task in heads)
        effects += _noted(pool, pool.breaker.look(overdue, now), now)
    return effects


def first_token(pool: Pool, admitted_at: float, now: float) -> list[Effect]:
    """A task's first token came."""
    if pool.spec.slo.off:
        return []
    return _noted(pool, pool.breaker.first_token(admitted_at, now), now)


def _noted(pool: Pool, state: State | None, now: float) -> list[Effect]:
    if state is None:
        return []
    return [notes.shedding(pool, state, pool.breaker.late_share(now))]


def health(pool: Pool, now: float) -> SloHealth | None:
    """Return what the pool's health says of it; None: it promises nothing."""
    slo, breaker = pool.spec.slo, pool.breaker
    if slo.off:
        return None
    state = breaker.state(now)
    return SloHealth(
        first_token_ms=Positive(round(slo.first_token_s * 1000)),
        state=state.value,
        late_share=breaker.late_share(now),
        opened=Count(breaker.opened),
        retry_after_ms=None if state is State.CLOSED else Count(retry_after_ms(pool, now)),
    )
