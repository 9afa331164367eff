"""Where features meet: what one of them does must not break what another one promised."""

from __future__ import annotations

from typing import Any

import pytest

from orchd.core.effects import Accepted, Break, Dispatch, Refused
from orchd.core.events import CatalogChanged, EndSession
from orchd.core.given.cards import ModelCard
from orchd.core.limits.budgets import Budget
from orchd.core.limits.throttle import Rates
from orchd.wire.errors import Kind
from orchd.wire.ids import DeviceMask, PoolId, ReplicaId
from orchd.wire.policy import FullPolicy
from orchd.wire.shapes import Placement, PlacementMode, PlacementOutcome, Priority
from tests.core.making import (
    House,
    dispatched,
    of,
    only,
    pool,
    request,
    session_id,
    snapshot,
    uid,
    unready,
)

BATCH: dict[str, Any] = {"priority": Priority.BATCH}
MIB = 1 << 20


def prefer(*pools: str, **more: Any) -> Placement:
    named = tuple(PoolId(name) for name in pools)
    return Placement(mode=PlacementMode.PREFER, prefer_pools=named, **more)


class TestKvCache:
    """What does not fit is told of the replica that it does not fit on."""

    @pytest.mark.req("ORCH-3901", "ORCH-3903")
    def test_of_a_pool_that_the_client_does_not_want_nothing_is_told(self) -> None:
        house = House.of(pool("a"), pool("b"))
        house.see(unready("a:0"))
        house.see(snapshot("b:0", kv_bytes_per_token=MIB, vram_free_bytes=500 * MIB))
        error = house.refuse(placement=prefer("a", allow_fallback=False))
        assert error.kind is Kind.NO_PREFERRED_FEASIBLE
        assert error.fields.pool_id == "a"
        assert "pool a is not ready" in error.message

    @pytest.mark.req("ORCH-3901")
    def test_a_pool_that_is_too_small_for_another_reason_is_not_named(self) -> None:
        house = House.of(pool("a", ctx=900), pool("b"))
        house.see(snapshot("a:0", vram_free_bytes=9000 * MIB))
        house.see(snapshot("b:0", kv_bytes_per_token=MIB, vram_free_bytes=500 * MIB))
        error = house.refuse()
        assert error.kind is Kind.REPLICA_EXHAUSTED
        assert error.fields.pool_id == "b"
        assert "about 1000 MiB, and b:0 has 500 MiB" in error.message


class TestExplain:
    """It says what the task would be refused with, whichever feature refuses it."""

    @pytest.mark.req("ORCH-3906")
    def test_a_session_that_had_its_turns_is_told_and_not_ended(self) -> None:
        house = House.of(session_turns=1)
        house.see()
        house.admit(1)
        told = house.front.explain(request(2, session_id=session_id(1)), house.now, "me")
        assert told.outcome is PlacementOutcome.REFUSED
        assert told.refusal is not None
        assert told.refusal.code == "INVALID_PARAMS"
        assert "had its 1 turn and" in told.refusal.message
        assert house.front.session(session_id(1), house.now).turns == 1

    @pytest.mark.req("ORCH-3906")
    def test_a_budget_that_is_short_is_told(self) -> None:
        house = House.of(budget=Budget(tokens=50))
        house.see()
        told = house.front.explain(request(1), house.now, "me")
        assert told.outcome is PlacementOutcome.REFUSED
        assert told.refusal is not None
        assert "has 50 tokens left" in told.refusal.message

    @pytest.mark.req("ORCH-3906", "ORCH-3006")
    def test_a_throttle_is_told_and_nothing_is_taken(self) -> None:
        house = House.of(rates=Rates(requests_per_s=1.0, burst=1))
        house.see()
        for _ in range(3):
            told = house.front.explain(request(1), house.now, "me")
            assert told.outcome is PlacementOutcome.ASSIGNED
        house.admit(1)
        told = house.front.explain(request(2), house.now, "me")
        assert told.refusal is not None
        assert told.refusal.policy_label == "throttle"
        assert house.front.explain(request(2), house.now, "you").refusal is None

    @pytest.mark.req("ORCH-3961")
    def test_of_two_refusals_it_tells_the_one_that_submit_tells(self) -> None:
        house = House.of(rates=Rates(requests_per_s=1.0, burst=1))
        house.see()
        house.admit(1)
        retired = ModelCard("lorem", "sha256:" + "ab" * 32, "mock:lorem", closes_at=house.now)
        house.send(CatalogChanged((retired,)))
        told = house.front.explain(request(2, model_ref="lorem"), house.now, "me")
        assert told.refusal is not None
        refused = house.refuse(2, model_ref="lorem")
        assert refused.kind is Kind.THROTTLED
        assert told.refusal == refused.envelope()

    @pytest.mark.req("ORCH-3906")
    def test_a_position_counts_the_one_who_would_leave(self) -> None:
        house = House.of(pool(full_policy=FullPolicy.DROP_LRU, queue_interactive=1, queue_batch=1))
        house.see()
        house.admit(1)
        house.admit(2, **BATCH)
        house.admit(3)
        told = house.front.explain(request(4, **BATCH), house.now, "me")
        assert told.queue_position == 1
        assert house.admit(4, **BATCH).accepted.queue_position == 1


