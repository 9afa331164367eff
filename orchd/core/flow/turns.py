"""A task as a turn of its session: whether it is let in, what it reserves, what it is charged.

The table of sessions is sessions.py's, the arithmetic of an account budgets.py's. Called at a
task's admission, start and end (incoming.py, runs.py, endings.py), never per token.
"""

from __future__ import annotations

import math
from typing import Final

from attrs import evolve

from orchd.core.effects import Effect, Note
from orchd.core.flow import notes
from orchd.core.limits import workloads
from orchd.core.limits.budgets import (
    NOTHING,
    PICO,
    WITHOUT_BOUND,
    Account,
    Amounts,
    Left,
    Price,
    Short,
)
from orchd.core.state.pool import Pool
from orchd.core.state.sessions import LastTurn, Session, Turn
from orchd.core.state.task import Life, Task
from orchd.core.state.world import World
from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import Count, NonNegative, SessionId
from orchd.wire.shapes import (
    MetricsFrame,
    SessionStatus,
    TaskRequest,
    Workload,
)
from orchd.wire.words import many

TIMER: Final = ("session", "")
"""One timer for all: the first that is over."""


# admission


def let_in(
    world: World, request: TaskRequest, pool: Pool, prompt_tokens: int | None, now: float
) -> Turn:
    """Return the turn that the task would be, with its reservation. Changes nothing: begin() does.

    Raises OrchError: SESSION_OVER for the turn over the limit, after which end() forgets the
    session; BUDGET_SHORT for a task that could use more than its session has left.
    """
    known = world.sessions.find(request.session_id, now)
    limits = world.limits
    if known is not None and known.turns >= limits.session_turns:
        had = many(known.turns, "turn")
        raise OrchError(
            Kind.SESSION_OVER,
            f"$.session_id: session {request.session_id} had its {had} and is over",
            path="$.session_id",
        )
    session = known or Session(session_id=request.session_id, account=Account(limits.budget))
    price = pool.spec.price
    if not limits.budget.bounded:
        return Turn(session=session, price=price)
    most = workloads.most_tokens(request) if prompt_tokens is None else prompt_tokens
    held = _most(request, most, price, _most_ms(request, pool, now))
    short = session.account.short(held)
    if short is not None:
        raise _refusal(request, pool, short)
    return Turn(session=session, held=held, price=price, prompt_tokens=most)


def begin(world: World, turn: Turn) -> None:
    """The task is admitted: it is a turn, and its reservation stands."""
    if turn.held is not NOTHING:
        turn.session.account.hold(turn.held)
    world.sessions.begin(turn.session)


def end(world: World, session_id: SessionId) -> Session | None:
    """Forget a session; its tasks go on. Returns it, if it was known."""
    world.affinity.forget(session_id)
    return world.sessions.drop(session_id)


def tight(world: World, request: TaskRequest, now: float) -> bool:
    """Return whether the budget hangs on how long the prompt is exactly.

    The request is one that passed gates.py: the prices are those of the pools that serve its model.
    """
    budget = world.limits.budget
    if not budget.on_prompts:
        return False
    known = world.sessions.find(request.session_id, now)
    account = known.account if known is not None else Account(budget)
    prices = [
        pool.spec.price for pool in world.serving.get((request.engine, request.model_ref), ())
    ]
    dearest = max(prices, key=lambda p: p.token_in, default=Price())
    least, most = (
        _most(request, tokens, dearest, 0) for tokens in (0, workloads.most_tokens(request))
    )
    return account.short(least) is None and account.short(most) is not None


def _most(request: TaskRequest, prompt_tokens: int, price: Price, time_ms: int) -> Amounts:
    """Return what the task may use at most."""
    out = _most_out(request)
    return Amounts(prompt_tokens + out, time_ms, price.of(prompt_tokens, out))


def _most_out(request: TaskRequest) -> int:
    # embedding and rerank put out no token, whatever max_tokens says
    return request.max_tokens if request.workload is Workload.COMPLETION else 0


def _most_ms(request: TaskRequest, pool: Pool, now: float) -> int:
    """Return how long all of the task's tokens take, by the slowest rate of the pool."""
    out = _most_out(request)
    return max((math.ceil(slot.job_s(out) * 1000) for slot in pool.outlook(now)), default=1)


_WORDS: Final = {"tokens": "tokens", "time_ms": "ms of GPU time", "cost": "of cost"}


def _refusal(request: TaskRequest, pool: Pool, short: Short) -> OrchError:
    scale = PICO if short.what == "cost" else 1
    path = "$.max_tokens" if short.left else "$.session_id"
    return OrchError(
        Kind.BUDGET_SHORT,
        f"{path}: session {request.session_id} has {short.left / scale:.12g} {_WORDS[short.what]} "
        f"left, and this task may use {short.wanted / scale:.12g}",
        path=path,
        engine=request.engine,
        pool_id=pool.spec.pool_id,
    )


