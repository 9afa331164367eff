"""From the head of a queue to the end of a job: dispatch, progress, end, failure, requeue.

Each function changes the world and returns the effects. Which one an event calls is front.py's;
whether a task is let in is admission.py's.
"""

from __future__ import annotations

from typing import Final

from orchd.core import asking, full, notes, reach, turns, waiting, watchdog
from orchd.core.admission import place_free_ms
from orchd.core.events import (
    Break,
    CancelJob,
    Dispatch,
    Effect,
    Finish,
    Forget,
    Histogram,
    Moved,
    Observe,
)
from orchd.core.pool import Pool, Replica
from orchd.core.queue import Backlog
from orchd.core.task import LEAVING, Life, Step, Task
from orchd.core.world import World
from orchd.wire import link
from orchd.wire.errors import TABLE, Kind, OrchError
from orchd.wire.ids import Count, DeviceMask, ReplicaId
from orchd.wire.results import Ready
from orchd.wire.shapes import DecisionLog, Ended, FinishReason

TURNED_AWAY: Final = frozenset({Kind.REPLICA_EXHAUSTED, Kind.DRAINING, Kind.POOL_UNREADY})
"""FAILs of a job that never began: it waits again, and the replica is asked no more until its next
snapshot. Leases and snapshots make them rare: an OPEN that crosses a STATE, a poolmgr that still
clears the jobs of an earlier orchd."""
ENGINE_LOST: Final = frozenset({Kind.ENGINE_DIED, Kind.ENGINE_UNHEALTHY})

MOVED_MS: Final = 50  # a prediction that changed by less is not told again


# what happens to a pool


def fill(world: World, pool: Pool, now: float) -> list[Effect]:
    """Start waiting tasks in order, while a slot is free on a replica that can take them.

    A slot goes to the first task that may use its mask. Else the order is strict: a head that fits
    no free replica holds back those behind it [OC-CORE-1004].
    """
    effects: list[Effect] = []
    while len(pool.queue) and (free := pool.free_masks(now)):
        head = pool.queue.head(free)
        if head is None:
            break
        task = world.tasks[head]
        log = _chosen(world, pool, task, free) or _decided(world, pool, task, now)
        if log.selected is None:
            break
        task.decision = log
        effects += _start(world, pool, task, log.selected, now)
    return effects


def _chosen(world: World, pool: Pool, task: Task, free: list[DeviceMask]) -> DecisionLog | None:
    """Return admission's decision if it gave the task a slot and nothing has changed since.

    It would be decided so again [ORCH-3410], and admission's log is about all pools.
    """
    log = task.decision
    if log is None or log.selected is None or log.snapshot_version != world.version.number:
        return None
    return log if pool.replicas[log.selected].mask in free else None


def _decided(world: World, pool: Pool, task: Task, now: float) -> DecisionLog:
    question = asking.question(world, task.request, now, may_wait=False)
    return world.decisions.for_slot(pool, question, now).log


def tell(world: World, pool: Pool, now: float) -> list[Effect]:
    """Tell the first waiting tasks their new position and prediction, if it is time.

    Bounded by Limits.moved_cap positions each Limits.moved_period_s: a pool that ends a thousand
    jobs a second does not write a frame to every waiting stream for each of them.
    """
    if not len(pool.queue):
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


# what happens to a task


def _start(world: World, pool: Pool, task: Task, replica_id: ReplicaId, now: float) -> list[Effect]:
    replica = pool.replicas[replica_id]
    assert replica.snapshot is not None
    task.kv_warm = asking.is_warm(world, task.request, replica_id, now)
    replica.lease(task)
    task.take(Step.DISPATCH)
    waiting.start(world, task)
    task.replica_id = replica_id
    task.engine_version = replica.snapshot.engine_version
    task.attempts += 1
    task.dispatched_at = task.progress_at = now
    task.turn.starts = replica.starts
    world.timers.set(("watch", task.task_id), watchdog.due_at(pool.spec.watchdog, task))
    world.tally.started(task)
    world.tally.decided(task.decision)
    effects: list[Effect] = [
        Dispatch(task.task_id, replica_id, task.request, task.correlation_id),
        notes.placed(task),
    ]
    if (promise := task.promise) is not None:
        error_ms = (now - promise.start_at) * 1000
        effects.append(_observe(task, "predicted_start_error_ms", error_ms))
        world.tally.waited(task, pool.engine_version, in_time=now <= promise.p90_at)
        pool.forecast.started(task, promise, now)
        task.promise = None  # a second start is not what was promised
    return effects


def progress(world: World, task: Task, tokens_out: int, now: float) -> list[Effect]:
    """Count tokens; the first one fixes the task to its replica."""
    if not tokens_out:
        return []
    first = task.life is Life.STARTING
    task.take(Step.TOKEN)
    count(world, task, tokens_out, now)
    if not first:
        return []
    dog = world.pools[task.pool_id].spec.watchdog
    world.timers.set(("watch", task.task_id), watchdog.due_at(dog, task))
    return _first_token(task, now)