@pytest.mark.req("ORCH-3009", "ORCH-3021")
def test_the_end_of_a_job_does_not_bring_a_deleted_session_back() -> None:
    house = House.of(pool("demo", 2))
    house.see(snapshot("demo:0"), snapshot("demo:1", vram_free_bytes=2000))
    house.admit(1)
    house.send(EndSession(session_id(1)))
    house.finish(1)
    assert len(house.front.world.affinity) == 0


@pytest.mark.req("ORCH-3010")
def test_nothing_starts_in_the_step_in_which_its_own_deadline_passes() -> None:
    house = House.of(pool("demo", 2))
    house.see(snapshot("demo:0", ctx_max=8192), unready("demo:1"))
    house.admit(1)
    head = house.admit(2, ctx=8192, deadline_ms=20_000)
    house.admit(3, deadline_ms=20_000)
    assert head.accepted.queue_position == 0
    # the replica that comes is too small for the head, and so the task behind it waits as well
    house.see(snapshot("demo:1", ctx_max=1000, tokens_per_s=None))
    effects: list[Any] = []
    for _ in range(4):
        house.now += 4.9
        effects += house.see(snapshot("demo:1", ctx_max=1000), snapshot("demo:0"))
    assert not of(effects, Dispatch)
    effects = house.wait(0.5)
    assert not of(effects, Dispatch)
    assert {e.task_id: e.error.kind for e in of(effects, Break)} == {
        uid(2): Kind.DEADLINE_UNMET,
        uid(3): Kind.DEADLINE_UNMET,
    }


REFUSALS: dict[str, dict[str, Any]] = {
    "throttled": {"rates": Rates(requests_per_s=1.0, burst=1)},
    "session_over": {"session_turns": 1},
    "budget_short": {"budget": Budget(tokens=150)},
    "queue_full": {},
    "deadline_unmet": {},
    "pool_unready": {},
}


@pytest.mark.req("ORCH-3024", "OC-CORE-1023", "ORCH-3006")
@pytest.mark.parametrize("kind", REFUSALS)
def test_a_refused_task_leaves_nothing_behind_and_may_be_sent_again(kind: str) -> None:
    house = House.of(pool(queue_interactive=1), **REFUSALS[kind])
    house.see()
    same: dict[str, Any] = {"session_id": session_id(1)}
    more: dict[str, Any] = {}
    if kind != "pool_unready":
        house.admit(1)
    if kind == "throttled":
        house.now += 0.5
    if kind == "queue_full":
        house.admit(3)
    if kind == "deadline_unmet":
        more["deadline_ms"] = 500
    if kind == "pool_unready":
        house.lose()
    if kind in ("session_over", "budget_short"):
        more |= same
    world = house.front.world
    before = len(world.tasks), world.queued_bytes, len(world.timers)
    error = house.refuse(2, **more)
    assert error.kind.value == kind
    assert (len(world.tasks), world.queued_bytes, len(world.timers)) == before
    assert len(world.sessions.known) == (kind not in ("pool_unready", "session_over")) + (
        kind == "queue_full"
    )
    house.see()
    for number in (1, 3):
        if uid(number) in world.tasks:
            house.finish(number)
    house.now += 2
    house.see()
    again = house.admit(2, **more)
    assert again.fresh
    assert not house.admit(2, **more).fresh


