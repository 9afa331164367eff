"""What is true of the core after every event. Tests call `check` at their end, and between events.

It only reads. A breach raises AssertionError that names the rule.
"""

from __future__ import annotations

from orchd.core.effects import Dispatch, Effect
from orchd.core.front import Front
from orchd.core.limits.budgets import NOTHING
from orchd.core.queues.fifo import Fifo
from orchd.core.queues.queue import PoolQueue
from orchd.core.state.task import FINAL, LEASED, RUNNING, Life
from orchd.core.state.world import World
from orchd.wire.ids import DeviceMask
from orchd.wire.shapes import Priority


def check(front: Front, now: float | None = None) -> None:
    """Assert the rules of specs/02. With `now`, also those that depend on the time."""
    world = front.world
    _check_memory(world)
    for pool in world.pools.values():
        _check_turns(pool.queue, [replica.mask for replica in pool.replicas.values()])
        for priority, fifo in pool.queue.classes.items():
            _check_fifo(fifo)
            for task_id in fifo:
                task = world.tasks[task_id]
                assert task.life is Life.QUEUED, "a task in a queue waits"
                assert task.pool_id == pool.spec.pool_id, "a task waits in its own pool"
                assert task.request.priority is priority, "a task waits in its own class"
                assert ("deadline", task_id) in world.timers, "a waiting task's deadline is set"
        for replica in pool.replicas.values():
            held = len(replica.leases)
            bound = max(replica.slots, replica.slots_high)
            assert 0 <= held <= bound, "never more jobs than slots"
            assert not held or replica.live, "a lost replica holds no lease"
            for task_id, task in replica.leases.items():
                assert world.tasks.get(task_id) is task, "a lease is of a known task"
                assert task.life in LEASED, "a lease is of a running task"
                assert task.replica_id == replica.replica_id, "a lease is on the task's replica"
                watched = ("watch", task_id) in world.timers
                assert watched == (task.life in RUNNING), "what runs, and only that, is watched"
    if now is not None:
        _check_idle(world, now)
    _check_places(world)
    _check_sessions(world)


def check_effects(front: Front, effects: list[Effect], now: float) -> None:
    """Assert that every Dispatch goes to a replica that may be placed on [ORCH-3010]."""
    for effect in effects:
        if isinstance(effect, Dispatch):
            replica = front.world.replica(effect.replica_id)
            served = front.world.home[effect.replica_id].spec.model_ref
            assert replica.snapshot is not None
            assert replica.snapshot.model_ref == served, "a set never serves two models"
            assert replica.servable(now), "dispatch only to ready, fresh, not draining replicas"
            assert len(replica.leases) <= replica.slots, "never more jobs than slots"


def _check_fifo(fifo: Fifo) -> None:
    tokens = 0
    for position, task_id in enumerate(fifo):
        assert fifo.before(task_id) == (position, tokens), "a position counts those before it"
        tokens += fifo.tokens_of(task_id)
    assert fifo.backlog == (len(fifo), tokens), "the backlog is the sum of its tasks"


def _check_turns(queue: PoolQueue, masks: list[DeviceMask]) -> None:
    """Batch does not starve, and positions are the order in which tasks will go."""
    batch = queue.classes[Priority.BATCH]
    assert queue.passed <= queue.batch_after, "batch is passed so often and no more"
    assert not queue.passed or len(batch), "nobody is passed while no batch waits"
    order = list(queue)
    assert queue.head(masks) == next(iter(order), None), "the head is the first"
    for position, task_id in enumerate(order):
        priority = Priority.BATCH if task_id in batch else Priority.INTERACTIVE
        assert queue.before(task_id, priority).jobs == position, "a position counts both classes"


def _check_memory(world: World) -> None:
    held = sum(world.tasks[t].content_bytes for pool in world.pools.values() for t in pool.queue)
    assert world.queued_bytes == held, "the memory of prompts is that of those that wait"


def _check_idle(world: World, now: float) -> None:
    """A task that could run does run: the first that a free slot's mask may serve."""
    for pool in world.pools.values():
        free = [r for r in pool.servable(now) if r.free_slots and not r.refusing]
        head = pool.queue.head([replica.mask for replica in free])
        if head is None:
            continue
        request = world.tasks[head].request
        mask = request.placement and request.placement.require_device_mask
        for replica in free:
            snapshot = replica.snapshot
            assert (
                snapshot is None
                or (mask is not None and mask != replica.mask)
                or snapshot.ctx_max < request.ctx
                or request.workload not in snapshot.workloads
            ), "no slot is free while a task waits that fits it"


def _check_places(world: World) -> None:
    """Each task is in exactly one place: a queue, a lease, or the retained."""
    assert len(world.retained) <= world.limits.retain_max, "ended tasks are bounded"
    assert not world.retained.keys() - world.tasks.keys(), "a forgotten task is forgotten"
    kept = sum(world.tasks[task_id].kept for task_id in world.retained)
    assert world.retained_tokens == kept, "the tokens that are kept are those of ended tasks"
    for task_id, task in world.tasks.items():
        pool = world.pools[task.pool_id]
        queued = sum(task_id in fifo for fifo in pool.queue.classes.values())
        leased = sum(task_id in replica.leases for replica in pool.replicas.values())
        retained = int(task_id in world.retained)
        assert queued + leased + retained == 1, "a task is in exactly one place"
        assert bool(queued) == (task.life is Life.QUEUED), "waiting means queued"
        assert bool(leased) == (task.life in LEASED), "running means leased"
        assert bool(retained) == (task.life in FINAL), "over means retained"
        assert not retained or task.request.prompt is None, "an ended task keeps no prompt"


def _check_sessions(world: World) -> None:
    """Live tasks and reservations are those of tasks that are not over; idle means none is."""
    sessions = world.sessions
    assert len(sessions.idle) <= sessions.idle_max, "idle sessions are bounded"
    assert list(sessions.idle.values()) == sorted(sessions.idle.values()), "longest idle first"
    live = [task for task in world.tasks.values() if task.life not in FINAL]
    for task in world.tasks.values():
        assert task.life not in FINAL or task.turn.held == NOTHING, "what is over reserves nothing"
    for session_id, session in sessions.known.items():
        turns = [task.turn for task in live if task.turn.session is session]
        assert session.live == len(turns), "a session's live tasks are counted"
        assert session.turns <= world.limits.session_turns, "no session has a turn over its limit"
        assert (session_id in sessions.idle) == (not turns), "idle means without a live task"
        held = NOTHING
        for turn in turns:
            held = held.plus(turn.held)
        assert session.account.held == held, "what is reserved is the sum of its tasks'"
    assert not sessions.idle.keys() - sessions.known.keys(), "what is idle is known"
    assert not sessions.idle or ("session", "") in world.timers, "idle sessions have an end"
