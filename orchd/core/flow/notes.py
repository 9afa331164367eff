"""The sentences of the log: what happened to a task or a replica, with the fields of ORCH-3027.

Never a prompt, never output. When they are said is decided by those who call.
"""

from __future__ import annotations

from collections.abc import Mapping

from orchd.core.effects import Level, Note
from orchd.core.state.pool import Pool
from orchd.core.state.replica import Replica
from orchd.core.state.sessions import Session
from orchd.core.state.slo import State
from orchd.core.state.task import Task
from orchd.wire.errors import OrchError
from orchd.wire.quant import quant_of
from orchd.wire.shapes import TaskRequest
from orchd.wire.snapshot import Cause, Phase
from orchd.wire.words import many

# What an operator asked for is no reason to worry.
_ASKED = frozenset(
    {Phase.EMPTYING, Phase.DRAINED, Phase.REPLACING, Phase.DRAINING, Phase.SLEEPING, Phase.WAKING}
)


def _of_request(request: TaskRequest) -> dict[str, object]:
    return {
        "job_id": request.task_id,
        "session_id": request.session_id,
        "engine": request.engine,
        "model_id": request.model_ref,
        "quant": quant_of(request.model_ref),
        "ctx": request.ctx,
        "priority": request.priority,
    }


def _of_task(
    task: Task, name: str, human: str, more: Mapping[str, object], level: Level = "info"
) -> Note:
    """Return a note about a task; `more` overrides what the task says itself."""
    queue_time_ms = None
    if task.dispatched_at is not None:
        queue_time_ms = round((task.dispatched_at - task.admitted_at) * 1000)
    fields = _of_request(task.request)
    fields |= {
        "correlation_id": task.correlation_id,
        "pool_id": task.pool_id,
        "replica_id": task.replica_id,
        "engine_version": task.engine_version or None,
        "kv_warmth": task.kv_warm,
        "queue_time_ms": queue_time_ms,
        "actor": "orchd",
        "action": name.removeprefix("task_"),
        "target": task.task_id,
    }
    fields |= more
    return Note(name, human, level, fields)


def _short(task_id: str) -> str:
    return task_id[:8]


def admitted(task: Task, position: int, start_ms: int, identity: str) -> Note:
    """A task was let in."""
    when = "starts at once" if start_ms == 0 else f"starts in about {start_ms / 1000:.1f} s"
    where = f"admitted to pool {task.pool_id}, {position} before it"
    human = f"Task {_short(task.task_id)} {where}: {when}."
    more = {
        "queue_position": position,
        "predicted_start_ms": start_ms,
        "identity": identity or None,
    }
    return _of_task(task, "task_admitted", human, more)


def rejected(request: TaskRequest, correlation_id: str, identity: str, error: OrchError) -> Note:
    """A task was refused."""
    fields = {
        **_of_request(request),
        "correlation_id": correlation_id,
        "identity": identity or None,
        "pool_id": error.fields.pool_id,
        "reason": error.kind,
        "policy_label": error.fields.policy_label,
        "retry_after_ms": error.fields.retry_after_ms,
        "actor": "orchd",
        "action": "rejected",
        "target": request.task_id,
    }
    human = f"Task {_short(request.task_id)} refused: {error.message}."
    return Note("task_rejected", human, "info", fields)


def shedding(pool: Pool, state: State, late_share: float | None) -> Note:
    """A pool began to shed load because it is too slow, or came back from it."""
    spec = pool.spec
    slo_ms = round(spec.slo.first_token_s * 1000)
    fields = {
        "pool_id": spec.pool_id,
        "engine": spec.engine,
        "slo_first_token_ms": slo_ms,
        "late_share": late_share,
        "actor": "orchd",
        "action": "shed" if state is State.OPEN else "admit",
        "target": spec.pool_id,
    }
    if state is State.OPEN:
        human = (
            f"Pool {spec.pool_id} sheds load: most first tokens came later than {slo_ms} ms. Batch "
            "and whoever would have to wait is refused."
        )
        return Note("load_shed", human, "warning", fields)
    human = f"Pool {spec.pool_id} holds its SLO of {slo_ms} ms again and takes every task."
    return Note("load_taken", human, "info", fields)


def placed(task: Task) -> Note:
    """A replica was chosen; the decision's log goes with it [ORCH-3906].

    Of the filters only those that left somebody out: all of them are in the task's status.
    """
    log = task.decision
    assert log is not None
    out = [f"{c.replica_id}={c.excluded}" for c in log.considered if c.excluded]
    human = f"Task {_short(task.task_id)} placed on {task.replica_id}."
    more = {
        "selected": log.selected,
        "considered": [c.replica_id for c in log.considered],
        "excluded": out,
        "filters_applied": sorted({c.excluded for c in log.considered if c.excluded}),
        "tie_breakers_applied": list(log.tie_breakers_applied),
        "pinned": log.pinned,
        "fallback_used": log.fallback_used,
        "snapshot_version": log.snapshot_version,
    }
    return _of_task(task, "task_placed", human, more)


def started(task: Task, first_token_ms: int) -> Note:
    """The first token is out."""
    human = f"Task {_short(task.task_id)} streams from {task.replica_id} after {first_token_ms} ms."
    return _of_task(task, "task_started", human, {"first_token_ms": first_token_ms})


def ended(task: Task) -> Note:
    """A job ran to its end."""
    human = (
        f"Task {_short(task.task_id)} ended ({task.finish_reason}): "
        f"{many(task.tokens_out, 'token')} in {(task.decode_ms or 0) / 1000:.1f} s "
        f"on {task.replica_id}."
    )
    return _of_task(task, "task_ended", human, _figures(task))


