"""decide(): feasibility with reasons, one order within a set and one between sets, one answer."""

from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from orchd.core.placing.facts import Question, ReplicaFacts
from orchd.core.placing.filters import FILTERS, why_not
from orchd.core.placing.placement import MUCH_WORSE, PlacementInput, decide, end_ms
from orchd.wire.ids import DeviceMask, EngineId, PoolId, ReplicaId
from orchd.wire.shapes import Placement, PlacementMode, Workload
from tests.core.facts import POOLS, asked, facts, pin, some_questions, some_sets

BADS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "avoided": ({"pool": "old"}, {"wishes": Placement(avoid_pools=(PoolId("old"),))}),
    "not_pinned": ({"pool": "old"}, {"wishes": pin("demo")}),
    "engine_mismatch": ({"engine": EngineId("llamacpp")}, {}),
    "model_mismatch": ({"model_ref": "other"}, {}),
    "device_mask": ({}, {"wishes": Placement(require_device_mask=DeviceMask((1,)))}),
    "draining": ({"draining": True}, {}),
    "not_ready": ({"ready": False}, {}),
    "stale": ({"fresh": False}, {}),
    "pins_differ": ({"pins_differ": True}, {}),
    "ctx": ({"ctx_max": 4095}, {}),
    "max_tokens": ({"max_tokens": 99}, {}),
    "sampler_profile": ({"sampler_profile_version": "v0"}, {"sampler_profile_version": "v1"}),
    "workload": ({"workloads": (Workload.EMBEDDING,)}, {}),
    "vectors": ({"embedding_dim": 4096}, {"vectors": 65}),
    "not_strict": ({"strict": False}, {}),
    "kv_bytes": ({"kv_bytes_per_token": 1, "vram_free_bytes": 4095}, {}),
    "shedding": ({"shedding": True}, {"may_wait": True}),
    "queue_full": ({"full": True}, {"may_wait": True}),
    "refusing": ({"refusing": True}, {}),
    "no_slot": ({"leases": 2}, {}),
}
"""Reason -> what a replica has to be like for it, and what has to be asked."""


def test_every_filter_is_tried_below() -> None:
    assert list(BADS) == [name for name, _ in FILTERS]


@pytest.mark.req("OC-CORE-1016", "ORCH-3010", "OC-CORE-1010", "ORCH-3971", "ORCH-3906", "ORCH-3901")
@pytest.mark.parametrize("reason", BADS)
def test_one_reason_excludes_a_replica_and_the_log_says_it(reason: str) -> None:
    wrong, wanted = BADS[reason]
    bad, good = facts(0, **wrong), facts(1)
    alone = decide(asked(bad, **wanted))
    assert (alone.selected, alone.pool_id) == (None, None)
    assert alone.log.reason in ("no_capacity", "pinned_pool_infeasible")
    decision = decide(asked(bad, good, **wanted))
    assert decision.selected == decision.log.selected == "demo:1"
    assert decision.log.reason is None
    excluded = {c.replica_id: c.excluded for c in decision.log.considered}
    assert excluded == {bad.replica_id: reason, "demo:1": None}


@pytest.mark.req("ORCH-3901", "OC-CORE-1014")
@pytest.mark.parametrize("unseen", ["vram_free_bytes", "kv_bytes_per_token"])
def test_what_cannot_be_seen_excludes_nobody(unseen: str) -> None:
    seen: dict[str, Any] = {"vram_free_bytes": 10, "kv_bytes_per_token": 10}
    assert decide(asked(facts(0, **seen))).selected is None
    assert decide(asked(facts(0, **{**seen, unseen: None}))).selected == "demo:0"


@pytest.mark.req("ORCH-3012", "OC-CORE-1012", "OC-CORE-1017", "ORCH-3906")
@pytest.mark.parametrize(
    ("replicas", "selected", "ties"),
    [
        ((facts(0), facts(1, vram_free_bytes=2000)), "demo:1", 1),
        ((facts(0, leases=1), facts(1)), "demo:1", 2),
        ((facts(1), facts(0)), "demo:0", 3),
        ((facts(1),), "demo:1", 0),
        # more VRAM counts before fewer jobs, and both before the rate
        ((facts(0), facts(1, vram_free_bytes=2000, leases=1)), "demo:1", 1),
        ((facts(0, tokens_per_s=9.0), facts(1, tokens_per_s=90.0)), "demo:0", 3),
    ],
)
def test_the_order_in_a_set_is_free_vram_then_active_slots_then_id(
    replicas: tuple[ReplicaFacts, ...], selected: str, ties: int
) -> None:
    decision = decide(asked(*replicas))
    order = ("vram_free_bytes_desc", "active_slots_asc", "replica_id_asc")
    assert (decision.selected, decision.log.tie_breakers_applied) == (selected, order[:ties])
    assert decision.log.snapshot_version == 7
    assert (decision.log.pinned, decision.log.fallback_used) == (False, False)


FAST = {"tokens_per_s": 100.0, "first_token_ms": 0.0}
SLOW = {"tokens_per_s": 10.0, "first_token_ms": 0.0}


