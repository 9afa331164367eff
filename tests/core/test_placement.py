"""decide(): feasibility with reasons, one order, one answer."""

from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from orchd.core.placement import (
    FILTERS,
    PlacementInput,
    ReplicaFacts,
    decide,
    sort_key,
    why_not,
)
from orchd.wire.ids import EngineId, PoolId, ReplicaId
from orchd.wire.shapes import Workload


def facts(number: int = 0, **more: Any) -> ReplicaFacts:
    fine = ReplicaFacts(
        replica_id=ReplicaId(f"demo:{number}"),
        pool_id=PoolId("demo"),
        engine=EngineId("mock"),
        model_ref="m",
        ready=True,
        draining=False,
        fresh=True,
        refusing=False,
        pins_differ=False,
        ctx_max=8192,
        workloads=(Workload.COMPLETION,),
        slots_total=2,
        leases=0,
        vram_free_bytes=1000,
    )
    return evolve(fine, **more)


def asked(*replicas: ReplicaFacts) -> PlacementInput:
    return PlacementInput(
        engine=EngineId("mock"),
        model_ref="m",
        workload=Workload.COMPLETION,
        ctx=4096,
        replicas=replicas,
        snapshot_version=7,
    )


BADS: dict[str, dict[str, Any]] = {
    "engine_mismatch": {"engine": EngineId("llamacpp")},
    "model_mismatch": {"model_ref": "other"},
    "not_ready": {"ready": False},
    "draining": {"draining": True},
    "stale": {"fresh": False},
    "pins_differ": {"pins_differ": True},
    "ctx": {"ctx_max": 4095},
    "workload": {"workloads": (Workload.EMBEDDING,)},
    "refusing": {"refusing": True},
    "no_slot": {"leases": 2},
}

some_facts = st.builds(
    facts,
    st.integers(0, 63),
    engine=st.sampled_from([EngineId("mock"), EngineId("mock"), EngineId("llamacpp")]),
    ready=st.sampled_from([True, True, False]),
    draining=st.sampled_from([False, False, True]),
    fresh=st.sampled_from([True, True, False]),
    ctx_max=st.sampled_from([8192, 4096, 2048]),
    slots_total=st.integers(1, 3),
    leases=st.integers(0, 3),
    vram_free_bytes=st.sampled_from([0, 1000, 12 << 30, 24 << 30]),
)
some_sets = st.lists(some_facts, max_size=8, unique_by=lambda f: f.replica_id)


def test_every_filter_is_tried_below() -> None:
    assert list(BADS) == [name for name, _ in FILTERS]


@pytest.mark.req("OC-CORE-1016", "ORCH-3010", "OC-CORE-1010", "ORCH-3971", "ORCH-3906")
@pytest.mark.parametrize("reason", BADS)
def test_one_reason_excludes_a_replica_and_the_log_says_it(reason: str) -> None:
    bad, good = facts(0, **BADS[reason]), facts(1)
    assert decide(asked(bad)).selected is None
    decision = decide(asked(bad, good))
    assert decision.selected == "demo:1"
    assert [(c.replica_id, c.excluded) for c in decision.log.considered] == [
        ("demo:0", reason),
        ("demo:1", None),
    ]


@pytest.mark.req("ORCH-3012", "OC-CORE-1012", "OC-CORE-1017", "ORCH-3906")
@pytest.mark.parametrize(
    ("replicas", "selected", "ties"),
    [
        ((facts(0), facts(1, vram_free_bytes=2000)), "demo:1", 1),
        ((facts(0, leases=1), facts(1)), "demo:1", 2),
        ((facts(1), facts(0)), "demo:0", 3),
        ((facts(1),), "demo:1", 0),
        # more VRAM counts before fewer jobs
        ((facts(0), facts(1, vram_free_bytes=2000, leases=1)), "demo:1", 1),
    ],
)
def test_the_order_is_free_vram_then_active_slots_then_id(
    replicas: tuple[ReplicaFacts, ...], selected: str, ties: int
) -> None:
    decision = decide(asked(*replicas))
    order = ("vram_free_bytes_desc", "active_slots_asc", "replica_id_asc")
    assert (decision.selected, decision.log.tie_breakers_applied) == (selected, order[:ties])
    assert decision.log.snapshot_version == 7
    assert (decision.log.pinned, decision.log.fallback_used) == (False, False)


@pytest.mark.req("HME-010", "ORCH-1103")
def test_the_larger_gpu_goes_first_and_the_smaller_one_takes_part() -> None:
    big, small = facts(1, vram_free_bytes=24 << 30), facts(0, vram_free_bytes=12 << 30)
    assert decide(asked(big, small)).selected == "demo:1"
    assert decide(asked(evolve(big, leases=2), small)).selected == "demo:0"


@pytest.mark.req("ORCH-3900", "ORCH-3950", "ORCH-3905", "ORCH-3251")
@given(some_sets, st.randoms())
def test_the_same_input_gives_the_same_answer_in_any_order(
    replicas: list[ReplicaFacts], random: Any
) -> None:
    first = decide(asked(*replicas))
    random.shuffle(replicas)
    assert decide(asked(*replicas)) == first


@pytest.mark.req("ORCH-3251", "ORCH-3012", "OC-CORE-1016", "ORCH-3411")
@given(some_sets)
def test_never_an_infeasible_one_and_always_the_first_of_the_order(
    replicas: list[ReplicaFacts],
) -> None:
    wanted = asked(*replicas)
    decision = decide(wanted)
    feasible = sorted((r for r in replicas if why_not(r, wanted) is None), key=sort_key)
    assert decision.selected == (feasible[0].replica_id if feasible else None)
    assert decision.log.selected == decision.selected
    assert {c.replica_id for c in decision.log.considered if c.excluded is None} == {
        r.replica_id for r in feasible
    }