def _first_token(task: Task, at: float) -> list[Effect]:
    task.first_token_at = at
    ms = (at - task.admitted_at) * 1000
    return [_observe(task, "latency_first_token_ms", ms), notes.started(task, round(ms))]


def count(world: World, task: Task, tokens_out: int, now: float) -> None:
    """Take in how many tokens the job has put out in all."""
    if tokens_out > task.tokens_out:
        world.tally.tokens(task, tokens_out=tokens_out - task.tokens_out)
        task.tokens_out = tokens_out
    task.progress_at = now


def end(world: World, task: Task, said: link.End, result: Ready | None, now: float) -> list[Effect]:
    """The job ran to its end; its slot is free."""
    if task.life in LEAVING:  # END and CANCEL crossed on the link: it stays canceled
        return freed(world, task, said.tokens_out, now)
    assert task.dispatched_at is not None
    effects: list[Effect] = []
    if task.first_token_at is None and said.first_token_ms is not None:
        effects += _first_token(task, task.dispatched_at + said.first_token_ms / 1000)
    _release(world, task)
    task.take(Step.END)
    count(world, task, said.tokens_out, now)
    world.pools[task.pool_id].forecast.over(task)
    world.tally.tokens(task, tokens_in=said.tokens_in)
    task.tokens_in, task.decode_ms = said.tokens_in, said.decode_ms
    task.finish_reason = said.finish_reason
    task.result_bytes = len(result.json) if result is not None else 0
    assert task.replica_id is not None
    world.affinity.served(task.request.session_id, task.replica_id, now)
    ended = Ended(
        tokens_out=said.tokens_out,
        decode_time_ms=said.decode_ms,
        decode_ms=said.decode_ms,
        finish_reason=said.finish_reason,
        tokens_in=said.tokens_in,
        result=result,
    )
    effects += [
        Finish(task.task_id, ended),
        _observe(task, "latency_decode_ms", said.decode_ms),
        notes.ended(task),
    ]
    return effects + retire(world, task, now)


def freed(world: World, task: Task, tokens_out: int, now: float) -> list[Effect]:
    """The slot of a canceled or stopped task is free."""
    if task.life not in LEAVING:
        said = link.Fail(kind=Kind.WORKER_RESET, message="the pool let go of the job by itself")
        return fail(world, task, said, now)
    _release(world, task)
    stopped = task.life is Life.STOPPING
    task.take(Step.FREE)
    count(world, task, tokens_out, now)
    world.pools[task.pool_id].forecast.over(task, stopped=stopped)
    return retire(world, task, now)


def fail(world: World, task: Task, said: link.Fail, now: float) -> list[Effect]:
    """The job broke; its slot is free."""
    if task.life in LEAVING:
        return freed(world, task, said.tokens_out, now)
    replica = _release(world, task)
    never_began = task.life is Life.STARTING and not said.tokens_out
    if never_began and said.kind in TURNED_AWAY:
        replica.refusing = True
        task.attempts -= 1
        return _requeue(
            world, task, replica, f"{replica.replica_id} refused it: {said.message}", now
        )
    if never_began and said.kind in ENGINE_LOST:
        replica.refusing = True
        return _requeue(world, task, replica, f"its engine broke: {said.message}", now)
    count(world, task, said.tokens_out, now)
    return _break(world, task, Step.FAIL, _for_client(said, task), now)


def lost(world: World, replica: Replica, now: float) -> list[Effect]:
    """None of this replica's jobs will be heard of again."""
    effects: list[Effect] = []
    # Each goes to the head, so the latest goes first and the order of dispatch is kept.
    for task in reversed(list(replica.leases.values())):
        if task.life in LEAVING:
            effects += freed(world, task, task.tokens_out, now)
            continue
        _release(world, task)
        if task.life is Life.STARTING:
            why = f"its replica {replica.replica_id} was lost before a token"
            effects += _requeue(world, task, replica, why, now)
        else:
            said = link.Fail(
                kind=Kind.WORKER_RESET, message=f"its replica {replica.replica_id} was lost"
            )
            effects += _break(world, task, Step.FAIL, _for_client(said, task), now)
    return effects


def orphan(world: World, task: Task, now: float) -> list[Effect]:
    """A waiting task's pool serves another model now."""
    waiting.leave(world, task)
    return _break(world, task, Step.ORPHAN, _orphaned(world, task), now)


def expire(world: World, task: Task, now: float) -> list[Effect]:
    """A waiting task's deadline passed."""
    pool, priority = world.pools[task.pool_id], task.request.priority
    if task.promise is not None:
        outlook = pool.predict(*reach.of_waiting(pool, task, now), priority, now)
        if outlook is not None:  # what it will not live to see: else only short waits count
            pool.forecast.started(task, task.promise, now + outlook.prediction.start_s)
    waiting.leave(world, task)
    return _break(world, task, Step.EXPIRE, _too_late(task), now)


