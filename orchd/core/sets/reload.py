"""A set changes its model as a whole, or not at all [OC-CTRL-2003, ORCH-3038].

One replica tries the model; when it has it the others follow together; when all have it the set
serves it. When one fails, those that changed go back. Until the end `pool.spec.model_ref` is the
old model, so a replica that has changed differs from its set and gets no work. How one replica
loads a model, and falls back by itself, is poolmgr's.
"""

from __future__ import annotations

from typing import Final

from attrs import evolve

from orchd.core.effects import AskReload, Effect
from orchd.core.flow import admission, endings, notes
from orchd.core.state.pool import Pool
from orchd.core.state.reloading import Asked, SetReload, Stage
from orchd.core.state.replica import Replica
from orchd.core.state.world import World
from orchd.wire.control import model_ref_fault
from orchd.wire.errors import TABLE, Kind, OrchError
from orchd.wire.snapshot import Cause, Outcome, Phase, Snapshot

STAGE_S: Final = 30 * 60.0
"""For one replica to load a model or to come back: poolmgr itself gives up after 25 minutes."""
MAY_RELOAD: Final = frozenset({Phase.READY, Phase.EMPTYING, Phase.DRAINED})


def begin(world: World, pool: Pool, model_ref: str, digest: str | None, now: float) -> list[Effect]:
    """Begin; the model must have `digest` where one is given.

    Raises OrchError: INVALID_PARAMS, RELOAD_UNDER_WAY, POOL_UNREADY when none could.
    """
    fault = model_ref_fault(model_ref)
    if fault is not None:
        raise OrchError(Kind.INVALID_PARAMS, fault, path="$.new_model_ref")
    refuse_while_under_way(pool)
    able = [replica for replica in pool.replicas.values() if _able(replica, now)]
    if not able:
        raise admission.unready(world, pool, now)
    first, *rest = able
    if digest is None and model_ref == pool.spec.model_ref:
        digest = pool.spec.reload_digest  # the same model anew
    reload = pool.reload = SetReload(
        target=model_ref,
        back_to=pool.spec.model_ref,
        digest=digest,
        back_digest=pool.spec.reload_digest,
        to_follow=tuple(replica.replica_id for replica in rest),
    )
    note = notes.reloading(pool, model_ref, len(able))
    return [note, *_ask(world, pool, reload, [first], model_ref, now)]


def refuse_while_under_way(pool: Pool) -> None:
    """Raise OrchError(RELOAD_UNDER_WAY) while the pool is in a reload."""
    if pool.reload is not None:
        raise OrchError(
            Kind.RELOAD_UNDER_WAY,
            f"pool {pool.spec.pool_id} is being reloaded with {pool.reload.target}",
            pool_id=pool.spec.pool_id,
        )


def seen(world: World, pool: Pool, replica: Replica, now: float) -> list[Effect]:
    """Take in what a new snapshot says of a reload."""
    snapshot, reload = replica.snapshot, pool.reload
    assert snapshot is not None
    if reload is None:
        return _settle(world, pool, replica, snapshot, now)
    asked = reload.asked.get(replica.replica_id)
    if asked is None:
        return []
    if snapshot.instance != asked.instance:
        return _failed(world, pool, replica, _cause("its poolmgr was started anew"), now)
    told = snapshot.reload
    if told is None or told.number <= asked.number or told.outcome is Outcome.RUNNING:
        return []
    if told.outcome is Outcome.FAILED:
        cause = snapshot.last_error or _cause("it did not say why")
        return _failed(world, pool, replica, cause, now)
    del reload.asked[replica.replica_id]
    world.affinity.cooled(replica.replica_id)  # another engine: its KV cache is empty
    if asked.model_ref == reload.back_to:  # also of the same model anew: nothing to go back to
        reload.changed.discard(replica.replica_id)
    else:
        reload.changed.add(replica.replica_id)
    return _go_on(world, pool, reload, now)


def lost(world: World, pool: Pool, replica: Replica, cause: Cause, now: float) -> list[Effect]:
    """A replica was lost, or refused what it was asked for."""
    if pool.reload is None or replica.replica_id not in pool.reload.asked:
        return []
    return _failed(world, pool, replica, cause, now)


def overdue(world: World, pool: Pool, now: float) -> list[Effect]:
    """The time of a stage is over."""
    effects: list[Effect] = []
    while pool.reload is not None and pool.reload.asked:
        late = pool.replicas[next(iter(pool.reload.asked))]
        cause = _cause(f"it did not end within {STAGE_S:.0f} s")
        effects += _failed(world, pool, late, cause, now, again=False)
    return effects


