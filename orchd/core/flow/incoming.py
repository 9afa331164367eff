"""How a task comes in: one answer for each Submit, and the task in its queue or on its slot.

Whether it is let in, and where, is decided in gates.py, admission.py and turns.py; here they are
asked, in this order, and what they say is done.
"""

from __future__ import annotations

from attrs import evolve

from orchd.core.effects import Accepted, Effect, Refused
from orchd.core.events import Submit
from orchd.core.flow import admission, endings, gates, notes, runs, shedding, turns, waiting
from orchd.core.state.sessions import Turn
from orchd.core.state.task import Task
from orchd.core.state.world import World
from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import Count
from orchd.wire.shapes import Started, TaskAccepted


def submit(world: World, event: Submit, now: float) -> list[Effect]:
    """Admit a task or refuse it. Among the effects is one Accepted or one Refused."""
    request = event.request
    known = world.tasks.get(request.task_id)
    looked: list[Effect] = []
    try:
        if known is not None:
            return [_repeat(known, event)]
        request = gates.passed(world, request, event.identity, event.prompt_tokens, now)
        looked = shedding.look(world, request, now)
        admitted = admission.admit(world, request, event.prompt_tokens, now, event.longest)
        turn = turns.let_in(world, request, admitted.pool, event.prompt_tokens, now)
        # a task that is refused takes nothing
        world.throttle.take(event.identity, request, event.prompt_tokens, now)
    except OrchError as error:
        if error.kind is Kind.SESSION_OVER:
            turns.end(world, request.session_id)
        engine = request.engine if request.engine in world.engines else "other"
        world.tally.rejected(engine, error.kind, error.fields.policy_label)
        world.tally.undecided(request, error.kind)
        note = notes.rejected(request, event.correlation_id, event.identity, error)
        return [*looked, Refused(error), note]
    if request is not event.request:
        event = evolve(event, request=request)
    return looked + _enqueue(world, event, admitted, turn, now)


def _enqueue(
    world: World, event: Submit, admitted: admission.Admission, turn: Turn, now: float
) -> list[Effect]:
    pool, request = admitted.pool, event.request
    turns.begin(world, turn)  # first: its session does not make room for the victim's
    dropped: list[Effect] = []
    if admitted.victim is not None:
        dropped = endings.drop(world, world.tasks[admitted.victim], now)
    at_once = admitted.decision.selected is not None
    position = 0 if at_once else pool.queue.until_tail(request.priority).jobs
    said = admitted.outlook.prediction
    world.admitted += 1
    if not pool.spec.slo.off:
        pool.breaker.admitted(now)
    task = Task(
        number=world.admitted,
        request=request,
        digest=event.digest,
        correlation_id=event.correlation_id,
        pool_id=pool.spec.pool_id,
        turn=turn,
        admitted_at=now,
        promise=admitted.outlook.promise(now),
        told=(position, now + said.start_s),
        decision=admitted.decision.log,
    )
    task.expected = pool.forecast.weigh(request)
    pool.forecast.admitted(task, now)
    world.tasks[task.task_id] = task
    world.tally.enqueued(task, pool.engine_version)
    if task.decision is not None and task.decision.selected is not None and not pool.queue:
        # nobody is before it, and admission gave it this slot: fill() would do the same
        starts = runs.start(world, pool, task, task.decision.selected, now)
    else:
        waiting.enter(world, task)
        starts = runs.fill(world, pool, now)
    start_ms = round(said.start_s * 1000)
    accepted = TaskAccepted(
        task_id=task.task_id,
        queue_position=Count(position),
        predicted_start_ms=Count(start_ms),
        predicted_start_p90_ms=Count(round(said.p90_s * 1000)),
        backoff_ms=Count(admission.backoff_ms(pool, request.priority, now)),
        pool_id=pool.spec.pool_id,
        stream_url=f"/v1/tasks/{task.task_id}/stream",
    )
    started = Started(
        queue_position=Count(position),
        predicted_start_ms=Count(start_ms),
        correlation_id=event.correlation_id,
        pool_id=pool.spec.pool_id,
        replica_id=task.replica_id,
        engine_version=task.engine_version or pool.engine_version or None,
        kv_warmth=task.kv_warm,
        tokens_used=Count(turn.session.account.used.tokens),
        tokens_remaining=turns.count(turns.left(task).tokens),
    )
    task.answer = Accepted(task.task_id, accepted, started, True, turns.left(task))
    note = notes.admitted(task, position, start_ms, event.identity)
    return [*dropped, task.answer, note, *starts]


def _repeat(known: Task, event: Submit) -> Accepted:
    """Answer a task id that is known already. Raises OrchError(TASK_ID_REUSED)."""
    if known.digest != event.digest:
        raise OrchError(
            Kind.TASK_ID_REUSED, f"task {known.task_id} is known already, with another body"
        )
    assert known.answer is not None
    return evolve(known.answer, fresh=False)