def watch(world: World, task: Task, now: float) -> list[Effect]:
    """Look at a running task: set its timer anew, or stop it [OC-CORE-1022].

    So a token costs no timer: a job is looked at once in each of its limits.
    """
    dog = world.pools[task.pool_id].spec.watchdog
    error = watchdog.verdict(dog, task, now)
    if error is None:
        world.timers.set(("watch", task.task_id), watchdog.due_at(dog, task))
        return []
    assert task.replica_id is not None
    assert task.dispatched_at is not None
    task.take(Step.STOP)
    task.error, task.ended_at = error.row.code, now
    task.decode_ms = round((now - task.dispatched_at) * 1000)
    return [
        Break(task.task_id, error),
        CancelJob(task.task_id, task.replica_id),
        notes.failed(task, error),
    ]


def drop(world: World, task: Task, now: float) -> list[Effect]:
    """A waiting task gives its place to another: its stream is told so [OC-CORE-1002]."""
    pool = world.pools[task.pool_id]
    error = full.dropped(pool, task, place_free_ms(pool, task.request.priority, now))
    world.tally.rejected(task.request.engine, error.kind, error.fields.policy_label)
    waiting.leave(world, task)
    return [*_break(world, task, Step.DROP, error, now), *tell(world, pool, now)]


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
            world.timers.set(("retain", ""), until)
            break
        world.retained_tokens -= world.tasks[task_id].kept
        del world.retained[task_id], world.tasks[task_id]
        effects.append(Forget(task_id))
    return effects


def _crowded(world: World) -> bool:
    """Return whether more is kept of tasks that are over than may be."""
    kept, limits = len(world.retained), world.limits
    return kept > limits.retain_max or (kept > 1 and world.retained_tokens > limits.retain_tokens)


def _requeue(world: World, task: Task, replica: Replica, reason: str, now: float) -> list[Effect]:
    if task.attempts >= world.limits.attempts_max:
        message = f"it was started {task.attempts} times and died before a token; at last {reason}"
        said = link.Fail(kind=Kind.WORKER_RESET, message=message)
        return _break(world, task, Step.FAIL, _for_client(said, task), now)
    if now >= task.deadline_at:
        return _break(world, task, Step.FAIL, _too_late(task), now)
    if not world.serves(world.pools[task.pool_id], task.request):
        return _break(world, task, Step.FAIL, _orphaned(world, task), now)
    task.take(Step.REQUEUE)
    waiting.enter_again(world, task)
    effects: list[Effect] = [notes.requeued(task, replica, reason)]
    task.replica_id, task.dispatched_at, task.told = None, None, None
    task.decision, task.kv_warm = None, False
    return effects


def _break(world: World, task: Task, step: Step, error: OrchError, now: float) -> list[Effect]:
    task.take(step)
    task.error = error.row.code
    effects: list[Effect] = [Break(task.task_id, error), notes.failed(task, error)]
    return effects + retire(world, task, now)


def cancel_end(task: Task) -> Ended:
    """Return the data of a canceled task's `end` frame."""
    return Ended(
        tokens_out=Count(task.tokens_out),
        decode_time_ms=Count(task.decode_ms or 0),
        decode_ms=Count(task.decode_ms or 0),
        finish_reason=FinishReason.CANCELED,
    )


def _release(world: World, task: Task) -> Replica:
    assert task.replica_id is not None
    world.timers.drop(("watch", task.task_id))
    replica = world.replica(task.replica_id)
    replica.release(task.task_id)
    return replica


def _for_client(said: link.Fail, task: Task) -> OrchError:
    """Return a job's failure as its client is told: a pool's inner trouble is WORKER_RESET."""
    kind = Kind.WORKER_RESET if TABLE[said.kind].code == "POOL_UNREADY" else said.kind
    return OrchError(kind, said.message, engine=task.request.engine, pool_id=task.pool_id)


def _too_late(task: Task) -> OrchError:
    return OrchError(
        Kind.DEADLINE_UNMET,
        f"its deadline of {task.request.deadline_ms} ms passed before it could run",
        engine=task.request.engine,
        pool_id=task.pool_id,
    )


def _orphaned(world: World, task: Task) -> OrchError:
    served = world.pools[task.pool_id].spec.model_ref
    return OrchError(
        Kind.POOL_UNAVAILABLE,
        f"pool {task.pool_id} serves {served} now, and the task is for {task.request.model_ref}",
        engine=task.request.engine,
        pool_id=task.pool_id,
    )


def _observe(task: Task, metric: Histogram, value_ms: float) -> Observe:
    request = task.request
    return Observe(
        metric, request.engine, task.engine_version, task.pool_id, request.priority, value_ms
    )