@pytest.mark.req("ORCH-3902", "ORCH-3906")
@pytest.mark.parametrize(
    ("replicas", "pool", "needed"),
    [
        # 100 tokens: 1 s on the fast one, 10 s on the slow one, whatever else is true of them
        (
            (facts(0, "a", **SLOW, vram_free_bytes=9999), facts(0, "b", **FAST, leases=1)),
            "b",
            ("predicted_end_ms_asc",),
        ),
        # waiting 5 s for the fast one is over before the slow one that is free
        ((facts(0, "a", **SLOW), facts(0, "b", **FAST, start_ms=5000)), "b", None),
        ((facts(0, "a", **SLOW), facts(0, "b", **FAST, start_ms=9001)), "a", None),
        # one is not measured: load, then free VRAM, then id
        ((facts(0, "a", **FAST, leases=1), facts(0, "b")), "b", ("load_asc",)),
        ((facts(0, "a", **FAST, waiting=1), facts(0, "b")), "b", ("load_asc",)),
        (
            (facts(0, "a", **FAST), facts(0, "b", vram_free_bytes=2000)),
            "b",
            ("load_asc", "vram_free_bytes_desc"),
        ),
        (
            (facts(0, "b", **FAST), facts(0, "a")),
            "b",
            ("load_asc", "vram_free_bytes_desc", "tokens_per_s_desc"),
        ),
        (
            (facts(0, "b"), facts(0, "a")),
            "a",
            ("load_asc", "vram_free_bytes_desc", "tokens_per_s_desc", "replica_id_asc"),
        ),
    ],
)
def test_between_sets_the_end_decides_or_else_the_tie_breakers(
    replicas: tuple[ReplicaFacts, ...], pool: str, needed: tuple[str, ...] | None
) -> None:
    decision = decide(asked(*replicas, may_wait=True))
    assert decision.pool_id == decision.log.pool_id == pool
    if needed is not None:
        assert decision.log.tie_breakers_applied == needed
    waits = next(r for r in replicas if r.pool_id == pool).start_ms
    assert decision.selected == (None if waits else f"{pool}:0")


@pytest.mark.req("HME-010", "ORCH-1103")
def test_the_larger_gpu_goes_first_and_the_smaller_one_takes_part() -> None:
    big, small = facts(1, vram_free_bytes=24 << 30), facts(0, vram_free_bytes=12 << 30)
    assert decide(asked(big, small)).selected == "demo:1"
    assert decide(asked(evolve(big, leases=2), small)).selected == "demo:0"


@pytest.mark.req("ORCH-3009", "OC-CORE-1013", "ORCH-3480")
@pytest.mark.parametrize(
    ("warm", "best", "stays"),
    [
        ({}, {"vram_free_bytes": 2000}, True),
        ({"leases": 1}, {}, True),
        ({"leases": 2}, {}, False),  # not feasible
        ({"fresh": False}, {}, False),
        ({"tokens_per_s": 81.0}, {"tokens_per_s": 100.0, "vram_free_bytes": 2000}, True),
        ({"tokens_per_s": 79.0}, {"tokens_per_s": 100.0, "vram_free_bytes": 2000}, False),
    ],
)
def test_a_session_stays_while_its_replica_is_feasible_and_not_much_worse(
    warm: dict[str, Any], best: dict[str, Any], stays: bool
) -> None:
    there = asked(facts(0, **best), facts(1, **warm), warm_on=ReplicaId("demo:1"))
    decision = decide(there)
    assert decision.selected == ("demo:1" if stays else "demo:0")
    assert (decision.log.tie_breakers_applied == ("session_affinity",)) is stays


@pytest.mark.req("ORCH-3900", "ORCH-3950", "ORCH-3905", "ORCH-3251", "ORCH-3952")
@given(some_sets, some_questions, st.randoms())
def test_the_same_input_gives_the_same_answer_in_any_order(
    replicas: list[ReplicaFacts], question: Question, random: Any
) -> None:
    first = decide(_input(replicas, question))
    random.shuffle(replicas)
    assert decide(_input(replicas, question)) == first


@pytest.mark.req("ORCH-3251", "ORCH-3901", "OC-CORE-1016", "ORCH-3411")
@given(some_sets, some_questions)
def test_never_an_infeasible_one_and_one_whenever_there_is_one(
    replicas: list[ReplicaFacts], question: Question
) -> None:
    decision = decide(_input(replicas, question))
    left = {c.replica_id for c in decision.log.considered if c.excluded is None}
    feasible = {r.replica_id: r for r in replicas if why_not(r, question) is None}
    assert left <= feasible.keys()
    assert decision.log.selected == decision.selected
    assert (decision.pool_id is None) == (not left) == (decision.log.reason is not None)
    if decision.selected is not None:
        assert decision.selected in left
        assert not feasible[decision.selected].start_ms
    elif decision.pool_id is not None:
        assert decision.start_ms > 0
        assert any(feasible[r].pool_id == decision.pool_id for r in left)


