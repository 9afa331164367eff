"""A set of replicas drains, and changes its model as a whole or not at all."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchd.core.effects import AskDrain, AskReload, Break, Dispatch, Effect, Refused
from orchd.core.events import DrainPool, ReloadPool, ReloadRefused
from orchd.core.sets.reload import STAGE_S
from orchd.wire.control import MAX_DRAIN_MS
from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import PoolId, Positive, ReplicaId
from orchd.wire.shapes import Priority, TaskState
from orchd.wire.snapshot import FRESH_S, Cause, Outcome, Phase, Reload, Snapshot
from tests.core.making import House, dispatched, notes, of, only, pool, request, snapshot, uid

DEMO, OLD, NEW = PoolId("demo"), "mock:lorem", "mock:new"
BAD = Cause(kind=Kind.VRAM_SHORT, message="it does not fit", advice="Choose a smaller one.")


def ready(index: int, seq: int = 1, **more: Any) -> Snapshot:
    return snapshot(f"demo:{index}", seq=seq, instance=f"life-{index}", **more)


def told(index: int, outcome: Outcome, model: str = OLD, number: int = 1) -> Snapshot:
    """What a replica says of a reload: the model that it serves now is `model`."""
    running = outcome is Outcome.RUNNING
    wanted = NEW if number == 1 else OLD
    return ready(
        index,
        seq=10 * number + (not running),
        phase=Phase.RELOADING if running else Phase.READY,
        model_ref=model,
        configured_model_ref=None if model == OLD else OLD,
        reload=Reload(number=Positive(number), model_ref=wanted, outcome=outcome),
        last_error=BAD if outcome is Outcome.FAILED else None,
    )


def a_set(replicas: int) -> House:
    house = House.of(pool(replicas=replicas))
    house.see(*(ready(index) for index in range(replicas)))
    return house


def asked(effects: list[Effect]) -> list[tuple[str, str]]:
    return [(each.replica_id, each.model_ref) for each in of(effects, AskReload)]


def refused(effects: list[Effect]) -> Kind:
    return only(effects, Refused).error.kind


def model_of(house: House) -> str:
    return house.front.pool_health(DEMO, house.now).model_ref


# reload


def test_what_was_learned_of_a_models_jobs_is_forgotten_with_it() -> None:
    house = a_set(1)
    for number in range(10, 30):  # each ends long before its limit
        house.submit(number, max_tokens=1000)
        house.finish(number, 10)
    learned = house.front.world.pools[DEMO].forecast
    asked_for = request(1, max_tokens=1000)
    assert max(learned.ends(asked_for, 0.0, 1)) < 100
    house.send(ReloadPool(DEMO, NEW))
    house.see(told(0, Outcome.RUNNING))
    house.see(told(0, Outcome.READY, NEW))
    assert min(learned.ends(asked_for, 0.0, 1)) == 1000


@pytest.mark.req("OC-CTRL-2003", "ORCH-3038")
def test_one_replica_has_the_new_model_and_the_pool_serves_it() -> None:
    house = a_set(1)
    assert asked(house.send(ReloadPool(DEMO, NEW))) == [("demo:0", NEW)]
    assert house.front.pool_health(DEMO, house.now).reloading == NEW
    assert refused(house.send(ReloadPool(DEMO, NEW))) is Kind.RELOAD_UNDER_WAY
    assert refused(house.send(DrainPool(DEMO, 1000))) is Kind.RELOAD_UNDER_WAY
    # the old model serves meanwhile, and nobody is let in for the new one
    house.see(told(0, Outcome.RUNNING))
    assert dispatched(house.submit(1)) == [(uid(1), "demo:0")]
    assert house.refuse(2, model_ref=NEW).kind is Kind.POOL_UNAVAILABLE
    house.finish(1)
    effects = house.see(told(0, Outcome.READY, NEW))
    assert "pool_reloaded" in notes(effects)
    health = house.front.pool_health(DEMO, house.now)
    assert (health.model_ref, health.ready, health.reloading) == (NEW, True, None)
    assert dispatched(house.submit(3, model_ref=NEW)) == [(uid(3), "demo:0")]
    assert house.refuse(4).kind is Kind.POOL_UNAVAILABLE
    assert [each.model_ref for each in house.front.capabilities(house.now).engines] == [NEW]


@pytest.mark.req("OC-CTRL-2003", "ORCH-3038")
def test_one_tries_the_others_follow_and_the_set_changes_at_once() -> None:
    house = a_set(3)
    assert asked(house.send(ReloadPool(DEMO, NEW))) == [("demo:0", NEW)]
    effects = house.see(told(0, Outcome.READY, NEW))
    assert asked(effects) == [("demo:1", NEW), ("demo:2", NEW)]
    # the first one differs from its set now, and gets nothing; the old model serves
    assert dispatched(house.submit(1)) == [(uid(1), "demo:1")]
    assert asked(house.see(told(2, Outcome.READY, NEW))) == []
    assert dispatched(house.submit(2)) == []
    assert model_of(house) == OLD
    house.finish(1)
    house.finish(2)
    house.see(told(1, Outcome.READY, NEW))
    assert model_of(house) == NEW
    assert [len(dispatched(house.submit(number, model_ref=NEW))) for number in (3, 4, 5)] == [
        1, 1, 1,
    ]  # fmt: skip


@pytest.mark.req("OC-CTRL-2003", "ORCH-3038")
def test_a_model_that_fails_costs_one_replica_and_nobody_else_a_moment() -> None:
    house = a_set(3)
    house.send(ReloadPool(DEMO, NEW))
    effects = house.see(told(0, Outcome.FAILED))
    assert asked(effects) == []
    assert "pool_reload_failed" in notes(effects)
    health = house.front.pool_health(DEMO, house.now)
    assert (health.model_ref, health.ready, health.last_error) == (OLD, True, BAD)
    assert [len(dispatched(house.submit(number))) for number in (1, 2, 3)] == [1, 1, 1]


@pytest.mark.req("OC-CTRL-2003", "ORCH-3038", "ORCH-3046")
def test_when_one_that_follows_fails_those_that_changed_go_back() -> None:
    house = a_set(3)
    house.send(ReloadPool(DEMO, NEW))
    house.see(told(0, Outcome.READY, NEW))
    assert asked(house.see(told(1, Outcome.FAILED))) == [("demo:0", OLD)]
    # the third is still at it; when it has the new model it goes back too
    assert asked(house.see(told(2, Outcome.READY, NEW))) == [("demo:2", OLD)]
    assert house.front.pool_health(DEMO, house.now).reloading == NEW
    assert house.front.pool_health(DEMO, house.now).ready  # demo:1 has never stopped
    house.see(told(0, Outcome.READY, OLD, number=2))
    effects = house.see(told(2, Outcome.READY, OLD, number=2))
    assert "pool_reload_failed" in notes(effects)
    assert model_of(house) == OLD
    assert [len(dispatched(house.submit(number))) for number in (1, 2, 3)] == [1, 1, 1]


def digests(effects: list[Effect]) -> list[tuple[str, str, str | None]]:
    return [(each.replica_id, each.model_ref, each.digest) for each in of(effects, AskReload)]


@pytest.mark.req("OC-CTRL-2003", "ORCH-3436")
def test_the_digest_of_a_reload_is_asked_of_every_replica_and_of_the_way_back() -> None:
    house = a_set(2)
    first, second = "sha256:" + "ab" * 32, "sha256:" + "cd" * 32
    assert digests(house.send(ReloadPool(DEMO, NEW, first))) == [("demo:0", NEW, first)]
    assert digests(house.see(told(0, Outcome.READY, NEW))) == [("demo:1", NEW, first)]
    house.see(told(1, Outcome.READY, NEW))
    # the same anew keeps it; another model has its own, and the way back leads to the first
    assert digests(house.send(ReloadPool(DEMO, NEW))) == [("demo:0", NEW, first)]
    house.see(told(0, Outcome.FAILED, NEW, number=2))
    assert digests(house.send(ReloadPool(DEMO, "mock:third", second))) == [
        ("demo:0", "mock:third", second)
    ]
    house.see(told(0, Outcome.READY, "mock:third", number=3))
    assert digests(house.see(told(1, Outcome.FAILED, NEW, number=3))) == [("demo:0", NEW, first)]
    house.see(told(0, Outcome.READY, NEW, number=4))
    # and so does a replica that comes back with another model
    house.lose("demo:1")
    back = snapshot("demo:1", seq=1, instance="another life")
    assert digests(house.see(back)) == [("demo:1", NEW, first)]
    assert digests(house.send(ReloadPool(DEMO, OLD))) == [("demo:0", OLD, None)]


@pytest.mark.parametrize("how", ["lost", "refused", "restarted", "overdue"])
def test_a_replica_that_does_not_end_its_reload_fails_it(how: str) -> None:
    house = a_set(2)
    house.send(ReloadPool(DEMO, NEW))
    house.see(told(0, Outcome.RUNNING))
    match how:
        case "lost":
            effects = house.lose("demo:0")
        case "refused":
            error = OrchError(Kind.POOL_UNREADY, "it loads")
            effects = house.send(ReloadRefused(ReplicaId("demo:0"), error))
        case "restarted":
            effects = house.see(snapshot("demo:0", seq=1, instance="another life"))
        case _:
            effects = house.wait(STAGE_S)
    assert "pool_reload_failed" in notes(effects)
    assert house.front.pool_health(DEMO, house.now).reloading is None
    house.see(ready(1, seq=99))
    assert dispatched(house.submit(1))


@pytest.mark.req("ORCH-3046")
def test_tasks_that_wait_for_the_old_model_are_told_so_and_running_ones_end() -> None:
    house = a_set(1)
    house.admit(1)
    house.progress(1)
    house.admit(2)
    house.admit(3, priority=Priority.BATCH)
    house.send(ReloadPool(DEMO, NEW))
    effects = house.see(told(0, Outcome.READY, NEW))
    assert [(each.task_id, each.error.kind) for each in of(effects, Break)] == [
        (uid(2), Kind.POOL_UNAVAILABLE), (uid(3), Kind.POOL_UNAVAILABLE),
    ]  # fmt: skip
    assert of(effects, Break)[0].error.envelope().retriable
    assert not of(house.finish(1), Break)


@pytest.mark.req("ORCH-3046")
def test_an_open_that_crossed_the_change_does_not_wait_for_a_model_that_is_gone() -> None:
    house = a_set(1)
    house.send(ReloadPool(DEMO, NEW))
    house.admit(1)
    house.see(told(0, Outcome.READY, NEW))
    broken = only(house.fail(1, Kind.POOL_UNREADY), Break)
    assert broken.error.kind is Kind.POOL_UNAVAILABLE
    assert len(house.front.world.pools[DEMO].queue) == 0


def test_the_same_model_anew_keeps_what_waits() -> None:
    house = a_set(1)
    house.admit(1)
    house.admit(2)
    house.send(ReloadPool(DEMO, OLD))
    effects = house.see(told(0, Outcome.READY, OLD))
    assert not of(effects, Break)
    assert dispatched(house.finish(1)) == [(uid(2), "demo:0")]


def test_the_same_model_anew_needs_no_way_back() -> None:
    house = a_set(3)
    house.send(ReloadPool(DEMO, OLD))
    assert len(asked(house.see(told(0, Outcome.READY, OLD)))) == 2
    assert asked(house.see(told(1, Outcome.FAILED))) == []
    effects = house.see(told(2, Outcome.READY, OLD))
    assert asked(effects) == []
    assert "pool_reload_failed" in notes(effects)
    assert [len(dispatched(house.submit(number))) for number in (1, 2, 3)] == [1, 1, 1]


def test_nobody_is_asked_when_nothing_can_come_of_it() -> None:
    house = House.of(pool())
    assert refused(house.send(ReloadPool(DEMO, NEW))) is Kind.POOL_UNREADY
    assert refused(house.send(ReloadPool(PoolId("none"), NEW))) is Kind.UNKNOWN_NAME
    house.see(snapshot(phase=Phase.LOADING, ready=False))
    assert refused(house.send(ReloadPool(DEMO, NEW))) is Kind.POOL_UNREADY
    house.see(snapshot(seq=2))
    for wrong in ("a\0b", "a\nb", "--help"):
        assert refused(house.send(ReloadPool(DEMO, wrong))) is Kind.INVALID_PARAMS
    house.wait(FRESH_S + 1)
    assert refused(house.send(ReloadPool(DEMO, NEW))) is Kind.POOL_UNREADY


@pytest.mark.req("ORCH-3009")
def test_a_reloaded_replica_is_warm_for_nobody() -> None:
    house = a_set(1)
    house.admit(1)
    house.finish(1)
    affinity, session = house.front.world.affinity, request(1).session_id
    assert affinity.last(session, house.now) == "demo:0"
    house.send(ReloadPool(DEMO, OLD))
    house.see(told(0, Outcome.READY, OLD))
    assert affinity.last(session, house.now) is None


# what daemons that start anew find


@pytest.mark.req("OC-CTRL-2003")
def test_a_new_orchd_takes_over_the_model_that_the_pools_remember() -> None:
    house = House.of(pool(replicas=2))
    changed: dict[str, Any] = {"model_ref": NEW, "configured_model_ref": OLD}
    house.see(ready(0, **changed))
    assert model_of(house) == NEW
    house.see(ready(1, **changed))
    assert [len(dispatched(house.submit(n, model_ref=NEW))) for n in (1, 2)] == [1, 1]


@pytest.mark.req("OC-CTRL-2003", "ORCH-3046")
def test_a_replica_that_comes_with_another_model_is_asked_for_the_sets_once() -> None:
    house = a_set(2)
    house.lose("demo:1")
    back = ready(1, seq=5, model_ref=NEW, configured_model_ref=OLD)
    assert asked(house.see(back)) == [("demo:1", OLD)]
    assert asked(house.see(back)) == []
    assert dispatched(house.submit(1)) == [(uid(1), "demo:0")]
    assert dispatched(house.submit(2)) == []
    # one whose configuration names another model is its operator's business
    assert asked(house.see(ready(1, seq=7, model_ref="mock:edited"))) == []


# drain


@pytest.mark.req("OC-CTRL-2002")
def test_a_drain_asks_every_replica_and_places_nothing_meanwhile() -> None:
    house = a_set(2)
    house.submit(10)
    house.submit(11)
    house.admit(1)
    effects = house.send(DrainPool(DEMO, 30_000))
    assert [(e.replica_id, e.deadline_ms) for e in of(effects, AskDrain)] == [
        ("demo:0", 30_000), ("demo:1", 30_000),
    ]  # fmt: skip
    health = house.front.pool_health(DEMO, house.now)
    assert (health.ready, health.draining) == (False, True)  # before they could say so
    refusal = house.refuse(2)
    assert refusal.kind is Kind.POOL_UNREADY
    assert "was asked to drain" in refusal.message
    drained = {
        "ready": False, "draining": True, "phase": Phase.EMPTYING, "status": "Drained on request",
        "last_error": BAD,
    }  # fmt: skip
    house.see(ready(0, seq=2, **drained), ready(1, seq=2, **drained))
    assert house.front.pool_health(DEMO, house.now).draining
    refusal = house.refuse(2)
    assert refusal.kind is Kind.POOL_UNREADY
    assert refusal.message == "pool demo is not ready: demo:0: Drained on request"
    # what waits keeps its place until the pool is back
    assert not dispatched(house.finish(10) + house.finish(11))
    assert dispatched(house.see(ready(0, seq=3))) == [(uid(1), "demo:0")]


@pytest.mark.req("OC-CTRL-2002")
def test_jobs_at_the_drains_deadline_are_reset_or_wait_again() -> None:
    house = a_set(2)
    house.admit(1)
    house.progress(1, tokens=3)
    house.admit(2)
    house.send(DrainPool(DEMO, 1))
    drained = {"ready": False, "draining": True, "phase": Phase.EMPTYING}
    house.see(ready(0, seq=2, **drained), ready(1, seq=2, **drained))
    broken = only(house.fail(1, Kind.DRAINING, tokens=3), Break)
    assert broken.error.envelope().code == "WORKER_RESET"
    assert broken.error.envelope().retriable
    assert not of(house.fail(2, Kind.DRAINING), Break)
    assert house.front.task_status(uid(2), house.now).state is TaskState.QUEUED


def test_a_drain_that_cannot_be_is_refused() -> None:
    house = House.of(pool())
    assert refused(house.send(DrainPool(DEMO, 1))) is Kind.POOL_UNREADY
    assert refused(house.send(DrainPool(PoolId("none"), 1))) is Kind.UNKNOWN_NAME
    house.see()
    assert refused(house.send(DrainPool(DEMO, MAX_DRAIN_MS + 1))) is Kind.INVALID_PARAMS
    assert of(house.send(DrainPool(DEMO, MAX_DRAIN_MS)), AskDrain)


# whatever happens in whatever order


class Replicas:
    """Three poolmgrs that do what they are asked, or not."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.models = [OLD] * 3
        self.numbers = [0] * 3
        self.at_it: dict[int, str] = {}
        self.seq = 10

    def hear(self, effects: list[Effect]) -> None:
        for each in of(effects, AskReload):
            self.at_it[int(each.replica_id[-1])] = each.model_ref
        for job in of(effects, Dispatch):
            index = int(job.replica_id[-1])
            assert self.models[index] == job.request.model_ref, "no task runs on another model"

    def end(self, index: int, *, well: bool) -> None:
        if index not in self.at_it:
            return
        wanted = self.at_it.pop(index)
        self.numbers[index] += 1
        if well:
            self.models[index] = wanted
        outcome = Outcome.READY if well else Outcome.FAILED
        self.say(index, Reload(
            number=Positive(self.numbers[index]), model_ref=wanted, outcome=outcome
        ))  # fmt: skip

    def say(self, index: int, reload: Reload | None = None) -> None:
        self.seq += 1
        model = self.models[index]
        old = self.house.front.world.replica(ReplicaId(f"demo:{index}")).snapshot
        self.hear(self.house.see(ready(
            index, self.seq, model_ref=model, slots_total=4,
            configured_model_ref=None if model == OLD else OLD,
            reload=reload or (old.reload if old else None),
            last_error=BAD if reload and reload.outcome is Outcome.FAILED else None,
        )))  # fmt: skip


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["reload", "well", "ill", "lose", "say", "submit", "finish"]),
        st.integers(0, 2),
    ),
    max_size=40,
)


@pytest.mark.req("OC-CTRL-2003", "ORCH-3046", "ORCH-3250")
@given(STEPS)
def test_a_set_never_serves_two_models_and_every_reload_ends(
    steps: list[tuple[str, int]],
) -> None:
    house = a_set(3)
    replicas = Replicas(house)
    number = 0
    for name, index in steps:
        house.now += 0.01
        match name:
            case "reload":
                replicas.hear(house.send(ReloadPool(DEMO, NEW if index else OLD)))
            case "well" | "ill":
                replicas.end(index, well=name == "well")
            case "lose":
                replicas.at_it.pop(index, None)
                replicas.hear(house.lose(f"demo:{index}"))
            case "say":
                if index not in replicas.at_it:
                    replicas.say(index)
            case "submit":
                number += 1
                model = model_of(house)
                replicas.hear(house.submit(number, model_ref=model, max_tokens=5))
            case _:
                if number:
                    replicas.hear(house.finish(1 + index % number))
    for _ in range(12):  # whatever is under way comes to an end
        for index in list(replicas.at_it):
            replicas.end(index, well=True)
    assert house.front.pool_health(DEMO, house.now).reloading is None