def _able(replica: Replica, now: float) -> bool:
    snapshot = replica.snapshot
    return replica.fresh(now) and snapshot is not None and snapshot.phase in MAY_RELOAD


def _ask(
    world: World,
    pool: Pool,
    reload: SetReload,
    replicas: list[Replica],
    model_ref: str,
    now: float,
) -> list[Effect]:
    effects: list[Effect] = []
    digest = reload.back_digest if reload.stage is Stage.BACK else reload.digest
    for replica in replicas:
        snapshot = replica.snapshot
        assert snapshot is not None
        number = snapshot.reload.number if snapshot.reload else 0
        reload.asked[replica.replica_id] = Asked(model_ref, snapshot.instance, number)
        effects.append(AskReload(replica.replica_id, model_ref, digest))
    world.timers.set(("reload", pool.spec.pool_id), now + STAGE_S)
    return effects


def _failed(
    world: World, pool: Pool, replica: Replica, cause: Cause, now: float, *, again: bool = True
) -> list[Effect]:
    reload = pool.reload
    assert reload is not None
    asked = reload.asked.pop(replica.replica_id)
    if asked.model_ref == reload.back_to:
        reload.changed.discard(replica.replica_id)  # nothing more can be done about it here
    if reload.cause is None:
        reload.cause = cause
    reload.stage = Stage.BACK
    reload.to_follow = ()
    if not again:
        reload.changed.clear()
    return _go_on(world, pool, reload, now)


def _go_on(world: World, pool: Pool, reload: SetReload, now: float) -> list[Effect]:
    """Do what comes next, now that a replica has come to its end."""
    if reload.stage is Stage.BACK:
        there = [
            pool.replicas[replica_id]
            for replica_id in sorted(reload.changed - reload.asked.keys())
            if _able(pool.replicas[replica_id], now)
        ]
        effects = _ask(world, pool, reload, there, reload.back_to, now)
        return effects if reload.asked else [*effects, *_end(world, pool, reload)]
    if reload.asked:
        return []
    if reload.to_follow:
        reload.stage = Stage.FOLLOWING
        rest = [pool.replicas[replica_id] for replica_id in reload.to_follow]
        able = [replica for replica in rest if _able(replica, now)]
        reload.to_follow = ()
        if able:  # one that was lost meanwhile takes no part
            return _ask(world, pool, reload, able, reload.target, now)
    return _end(world, pool, reload) + _serve(world, pool, reload.target, reload.digest, now)


def _end(world: World, pool: Pool, reload: SetReload) -> list[Effect]:
    pool.reload = None
    world.timers.drop(("reload", pool.spec.pool_id))
    return [notes.reloaded(pool, reload.target, reload.cause)]


def _serve(
    world: World, pool: Pool, model_ref: str, digest: str | None, now: float
) -> list[Effect]:
    """Serve another model from now on. Tasks that wait for the old one end."""
    same = model_ref == pool.spec.model_ref
    pool.spec = evolve(pool.spec, model_ref=model_ref, reload_digest=digest)
    if same:
        return []
    pool.forecast.another_model()
    world.index()
    world.version.bump()
    waiting = [world.tasks[task_id] for task_id in pool.queue]
    return [
        effect
        for task in waiting
        if not world.serves(pool, task.request)
        for effect in endings.orphan(world, task, now)
    ]


def _settle(
    world: World, pool: Pool, replica: Replica, snapshot: Snapshot, now: float
) -> list[Effect]:
    """Agree with a replica that is ready with another model than its set.

    A poolmgr remembers a reload, an orchd does not: the first ready replica that is heard of says
    what the set serves. Later the set's model stands, and the replica is asked for it, once in each
    of its lives. One with another configuration is left alone: its operator is not done yet.
    """
    if not snapshot.ready:
        return []
    if snapshot.model_ref == pool.spec.model_ref:
        pool.settled = True
        return []
    if (snapshot.configured_model_ref or snapshot.model_ref) != pool.configured_ref:
        return []
    if not pool.settled:
        pool.settled = True
        return _serve(world, pool, snapshot.model_ref, None, now)
    if replica.asked_instance == snapshot.instance:
        return []
    replica.asked_instance = snapshot.instance
    return [AskReload(replica.replica_id, pool.spec.model_ref, pool.spec.reload_digest)]


def _cause(words: str) -> Cause:
    kind = Kind.POOL_UNREADY
    return Cause(kind=kind, message=words, advice=TABLE[kind].advice)