# a job's start and a task's end


def over(world: World, task: Task, now: float) -> list[Effect]:
    """A task is over, well or not: charge it, free its reservation, let its session rest."""
    turn, sessions = task.turn, world.sessions
    session = turn.session
    session.account.settle(turn.held, _used(task, now))
    turn.held = NOTHING
    if task.replica_id is not None:
        session.last = _last(task)
    crowded = sessions.end(session, now)
    due = sessions.next_expiry()
    if due is not None and TIMER not in world.timers:
        world.timers.set(TIMER, due)
    return [] if crowded is None else [_ended(world, crowded, "crowded")]


def _used(task: Task, now: float) -> Amounts:
    """Return what the task really used.

    A task that broke or was canceled has no figure for its prompt: once a token was out the prompt
    was read, and is charged as it was reserved.
    """
    tokens_in = task.tokens_in
    if tokens_in is None:
        tokens_in = task.turn.prompt_tokens if task.tokens_out else 0
    ms = task.decode_ms
    if ms is None:
        ms = 0 if task.dispatched_at is None else round((now - task.dispatched_at) * 1000)
    cost = task.turn.price.of(tokens_in, task.tokens_out)
    return Amounts(tokens_in + task.tokens_out, max(0, ms), cost)


def _last(task: Task) -> LastTurn | None:
    """Return where the session's KV cache is now; None: nowhere that is known."""
    assert task.replica_id is not None
    if task.life is not Life.ENDED or task.request.workload is not Workload.COMPLETION:
        return None
    return LastTurn(task.replica_id, task.turn.starts, (task.tokens_in or 0) + task.tokens_out)


def expire(world: World, now: float) -> list[Effect]:
    """Forget the sessions whose time to live is over."""
    effects: list[Effect] = []
    while (session := world.sessions.expired(now)) is not None:
        effects.append(_ended(world, session, "ttl"))
    due = world.sessions.next_expiry()
    if due is not None:
        world.timers.set(TIMER, due)
    return effects


def delete(world: World, session_id: SessionId) -> list[Effect]:
    """Forget a session on request; its tasks go on. One that is not known is no error."""
    session = end(world, session_id)
    return [] if session is None else [notes.session_over(session, "deleted")]


def _ended(world: World, session: Session, reason: str) -> Note:
    world.affinity.forget(session.session_id)
    return notes.session_over(session, reason)


# what is told


def warm(world: World, session: Session, now: float) -> bool:
    """Return whether a next turn that may read a cache would find its session's.

    True only if nothing speaks against it: the last turn ended well, its replica is Ready and lived
    on since, and was sent no other job, which could have taken the slot.
    """
    last = session.last
    if last is None or world.affinity.last(session.session_id, now) != last.replica_id:
        return False
    replica = world.replica(last.replica_id)
    return replica.starts == last.starts and replica.servable(now)


def kv_bytes(world: World, session: Session, now: float) -> int:
    """Return what a warm session's cache takes; 0 where its pool says of no token what it does."""
    if session.last is None or not warm(world, session, now):
        return 0
    snapshot = world.replica(session.last.replica_id).snapshot
    each = None if snapshot is None else snapshot.kv_bytes_per_token
    return session.last.tokens * (each or 0)


def status(world: World, session_id: SessionId, now: float) -> SessionStatus:
    """Return what `GET /v1/sessions/{id}` says. Raises OrchError(UNKNOWN_ID)."""
    session = world.sessions.find(session_id, now)
    if session is None:
        raise OrchError(Kind.UNKNOWN_ID, f"no session {session_id} is known", path="session_id")
    left = session.account.left()
    return SessionStatus(
        ttl_ms_remaining=Count(world.sessions.ttl_ms(session, now)),
        turns=Count(session.turns),
        kv_bytes=Count(kv_bytes(world, session, now)),
        kv_warmth=warm(world, session, now),
        tokens_budget_remaining=count(left.tokens),
        time_budget_remaining_ms=count(left.time_ms),
        cost_budget_remaining=None if left.cost is None else NonNegative(left.cost),
    )


def left(task: Task) -> Left:
    """Return what the task's session may still ask for."""
    return task.turn.session.account.left()


def shown(frame: MetricsFrame, task: Task) -> MetricsFrame:
    """Return a `metrics` frame of the task with its session's budgets in it."""
    budgets = left(task)
    if budgets is WITHOUT_BOUND:
        return frame
    return evolve(
        frame,
        tokens_budget_remaining=count(budgets.tokens),
        time_budget_remaining_ms=count(budgets.time_ms),
        cost_budget_remaining=None if budgets.cost is None else NonNegative(budgets.cost),
    )


def count(value: int | None) -> Count | None:
    """Return a figure as it is sent."""
    return None if value is None else Count(value)
