"""pin, prefer, avoid_pools, require_device_mask, allow_fallback: at admission and at dispatch."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from orchd.core import invariants
from orchd.core.effects import Dispatch, Effect
from orchd.core.flow import asking
from orchd.core.placing.placement import decide
from orchd.core.state.decisions import for_slot
from orchd.wire.errors import Kind
from orchd.wire.ids import DeviceMask, PoolId
from orchd.wire.shapes import DecisionLog, Determinism, KvHint, Placement, PlacementMode, Priority
from tests.core.facts import pin, prefer
from tests.core.making import House, dispatched, notes, of, pool, request, snapshot, uid, unready

pytestmark = [pytest.mark.req("ORCH-3903")]

ONE = DeviceMask((1,))


def avoid(*pools: str, **more: Any) -> Placement:
    return Placement(avoid_pools=tuple(map(PoolId, pools)), **more)


@pytest.fixture
def two() -> House:
    """Pools a and b of one replica each, both ready, a with more free VRAM."""
    house = House.of(pool("a"), pool("b"), pool("other", model_ref="mock:other"))
    house.see(snapshot("a:0", vram_free_bytes=2000), snapshot("b:0"))
    return house


def log_of(house: House, number: int) -> DecisionLog:
    log = house.front.task_status(uid(number), house.now).decision
    assert log is not None
    return log


class TestSense:
    """What contradicts itself or names nothing is a 400 that names the field."""

    @pytest.mark.parametrize(
        ("wish", "path"),
        [
            (Placement(mode=PlacementMode.PIN), "$.placement.pin_pool_id"),
            (Placement(pin_pool_id=PoolId("a")), "$.placement.pin_pool_id"),
            (prefer("a", pin_pool_id=PoolId("a")), "$.placement.pin_pool_id"),
            (pin("nowhere"), "$.placement.pin_pool_id"),
            (prefer(), "$.placement.prefer_pools"),
            (Placement(prefer_pools=(PoolId("a"),)), "$.placement.prefer_pools"),
            (pin("a", prefer_pools=(PoolId("a"),)), "$.placement.prefer_pools"),
            (prefer("a", "nowhere"), "$.placement.prefer_pools[1]"),
            (pin("a", avoid_pools=(PoolId("a"),)), "$.placement.avoid_pools"),
        ],
    )
    def test_each(self, two: House, wish: Placement, path: str) -> None:
        error = two.refuse(placement=wish)
        assert (error.kind, error.fields.path) == (Kind.INVALID_PARAMS, path)
        assert error.message.startswith(f"{path}: ")

    def test_a_pool_to_avoid_may_be_unknown(self, two: House) -> None:
        assert two.admit(placement=avoid("nowhere")).accepted.pool_id == "a"


class TestPin:
    def test_only_the_pinned_pool_counts(self, two: House) -> None:
        assert two.admit(1, placement=pin("b")).started.replica_id == "b:0"
        assert two.admit(2, placement=pin("b")).started.replica_id is None
        assert dispatched(two.finish(1)) == [(uid(2), "b:0")]
        assert log_of(two, 2).pinned
        counts = two.front.counters()["placement_decisions_total"]
        assert counts == {("assigned", "true", "false"): 2}

    @pytest.mark.parametrize(
        ("wish", "more", "words"),
        [
            (pin("b"), {}, "pool b is not ready"),
            (pin("other"), {}, "pool other serves mock:other on mock"),
            (pin("a"), {"ctx": 9000}, "at most 8192 tokens of context"),
            (pin("a", require_device_mask=ONE), {}, "masks"),
        ],
    )
    def test_infeasible_or_unready_is_no_capacity(
        self, two: House, wish: Placement, more: dict[str, Any], words: str
    ) -> None:
        two.lose("b:0")
        error = two.refuse(placement=wish, **more)
        assert (error.kind, error.row.code) == (Kind.PINNED_POOL_INFEASIBLE, "POOL_UNAVAILABLE")
        assert error.message.startswith("pinned_pool_infeasible: ")
        assert words in error.message
        counts = two.front.counters()
        assert counts["placement_decisions_total"] == {("no_capacity", "true", "false"): 1}
        assert counts["tasks_rejected_total"] == {("mock", "pinned_pool_infeasible"): 1}

    def test_a_full_queue_is_backpressure_and_not_infeasible(self, two: House) -> None:
        for number in range(9):
            two.admit(number, placement=pin("b"))
        error = two.refuse(9, placement=pin("b"))
        assert (error.kind, error.fields.pool_id) == (Kind.QUEUE_FULL, "b")


class TestPrefer:
    def test_a_preferred_one_goes_first_also_when_another_is_free(self, two: House) -> None:
        assert two.admit(1, placement=prefer("b")).started.replica_id == "b:0"
        assert two.admit(2, placement=prefer("b")).accepted.pool_id == "b"
        log = log_of(two, 2)
        assert (log.pool_id, log.fallback_used, log.pinned) == ("b", False, False)
        assert {c.replica_id: c.excluded for c in log.considered} == {
            "a:0": "not_preferred", "b:0": None,
        }  # fmt: skip

    @pytest.mark.parametrize("how", ["lost", "full"])
    def test_without_a_feasible_one_all_the_others_count(self, two: House, how: str) -> None:
        if how == "lost":
            two.lose("b:0")
        else:
            for number in range(9):
                two.admit(10 + number, placement=pin("b"))
        assert two.admit(1, placement=prefer("b")).started.replica_id == "a:0"
        assert log_of(two, 1).fallback_used
        counts = two.front.counters()["placement_decisions_total"]
        assert counts["assigned", "false", "true"] == 1

    def test_or_nobody_without_fallback(self, two: House) -> None:
        two.lose("b:0")
        error = two.refuse(placement=prefer("b", allow_fallback=False))
        assert (error.kind, error.row.code) == (Kind.NO_PREFERRED_FEASIBLE, "POOL_UNAVAILABLE")
        assert error.message.startswith("no_preferred_feasible: pool b is not ready")
        assert two.front.counters()["placement_decisions_total"] == {
            ("no_capacity", "false", "false"): 1
        }

    def test_without_fallback_it_waits_for_its_own(self, two: House) -> None:
        two.admit(1, placement=prefer("b", allow_fallback=False))
        two.admit(2, placement=prefer("b", allow_fallback=False))
        assert dispatched(two.finish(1)) == [(uid(2), "b:0")]


class TestAvoid:
    def test_always(self, two: House) -> None:
        two.admit(1, placement=avoid("a"))
        assert two.admit(2, placement=avoid("a")).accepted.pool_id == "b"
        two.lose("b:0")
        assert two.refuse(3, placement=avoid("a")).kind is Kind.POOL_UNREADY
        error = two.refuse(4, placement=avoid("a", "b"))
        assert error.kind is Kind.POOL_UNAVAILABLE
        assert "placement leaves none of them" in error.message
        error = two.refuse(5, placement=prefer("a", avoid_pools=(PoolId("a"),)))
        assert error.kind is Kind.POOL_UNREADY


class TestMask:
    """One pool, replicas on masks 0 and 1."""

    @pytest.fixture
    def house(self) -> House:
        house = House.of(pool("demo", 2))
        house.see(snapshot("demo:0", vram_free_bytes=2000), snapshot("demo:1"))
        return house

    def test_it_must_match_exactly(self, house: House) -> None:
        wish = Placement(require_device_mask=ONE)
        assert house.admit(1, placement=wish).started.replica_id == "demo:1"
        error = house.refuse(2, placement=Placement(require_device_mask=DeviceMask((0, 1))))
        assert (error.kind, "on masks 0, 1" in error.message) == (Kind.POOL_UNAVAILABLE, True)

    def test_the_one_that_is_required_must_be_ready(self, house: House) -> None:
        house.see(unready("demo:1"))
        error = house.refuse(1, placement=Placement(require_device_mask=ONE))
        assert error.kind is Kind.POOL_UNREADY
        assert error.message.startswith("demo:1 is not ready: ")

    def test_who_waits_for_a_mask_does_not_hold_back_the_others(self, house: House) -> None:
        wish = Placement(require_device_mask=ONE)
        house.admit(1, placement=wish)
        waits = house.admit(2, placement=wish)
        assert (waits.accepted.queue_position, waits.accepted.predicted_start_ms) == (0, 1000)
        later = house.admit(3)
        assert (later.started.replica_id, later.accepted.queue_position) == ("demo:0", 0)
        # and now both masks are busy: it goes first where it may go
        house.admit(4)
        assert dispatched(house.finish(3)) == [(uid(4), "demo:0")]
        house.admit(5)
        assert dispatched(house.finish(1)) == [(uid(2), "demo:1")]
        assert dispatched(house.finish(2)) == [(uid(5), "demo:1")]

    def test_it_never_goes_elsewhere_even_when_it_came_back(self, house: House) -> None:
        house.admit(1, placement=Placement(require_device_mask=ONE))
        assert not dispatched(house.lose("demo:1"))
        assert house.front.task_status(uid(1), house.now).state == "queued"
        assert house.front.task_status(uid(1), house.now).predicted_start_ms is None
        assert dispatched(house.see(snapshot("demo:1"))) == [(uid(1), "demo:1")]

    def test_prediction_counts_the_slots_it_may_use(self, house: House) -> None:
        wish = Placement(require_device_mask=ONE)
        for number in range(4):  # 1 s each: one runs, three wait for mask 1
            house.admit(number, placement=wish)
        assert house.front.task_status(uid(3), house.now).predicted_start_ms == 3000
        assert house.admit(4).accepted.predicted_start_ms == 0  # mask 0 is free
        assert house.admit(5).accepted.predicted_start_ms == 1000  # and is again in 1 s
        assert house.admit(6, placement=wish).accepted.predicted_start_ms == 4500
        assert house.front.task_status(uid(3), house.now).predicted_start_ms == 3000

    def test_batch_that_requires_a_mask_waits_behind_interactive(self, house: House) -> None:
        house.admit(1)
        house.admit(2)
        house.admit(3, priority=Priority.BATCH, placement=Placement(require_device_mask=ONE))
        house.admit(4)
        house.admit(5)
        assert dispatched(house.finish(2)) == [(uid(4), "demo:1")]
        assert dispatched(house.finish(4)) == [(uid(5), "demo:1")]
        assert dispatched(house.finish(5)) == [(uid(3), "demo:1")]


@pytest.mark.req("ORCH-3902")
def test_a_task_waits_for_the_fast_pool_when_that_is_sooner_over() -> None:
    house = House.of(pool("fast", queue_interactive=20), pool("slow"))
    house.see(snapshot("fast:0"), snapshot("slow:0", tokens_per_s=10.0))  # 1 s or 10 s a task
    assert house.admit(1).started.replica_id == "fast:0"
    assert house.admit(2).accepted.pool_id == "fast"
    for number in range(3, 10):
        house.admit(number)
    assert house.front.task_status(uid(9), house.now).pool_id == "fast"  # over in 9 s
    assert house.admit(10).accepted.pool_id == "slow"  # over in 10 s in both: the less loaded one
    assert house.admit(11).accepted.pool_id == "fast"


@pytest.mark.req("ORCH-3901")
def test_a_kv_cache_that_does_not_fit_is_told_with_its_size() -> None:
    house = House.of(pool())
    house.see(snapshot(kv_bytes_per_token=1 << 20, vram_free_bytes=500 << 20))
    error = house.refuse(1, ctx=1000)
    assert (error.kind, error.fields.path) == (Kind.REPLICA_EXHAUSTED, "$.ctx")
    assert "takes about 1000 MiB, and demo:0 has 500 MiB of VRAM free" in error.message
    house.admit(2, ctx=500)


@pytest.mark.req("ORCH-3901", "ORCH-3022")
def test_a_cache_that_was_reserved_at_loading_takes_no_free_vram() -> None:
    house = House.of(pool())
    house.see(snapshot(kv_bytes_per_token=1 << 20, kv_reserved=True, vram_free_bytes=1 << 20))
    assert house.admit(1, ctx=1000).started.replica_id == "demo:0"


class TestAffinity:
    @pytest.fixture
    def house(self) -> House:
        house = House.of(pool("demo", 2), affinity_s=100.0)
        house.see(snapshot("demo:0", vram_free_bytes=2000), snapshot("demo:1"))
        return house

    def warm_up(self, house: House) -> None:
        """Session 7 ends a task on demo:1, the second choice; then both are free."""
        house.admit(90, session_id=uid(8))
        house.admit(91, session_id=uid(7))
        house.finish(90)
        house.finish(91)

    @pytest.mark.req("ORCH-3009", "OC-CORE-1013", "ORCH-3480", "ORCH-3022")
    def test_a_session_stays_where_it_was_and_its_cache_is_warm(self, house: House) -> None:
        self.warm_up(house)
        more = {"session_id": uid(7), "determinism": Determinism.BEST_EFFORT}
        started = house.admit(1, **more).started
        assert (started.replica_id, started.kv_warmth, started.kv_migrated) == (
            "demo:1", True, False,
        )  # fmt: skip
        status = house.front.task_status(uid(1), house.now)
        assert (status.kv_warmth, status.kv_migrated) == (True, False)
        assert house.front.metrics_frame(uid(1), house.now).kv_warmth
        assert log_of(house, 1).tie_breakers_applied == ("session_affinity",)
        # it is busy now: the next task of the session goes elsewhere, cold
        started = house.admit(2, **more).started
        assert (started.replica_id, started.kv_warmth) == ("demo:0", False)

    @pytest.mark.req("ORCH-3009", "ORCH-3023")
    def test_a_failover_is_cold(self, house: House) -> None:
        self.warm_up(house)
        more = {"session_id": uid(7), "determinism": Determinism.BEST_EFFORT}
        house.lose("demo:1")
        started = house.admit(1, **more).started
        assert (started.replica_id, started.kv_warmth, started.kv_migrated) == (
            "demo:0", False, False,
        )  # fmt: skip
        house.finish(1)
        house.see(snapshot("demo:1", vram_free_bytes=9000))
        assert house.admit(2, **more).started.replica_id == "demo:0"  # its last good one now

    def test_a_replica_that_was_lost_meanwhile_draws_nobody(self, house: House) -> None:
        self.warm_up(house)
        house.lose("demo:1")
        house.see(snapshot("demo:1"))
        assert house.admit(1, session_id=uid(7)).started.replica_id == "demo:0"

    @pytest.mark.parametrize("how", ["ttl", "forgotten", "cold"])
    def test_it_ends(self, house: House, how: str) -> None:
        self.warm_up(house)
        if how == "ttl":
            for _ in range(33):  # a replica that is not heard of for 5 s draws nobody
                house.wait(3.0)
                house.see(snapshot("demo:0", vram_free_bytes=2000), snapshot("demo:1"))
            assert house.admit(1, session_id=uid(7)).started.replica_id == "demo:1"
            house.cancel(1)
            house.free(1)
            house.wait(1.0)
        if how == "forgotten":
            house.front.world.affinity.forget(request(session_id=uid(7)).session_id)
        more = {"kv_hint": KvHint.COLD} if how == "cold" else {}
        assert house.admit(2, session_id=uid(7), **more).started.replica_id == "demo:0"

    def test_a_strict_job_stays_too_but_reads_no_cache(self, house: House) -> None:
        self.warm_up(house)
        started = house.admit(1, session_id=uid(7)).started
        assert (started.replica_id, started.kv_warmth) == ("demo:1", False)

    def test_the_table_is_bounded(self) -> None:
        house = House.of(pool("demo"), affinity_max=3)
        house.see()
        for number in range(1, 6):
            house.admit(number, session_id=uid(number))
            house.finish(number)
        affinity = house.front.world.affinity
        assert len(affinity) == 3
        known = [
            n
            for n in range(1, 6)
            if affinity.last(request(session_id=uid(n)).session_id, house.now)
        ]
        assert known == [3, 4, 5]


@pytest.mark.req("ORCH-3903", "ORCH-3410")
class AnyWish(RuleBasedStateMachine):
    """Any history: wishes hold at every dispatch, and what is remembered is what is decided."""

    def __init__(self) -> None:
        super().__init__()
        self.house = House.of(
            pool("a", 2, queue_interactive=5, queue_batch=5),
            pool("b", 2, queue_interactive=5, queue_batch=5),
        )
        self.next = 0
        self.versions = [0]

    def told(self, effects: list[Effect]) -> None:
        for sent in of(effects, Dispatch):
            wishes = sent.request.placement or Placement()
            pool_id, _, mask = sent.replica_id.partition(":")
            assert pool_id not in wishes.avoid_pools
            assert wishes.mode is not PlacementMode.PIN or pool_id == wishes.pin_pool_id
            assert str(wishes.require_device_mask or mask) == mask
            if wishes.mode is PlacementMode.PREFER and not wishes.allow_fallback:
                assert pool_id in wishes.prefer_pools

    @rule(
        wish=st.sampled_from(
            [None, pin("a"), pin("b", require_device_mask=ONE), prefer("b"), avoid("a"),
             prefer("a", allow_fallback=False), Placement(require_device_mask=ONE),
             avoid("b", require_device_mask=ONE)]
        ),
        priority=st.sampled_from(Priority),
        session=st.integers(0, 2),
        ctx=st.sampled_from([100, 5000]),
    )  # fmt: skip
    def submit(self, wish: Placement | None, priority: Priority, session: int, ctx: int) -> None:
        self.next += 1
        self.told(
            self.house.submit(
                self.next, placement=wish, priority=priority, session_id=uid(session), ctx=ctx
            )
        )

    @rule(replica=st.sampled_from(["a:0", "a:1", "b:0", "b:1"]), ready=st.booleans(),
          rate=st.sampled_from([None, 10.0, 100.0]), vram=st.sampled_from([10, 20]),
          ctx_max=st.sampled_from([4096, 8192]))  # fmt: skip
    def see(self, replica: str, ready: bool, rate: float | None, vram: int, ctx_max: int) -> None:
        more: dict[str, Any] = {"tokens_per_s": rate, "vram_free_bytes": vram, "ctx_max": ctx_max}
        self.told(self.house.see((snapshot if ready else unready)(replica, **more)))

    @rule(replica=st.sampled_from(["a:0", "b:1"]))
    def lose(self, replica: str) -> None:
        self.told(self.house.lose(replica))

    @rule(back=st.integers(0, 5), how=st.sampled_from(["finish", "fail", "cancel", "free"]))
    def over(self, back: int, how: str) -> None:
        kind = {"kind": Kind.REPLICA_EXHAUSTED} if how == "fail" else {}
        self.told(getattr(self.house, how)(max(0, self.next - back), **kind))

    @rule(seconds=st.sampled_from([0.0, 1.0, 5.0]))
    def wait(self, seconds: float) -> None:
        self.house.now += seconds  # what is due is not done yet: an answer must know by itself
        self.remembered_is_decided()
        self.told(self.house.wait(0.0))

    @invariant()
    def remembered_is_decided(self) -> None:
        world, now = self.house.front.world, self.house.now
        for each in world.pools.values():
            for session in range(3):
                asked = request(0, session_id=uid(session))
                question = asking.question(world, asked, now, may_wait=False)
                remembered = world.decisions.for_slot(each, question, now)
                assert remembered == decide(for_slot(each, question, now))

    @invariant()
    def versions_only_grow(self) -> None:
        self.versions.append(self.house.front.world.version.number)
        assert self.versions[-2] <= self.versions[-1]

    def teardown(self) -> None:
        """The house stands."""
        invariants.check(self.house.front, self.house.now)


TestAnyWish = AnyWish.TestCase
TestAnyWish.settings = settings(max_examples=40, stateful_step_count=40)


@pytest.mark.req("ORCH-3906", "ORCH-3951", "ORCH-3962")
def test_the_note_of_a_placement_says_what_was_wished() -> None:
    house = House.of(pool("a"), pool("b"))
    house.see(snapshot("a:0"), snapshot("b:0"))
    effects = house.submit(1, placement=pin("b"))
    assert "task_placed" in notes(effects)
    placed = next(e for e in effects if getattr(e, "name", "") == "task_placed")
    said = getattr(placed, "fields")  # noqa: B009
    assert (said["pinned"], said["fallback_used"], said["excluded"]) == (
        True, False, ["a:0=not_pinned"],
    )  # fmt: skip