@pytest.mark.req("ORCH-3252", "ORCH-3012", "ORCH-3902", "ORCH-3009", "ORCH-3952")
@given(some_sets, some_questions)
def test_the_chosen_one_is_first_of_its_set_and_its_set_is_first(
    replicas: list[ReplicaFacts], question: Question
) -> None:
    decision = decide(_input(replicas, question))
    left = {c.replica_id for c in decision.log.considered if c.excluded is None}
    feasible = [r for r in replicas if r.replica_id in left]
    if decision.pool_id is None:
        return
    if decision.log.tie_breakers_applied == ("session_affinity",):
        warm = next(r for r in feasible if r.replica_id == question.warm_on)
        assert decision.pool_id == warm.pool_id
        ends = [end_ms(r, question) for r in _firsts(feasible)]
        here = end_ms(warm, question)
        if here is not None and None not in ends:
            assert here <= MUCH_WORSE * min(end for end in ends if end is not None)
        return
    firsts = _firsts(feasible)
    chosen = next(r for r in firsts if r.pool_id == decision.pool_id)
    assert decision.selected in (None, chosen.replica_id)
    ends = [end_ms(r, question) for r in firsts]
    if len(firsts) > 1 and None not in ends:
        assert end_ms(chosen, question) == min(end for end in ends if end is not None)
    if len(firsts) > 1 and None in ends:
        least = min((r.leases + r.waiting) / r.slots_total for r in firsts)
        assert (chosen.leases + chosen.waiting) / chosen.slots_total == least


@pytest.mark.req("ORCH-3903", "ORCH-3252", "ORCH-3952", "ORCH-3961")
@given(some_sets, some_questions)
def test_wishes_hold_whatever_the_replicas_are(
    replicas: list[ReplicaFacts], question: Question
) -> None:
    wishes = question.wishes
    decision = decide(_input(replicas, question))
    able = [
        r.pool_id for r in replicas if why_not(r, evolve(question, wishes=_hard(wishes))) is None
    ]
    assert decision.pool_id not in wishes.avoid_pools
    if decision.selected is not None and wishes.require_device_mask is not None:
        mask = next(r.device_mask for r in replicas if r.replica_id == decision.selected)
        assert mask == wishes.require_device_mask
    assert decision.log.pinned is (wishes.mode is PlacementMode.PIN)
    preferred = [pool for pool in able if pool in wishes.prefer_pools]
    if wishes.mode is PlacementMode.PIN:
        allowed, reason = [p for p in able if p == wishes.pin_pool_id], "pinned_pool_infeasible"
    elif wishes.mode is PlacementMode.PREFER and not wishes.allow_fallback:
        allowed, reason = preferred, "no_preferred_feasible"
    elif wishes.mode is PlacementMode.PREFER:
        allowed, reason = preferred or able, "no_capacity"
        assert decision.log.fallback_used is (bool(able) and not preferred)
    else:
        allowed, reason = able, "no_capacity"
    if allowed:
        assert decision.pool_id in allowed
        assert decision.log.reason is None
    else:
        assert decision.pool_id is None
        assert decision.log.reason == reason


def _hard(wishes: Placement) -> Placement:
    """Return what holds for a replica by itself: what is preferred depends on the others."""
    return evolve(wishes, mode=PlacementMode.AUTO, pin_pool_id=None, prefer_pools=())


def _input(replicas: list[ReplicaFacts], question: Question) -> PlacementInput:
    return PlacementInput(question=question, replicas=tuple(replicas), snapshot_version=7)


def _firsts(feasible: list[ReplicaFacts]) -> list[ReplicaFacts]:
    """Return the first of each set, by ORCH-3012 and by words of its own."""
    sets: dict[str, list[ReplicaFacts]] = {}
    for replica in feasible:
        sets.setdefault(replica.pool_id, []).append(replica)
    return [
        min(members, key=lambda r: (r.start_ms, -(r.vram_free_bytes or 0), r.leases, r.replica_id))
        for members in sets.values()
    ]


@pytest.mark.req("ORCH-3410", "ORCH-3905")
@given(
    some_sets,
    some_questions,
    st.fixed_dictionaries({pool: st.tuples(st.integers(0, 900), st.booleans()) for pool in POOLS}),
)
def test_a_slot_that_admission_gave_would_be_given_again_at_dispatch(
    replicas: list[ReplicaFacts], question: Question, pools: dict[PoolId, tuple[int, bool]]
) -> None:
    """runs.fill does not ask twice about one state: both questions have one answer."""
    seen = []
    for replica in replicas:
        start_ms, somebody_waits = pools[replica.pool_id]
        free = replica.leases < replica.slots_total and not replica.refusing
        at_once = free and not somebody_waits
        seen.append(
            evolve(
                replica,
                start_ms=0 if at_once else max(1, start_ms),
                waiting=int(somebody_waits),
            )
        )
    admitted = decide(_input(seen, evolve(question, may_wait=True)))
    if admitted.selected is None:
        return
    own = [evolve(r, start_ms=0, waiting=0) for r in seen if r.pool_id == admitted.pool_id]
    slot = decide(_input(own, evolve(question, may_wait=False)))
    assert slot.selected == admitted.selected
    assert (slot.log.pinned, slot.log.fallback_used) == (
        admitted.log.pinned, admitted.log.fallback_used,
    )  # fmt: skip