@pytest.mark.req("ORCH-3904", "OC-CORE-1023")
def test_who_is_dropped_gives_its_session_its_budget_back() -> None:
    house = House.of(
        pool(full_policy=FullPolicy.DROP_LRU, queue_interactive=1, queue_batch=1),
        budget=Budget(tokens=250),
    )
    house.see()
    house.admit(1)
    house.admit(2, **BATCH)
    house.admit(3)
    dropped = house.submit(4, **BATCH)
    assert only(dropped, Break).task_id == uid(2)
    left = house.front.session(session_id(2), house.now).tokens_budget_remaining
    assert left == 250
    # sent again as a new task, it is let in with all of its budget
    assert not of(house.submit(5, **BATCH, session_id=session_id(2)), Refused)


@pytest.mark.req("ORCH-3903", "ORCH-3009")
def test_a_session_does_not_follow_its_replica_into_a_pool_that_is_drained_or_avoided() -> None:
    house = House.of(pool("a"), pool("b"))
    house.see(snapshot("a:0"), snapshot("b:0"))
    one: dict[str, Any] = {"session_id": session_id(1)}
    assert dispatched(house.submit(1, **one)) == [(uid(1), ReplicaId("a:0"))]
    house.finish(1)
    avoid = Placement(avoid_pools=(PoolId("a"),))
    assert dispatched(house.submit(2, **one, placement=avoid)) == [(uid(2), ReplicaId("b:0"))]
    house.finish(2)
    assert dispatched(house.submit(3, **one)) == [(uid(3), ReplicaId("b:0"))]
    house.finish(3)
    house.see(snapshot("b:0", draining=True))
    assert dispatched(house.submit(4, **one)) == [(uid(4), ReplicaId("a:0"))]
    pinned = Placement(mode=PlacementMode.PIN, pin_pool_id=PoolId("b"))
    assert house.refuse(5, **one, placement=pinned).kind is Kind.PINNED_POOL_INFEASIBLE


@pytest.mark.req("ORCH-3903", "OC-CORE-1004")
def test_who_comes_back_to_its_lane_is_first_there_and_batch_keeps_its_turn() -> None:
    house = House.of(pool("demo", 2, batch_after=1))
    house.see(snapshot("demo:0"), snapshot("demo:1"))
    on: dict[str, Any] = {"placement": Placement(require_device_mask=DeviceMask((1,)))}
    house.admit(1, **on)
    house.admit(2)
    house.admit(3, **on)
    house.admit(4, **on, **BATCH)
    house.lose("demo:1")
    back = house.see(snapshot("demo:1"))
    assert dispatched(back) == [(uid(1), ReplicaId("demo:1"))]
    assert dispatched(house.finish(1)) == [(uid(4), ReplicaId("demo:1"))]
    assert dispatched(house.finish(4)) == [(uid(3), ReplicaId("demo:1"))]
    assert only(house.submit(1, **on), Accepted).fresh is False


@pytest.mark.req("ORCH-3907", "ORCH-3980")
def test_placement_is_not_asked_for_a_task_that_a_gate_keeps_out() -> None:
    house = House.of(rates=Rates(requests_per_s=1.0, burst=1))
    house.see()
    house.admit(1)
    house.see(unready())
    pinned = Placement(mode=PlacementMode.PIN, pin_pool_id=PoolId("demo"))
    assert house.refuse(2, placement=pinned).kind is Kind.THROTTLED
    card = ModelCard("lorem", "sha256:" + "0" * 64, "mock:lorem", closes_at=0.0)
    house.send(CatalogChanged((card,)))
    house.now += 1
    assert house.refuse(3, placement=pinned).kind is Kind.MODEL_DEPRECATED
    counted = house.front.counters()["placement_decisions_total"]
    assert counted == {("assigned", "false", "false"): 1}
    house.send(CatalogChanged(()))
    assert house.refuse(4, placement=pinned).kind is Kind.PINNED_POOL_INFEASIBLE
    assert (
        counted | {("no_capacity", "true", "false"): 1}
        == (house.front.counters()["placement_decisions_total"])
    )
