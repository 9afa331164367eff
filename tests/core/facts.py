"""Replicas and questions that tests of placement put together, and Hypothesis draws."""

from __future__ import annotations

from typing import Any

from attrs import evolve
from hypothesis import strategies as st

from orchd.core.placing.facts import Question, ReplicaFacts
from orchd.core.placing.placement import PlacementInput
from orchd.wire.ids import DeviceMask, EngineId, PoolId, ReplicaId
from orchd.wire.shapes import Placement, PlacementMode, Workload

MOCK, OTHER = EngineId("mock"), EngineId("llamacpp")
POOLS = [PoolId("big"), PoolId("demo"), PoolId("old")]


def facts(number: int = 0, pool: str = "demo", **more: Any) -> ReplicaFacts:
    fine = ReplicaFacts(
        replica_id=ReplicaId(f"{pool}:{number}"),
        pool_id=PoolId(pool),
        device_mask=DeviceMask((number,)),
        engine=MOCK,
        model_ref="m",
        ready=True,
        draining=False,
        fresh=True,
        refusing=False,
        pins_differ=False,
        ctx_max=8192,
        max_tokens=4096,
        sampler_profile_version="v1",
        workloads=(Workload.COMPLETION,),
        strict=True,
        slots_total=2,
        leases=0,
        vram_free_bytes=1000,
        kv_bytes_per_token=None,
        tokens_per_s=None,
        first_token_ms=None,
    )
    return evolve(fine, **more)


def question(**more: Any) -> Question:
    plain = Question(
        engine=MOCK,
        model_ref="m",
        workload=Workload.COMPLETION,
        ctx=4096,
        max_tokens=100,
        expected_tokens=100,
        strict=True,
        sampler_profile_version=None,
        wishes=Placement(),
        warm_on=None,
        may_wait=False,
    )
    return evolve(plain, **more)


def asked(*replicas: ReplicaFacts, **more: Any) -> PlacementInput:
    return PlacementInput(question=question(**more), replicas=replicas, snapshot_version=7)


def pin(pool: str, **more: Any) -> Placement:
    return Placement(mode=PlacementMode.PIN, pin_pool_id=PoolId(pool), **more)


def prefer(*pools: str, **more: Any) -> Placement:
    return Placement(mode=PlacementMode.PREFER, prefer_pools=tuple(map(PoolId, pools)), **more)


some_facts = st.builds(
    facts,
    st.integers(0, 3),
    st.sampled_from(POOLS),
    engine=st.sampled_from([MOCK, MOCK, MOCK, OTHER]),
    ready=st.sampled_from([True, True, True, False]),
    draining=st.sampled_from([False, False, False, True]),
    fresh=st.sampled_from([True, True, True, False]),
    refusing=st.sampled_from([False, False, False, True]),
    ctx_max=st.sampled_from([8192, 4096, 2048]),
    slots_total=st.integers(1, 3),
    leases=st.integers(0, 3),
    vram_free_bytes=st.sampled_from([None, 0, 1000, 12 << 30, 24 << 30]),
    kv_bytes_per_token=st.sampled_from([None, None, 1, 1 << 20]),
    tokens_per_s=st.sampled_from([None, 50.0, 100.0]),
    first_token_ms=st.sampled_from([None, 20.0]),
    waiting=st.integers(0, 3),
    full=st.sampled_from([False, False, False, True]),
    start_ms=st.sampled_from([0, 0, 1, 900]),
)
some_sets = st.lists(some_facts, max_size=8, unique_by=lambda f: f.replica_id)
some_pools = st.lists(st.sampled_from(POOLS), max_size=3, unique=True).map(tuple)
some_masks = st.sampled_from([None, None, DeviceMask((0,)), DeviceMask((1,))])
some_wishes = st.one_of(
    st.just(Placement()),
    st.builds(Placement, avoid_pools=some_pools, require_device_mask=some_masks),
    st.builds(pin, st.sampled_from(POOLS), avoid_pools=some_pools, require_device_mask=some_masks),
    st.builds(
        Placement,
        mode=st.just(PlacementMode.PREFER),
        prefer_pools=some_pools,
        avoid_pools=some_pools,
        require_device_mask=some_masks,
        allow_fallback=st.booleans(),
    ),
)
some_questions = st.builds(
    question,
    expected_tokens=st.sampled_from([1, 100]),
    wishes=some_wishes,
    warm_on=st.sampled_from([None, None, ReplicaId("demo:0"), ReplicaId("big:1")]),
    may_wait=st.booleans(),
)