def canceled(task: Task) -> Note:
    """A task was canceled."""
    where = f"running on {task.replica_id}" if task.dispatched_at is not None else "waiting"
    human = f"Task {_short(task.task_id)} canceled by {task.cancel_reason} while {where}."
    more = {"reason": task.cancel_reason, **_figures(task)}
    return _of_task(task, "task_canceled", human, more)


def failed(task: Task, error: OrchError) -> Note:
    """A task broke: its client reads why in the stream."""
    human = f"Task {_short(task.task_id)} failed: {error.message}."
    more = {
        "reason": error.kind,
        "policy_label": error.fields.policy_label,
        "retry_after_ms": error.fields.retry_after_ms,
        **_figures(task),
    }
    return _of_task(task, "task_failed", human, more, "warning")


def requeued(task: Task, replica: Replica, reason: str) -> Note:
    """A task waits again, at the head of its class."""
    human = f"Task {_short(task.task_id)} is next in pool {task.pool_id} again: {reason}."
    more = {"replica_id": replica.replica_id}
    return _of_task(task, "task_requeued", human, more, "warning")


def ready(pool: Pool, replica: Replica) -> Note:
    """A replica can be placed on from now on."""
    status = replica.snapshot.status if replica.snapshot else ""
    return _of_replica(pool, replica, "replica_ready", f"{replica.replica_id} is ready: {status}")


def unready(pool: Pool, replica: Replica, why: str) -> Note:
    """A replica is not placed on any more; `why` may begin with its id."""
    who = replica.replica_id
    human = f"{who} is not placed on: {why.removeprefix(f'{who}: ')}"
    asked = (
        replica.snapshot is not None and replica.snapshot.phase in _ASKED and why.startswith(who)
    )
    level: Level = "info" if asked else "warning"
    return _of_replica(pool, replica, "replica_unready", human, level)


def session_over(session: Session, reason: str) -> Note:
    """A session is forgotten: its time to live, to make room, or on request."""
    used = session.account.used
    after = many(session.turns, "turn")
    human = f"Session {_short(session.session_id)} is over ({reason}) after {after}."
    fields = {
        "session_id": session.session_id,
        "reason": reason,
        "turns": session.turns,
        "tokens_used": used.tokens,
        "actor": "orchd",
        "action": "session_over",
        "target": session.session_id,
    }
    return Note("session_over", human, "info", fields)


def draining(waiting: int, running: int) -> Note:
    """The daemon stops."""
    human = f"Draining: nothing is admitted; {many(running, 'task')} running, {waiting} waiting."
    fields = {"actor": "orchd", "action": "draining", "target": "orchd"}
    return Note("draining", human, "info", {**fields, "running": running, "waiting": waiting})


def pool_draining(pool: Pool, running: int, deadline_ms: int) -> Note:
    """Somebody drains a pool."""
    human = (
        f"Draining pool {pool.spec.pool_id}: no task is placed on it, and what runs "
        f"({many(running, 'task')}) has {deadline_ms / 1000:g} s."
    )
    return _of_pool(pool, "pool_draining", human, {"running": running})


def reloading(pool: Pool, model_ref: str, replicas: int) -> Note:
    """Somebody reloads a pool."""
    old = pool.spec.model_ref
    what = f"{model_ref} anew" if model_ref == old else f"{model_ref} instead of {old}"
    first = f": one replica of {replicas} tries it first" if replicas > 1 else ""
    human = f"Reloading pool {pool.spec.pool_id} with {what}{first}."
    return _of_pool(pool, "pool_reloading", human, {"model_id": model_ref})


def reloaded(pool: Pool, model_ref: str, cause: Cause | None) -> Note:
    """The reload of a pool has ended; `cause` is why it failed."""
    if cause is None:
        human = f"Pool {pool.spec.pool_id} serves {model_ref} now."
        return _of_pool(pool, "pool_reloaded", human, {"model_id": model_ref})
    human = (
        f"Pool {pool.spec.pool_id} keeps {pool.spec.model_ref}; {model_ref} failed: {cause.message}"
    )
    more = {"model_id": model_ref, "reason": cause.kind}
    return _of_pool(pool, "pool_reload_failed", human, more, "warning")


def _of_pool(
    pool: Pool, name: str, human: str, more: Mapping[str, object], level: Level = "info"
) -> Note:
    fields = {
        "pool_id": pool.spec.pool_id,
        "engine": pool.spec.engine,
        "actor": "orchd",
        "action": name.removeprefix("pool_"),
        "target": pool.spec.pool_id,
    }
    return Note(name, human, level, {**fields, **more})


def _figures(task: Task) -> dict[str, object]:
    return {
        "tokens_in": task.tokens_in,
        "tokens_out": task.tokens_out,
        "decode_time_ms": task.decode_ms,
    }


def _of_replica(pool: Pool, replica: Replica, name: str, human: str, level: Level = "info") -> Note:
    snapshot, cause = replica.snapshot, replica.last_error
    fields = {
        "pool_id": pool.spec.pool_id,
        "replica_id": replica.replica_id,
        "engine": pool.spec.engine,
        "engine_version": snapshot.engine_version if snapshot else None,
        "model_id": pool.spec.model_ref,
        "quant": quant_of(pool.spec.model_ref),
        "reason": cause.kind if cause else None,
        "actor": "orchd",
        "action": name.removeprefix("replica_"),
        "target": replica.replica_id,
    }
    return Note(name, human, level, fields)
