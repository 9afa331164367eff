"""From the head of a queue to the end of a job: dispatch, progress, end, failure, requeue.

Each function changes the world and returns the effects. Which one an event calls is front.py's;
whether a task is let in is admission.py's.
"""

from __future__ import annotations

from typing import Final

from orchd.core.effects import Break, CancelJob, Dispatch, Effect, Finish, Histogram, Observe
from orchd.core.flow import asking, endings, notes, shedding, waiting
from orchd.core.state import watchdog
from orchd.core.state.pool import Pool
from orchd.core.state.replica import Replica
from orchd.core.state.task import LEAVING, Life, Step, Task
from orchd.core.state.world import World
from orchd.wire import link
from orchd.wire.errors import TABLE, Kind, OrchError
from orchd.wire.ids import DeviceMask, ReplicaId
from orchd.wire.results import Ready
from orchd.wire.shapes import DecisionLog, Ended

TURNED_AWAY: Final = frozenset({Kind.REPLICA_EXHAUSTED, Kind.DRAINING, Kind.POOL_UNREADY})
"""FAILs of a job that never began: it waits again, and the replica is asked no more until its next
snapshot. Leases and snapshots make them rare: an OPEN that crosses a STATE, a poolmgr that still
clears the jobs of an earlier orchd."""
ENGINE_LOST: Final = frozenset(
    {
        Kind.ENGINE_DIED, Kind.ENGINE_EXITED, Kind.ENGINE_HUNG, Kind.ENGINE_UNHEALTHY,
        Kind.CUDA_ERROR, Kind.DRIVER_RESET, Kind.DRIVER_UNAVAILABLE, Kind.DEVICE_MISSING,
        Kind.GPU_XID, Kind.GPU_ECC, Kind.RESUME_FAILED, Kind.VRAM_SHORT, Kind.RAM_SHORT,
    }
)  # fmt: skip
"""Why a pool that serves breaks (poolmgr/core): a job that never began is run again, as often as
`Limits.attempts_max` allows."""

# what happens to a pool


def fill(world: World, pool: Pool, now: float) -> list[Effect]:
    """Start waiting tasks in order, while a slot is free on a replica that can take them.

    A slot goes to the first task that may use its mask. Else the order is strict: a head that fits
    no free replica holds back those behind it [OC-CORE-1004].
    """
    effects: list[Effect] = []
    while pool.queue and (free := pool.free_masks(now)):
        head = pool.queue.head(free)
        if head is None:
            break
        task = world.tasks[head]
        log = _chosen(world, pool, task, free) or _decided(world, pool, task, now)
        if log.selected is None:
            break
        task.decision = log
        waiting.start(world, task)
        effects += start(world, pool, task, log.selected, now)
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


# what happens to a task


def start(world: World, pool: Pool, task: Task, replica_id: ReplicaId, now: float) -> list[Effect]:
    """Lease a slot to a task that does not wait any more, and send it there."""
    replica = pool.replicas[replica_id]
    assert replica.snapshot is not None
    task.kv_warm = asking.is_warm(world, task.request, replica_id, now)
    replica.lease(task)
    task.take(Step.DISPATCH)
    task.replica_id = replica_id
    task.engine_version = replica.snapshot.engine_version
    task.attempts += 1
    task.dispatched_at = task.progress_at = now
    task.turn.starts = replica.starts
    world.timers.set(("watch", task.task_id), watchdog.look_at(pool.spec.watchdog, task))
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
    return _first_token(world, task, now) if first else []


def _first_token(world: World, task: Task, at: float) -> list[Effect]:
    task.first_token_at = at
    ms = (at - task.admitted_at) * 1000
    slow = shedding.first_token(world.pools[task.pool_id], task.admitted_at, at)
    told = _observe(task, "latency_first_token_ms", ms)
    return [told, notes.started(task, round(ms)), *slow]


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
        effects += _first_token(world, task, task.dispatched_at + said.first_token_ms / 1000)
    _release(world, task)
    task.take(Step.END)
    count(world, task, said.tokens_out, now)
    world.pools[task.pool_id].forecast.over(task)
    world.tally.tokens(task, tokens_in=said.tokens_in)
    task.tokens_in, task.decode_ms = said.tokens_in, said.decode_ms
    task.finish_reason = said.finish_reason
    task.result_bytes = len(result.json) if result is not None else 0
    assert task.replica_id is not None
    if world.sessions.keeps(task.turn.session):  # what was deleted meanwhile stays forgotten
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
    return effects + endings.retire(world, task, now)


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
    return endings.retire(world, task, now)


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
    return endings.fail(world, task, Step.FAIL, _for_client(said, task), now)


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
            effects += endings.fail(world, task, Step.FAIL, _for_client(said, task), now)
    return effects


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


def _requeue(world: World, task: Task, replica: Replica, reason: str, now: float) -> list[Effect]:
    if task.attempts >= world.limits.attempts_max:
        message = f"it was started {task.attempts} times and died before a token; at last {reason}"
        said = link.Fail(kind=Kind.WORKER_RESET, message=message)
        return endings.fail(world, task, Step.FAIL, _for_client(said, task), now)
    if now >= task.deadline_at:
        return endings.fail(world, task, Step.FAIL, endings.too_late(task), now)
    if not world.serves(world.pools[task.pool_id], task.request):
        return endings.fail(world, task, Step.FAIL, endings.orphaned(world, task), now)
    task.take(Step.REQUEUE)
    waiting.enter_again(world, task)
    effects: list[Effect] = [notes.requeued(task, replica, reason)]
    task.replica_id, task.dispatched_at, task.told = None, None, None
    task.decision, task.kv_warm = None, False
    return effects


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


def _observe(task: Task, metric: Histogram, value_ms: float) -> Observe:
    request = task.request
    return Observe(
        metric, request.engine, task.engine_version, task.pool_id, request.priority, value_ms
    )
