"""The table of a replica's life: events in, effects and phases out."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchd.wire.errors import Kind, OrchError
from orchd.wire.snapshot import Phase
from poolmgr.core import life as lf
from poolmgr.core.life import Life

BROKEN = OrchError(Kind.VRAM_SHORT, "needs 9.8 GiB, GPU 1 has 7.1 GiB free")
GONE = OrchError(Kind.ENGINE_UNHEALTHY, "it does not answer")
TO_READY: list[lf.Event] = [
    lf.Begun(),
    lf.DevicesFound("GPU 0 (RTX 4090)"),
    lf.Provisioned("tiny.gguf"),
    lf.StillLoading("loading model"),
    lf.Serving(),
    lf.SelfTestPassed("verified"),
]
EVERY_EVENT: list[lf.Event] = [
    *TO_READY,
    lf.HealthLost(GONE),
    lf.Broke(BROKEN),
    lf.StopAsked(),
    lf.Drained(),
    lf.EngineStopped(),
]


def brought_to(*events: lf.Event) -> Life:
    life = Life(0.0)
    for at, event in enumerate(events):
        life.handle(event, float(at))
    return life


def ready() -> Life:
    return brought_to(*TO_READY)


@pytest.mark.req("ORCH-3002", "OC-POOL-3001", "ORCH-3421", "ORCH-3821")
def test_ready_comes_after_all_three_gates_and_only_then() -> None:
    life = Life(0.0)
    phases, effects = [], []
    for at, event in enumerate(TO_READY):
        assert not life.ready
        effects += life.handle(event, float(at))
        phases.append(life.phase)
    assert life.ready
    assert phases == [
        Phase.DEVICES,
        Phase.PROVISIONING,
        Phase.LOADING,
        Phase.LOADING,
        Phase.SELF_TEST,
        Phase.READY,
    ]
    assert [effect for effect in effects if effect != lf.Announce()] == [
        lf.FindDevices(),
        lf.Provision(),
        lf.StartEngine(),
        lf.SelfTest(),
        lf.BecomeReady(),
    ]


@pytest.mark.req("OC-POOL-3001")
def test_no_way_through_the_table_skips_a_gate() -> None:
    order = [Phase.DEVICES, Phase.PROVISIONING, Phase.LOADING, Phase.SELF_TEST, Phase.READY]
    into = {b: {a for (a, _), to in lf.TABLE.items() if to is b is not a} for b in order[1:]}
    for before, after in pairwise(order):
        assert before in into[after]
    assert into[Phase.READY] == {Phase.SELF_TEST}
    assert into[Phase.SELF_TEST] == {Phase.LOADING}
    assert into[Phase.PROVISIONING] == {Phase.DEVICES}


@pytest.mark.req("OC-POOL-3002", "OC-POOL-3003", "ORCH-3003")
def test_a_failure_is_told_then_the_engine_ends_then_the_exit_code_of_its_row() -> None:
    life = brought_to(*TO_READY[:2])
    assert life.handle(lf.Broke(BROKEN), 9.0) == [
        lf.FailJobs(BROKEN),
        lf.Announce(),
        lf.StopEngine(),
    ]
    assert life.phase is Phase.FAILED
    assert life.last_error is not None
    assert life.last_error.kind is Kind.VRAM_SHORT
    assert life.status(10.0, 0, 1) == f"Failed: {BROKEN.message}. {BROKEN.row.advice}"
    assert life.handle(lf.EngineStopped(), 10.0) == [lf.Exit(BROKEN)]


def test_the_first_cause_stands() -> None:
    life = brought_to(*TO_READY, lf.Broke(BROKEN))
    assert life.handle(lf.Broke(OrchError(Kind.ENGINE_DIED, "later")), 20.0) == []
    assert life.last_error is not None
    assert life.last_error.kind is Kind.VRAM_SHORT
    assert life.handle(lf.EngineStopped(), 21.0) == [lf.Exit(BROKEN)]


def test_a_stop_drains_first_and_leaves_with_0() -> None:
    life = ready()
    assert life.handle(lf.StopAsked(), 10.0) == [lf.Announce(), lf.Drain(lf.DRAIN_S)]
    assert life.draining
    assert not life.ready
    assert life.handle(lf.StopAsked(), 10.5) == []
    effects = life.handle(lf.Drained(), 11.0)
    assert effects[1:] == [lf.Announce(), lf.StopEngine()]
    assert life.handle(lf.EngineStopped(), 12.0) == [lf.Exit(None)]


def test_an_engine_that_dies_while_draining_does_not_make_the_stop_a_failure() -> None:
    life = brought_to(*TO_READY, lf.StopAsked())
    assert life.handle(lf.Broke(GONE), 11.0) == [lf.FailJobs(GONE), lf.Announce(), lf.StopEngine()]
    assert life.handle(lf.Drained(), 11.5) == []
    assert life.handle(lf.EngineStopped(), 12.0) == [lf.Exit(None)]


@pytest.mark.parametrize("steps", range(1, 6))
def test_a_stop_while_loading_does_not_wait(steps: int) -> None:
    life = brought_to(*TO_READY[:steps])
    assert life.handle(lf.StopAsked(), 9.0)[1:] == [lf.Announce(), lf.StopEngine()]
    assert life.phase is Phase.STOPPING


def test_an_external_engine_may_come_back() -> None:
    life = ready()
    assert life.handle(lf.HealthLost(GONE), 10.0) == [
        lf.FailJobs(GONE),
        lf.Announce(),
        lf.WaitForHealth(),
    ]
    assert not life.ready
    assert life.last_error is not None
    life.handle(lf.Serving(), 11.0)
    assert lf.BecomeReady() in life.handle(lf.SelfTestPassed("verified"), 12.0)
    assert life.last_error is None


@pytest.mark.req("OC-POOL-3003")
def test_status_lines_tell_what_goes_on() -> None:
    life = Life(100.0)
    said = []
    for event in TO_READY:
        life.handle(event, 100.0)
        said.append(life.status(103.4, 1, 2))
    assert said[0] == "Looking for the GPUs of the mask"
    assert said[1] == "Preparing the model and the engine for GPU 0 (RTX 4090): 3 s"
    assert said[2] == "Loading tiny.gguf into GPU 0 (RTX 4090): 3 s"
    assert said[3] == "Loading tiny.gguf into GPU 0 (RTX 4090): 3 s (loading model)"
    assert said[4] == "Testing tiny.gguf on GPU 0 (RTX 4090): 3 s"
    assert said[5] == "Ready: 1 of 2 slots busy; tiny.gguf on GPU 0 (RTX 4090), verified"
    life.handle(lf.StopAsked(), 104.0)
    assert life.status(104.0, 1, 2) == "Draining: 1 of 2 slots busy, at most 20 s"


@given(st.lists(st.sampled_from(EVERY_EVENT), max_size=12))
def test_any_sequence_keeps_the_invariants(events: list[lf.Event]) -> None:
    life = Life(0.0)
    exits = 0
    for at, event in enumerate(events):
        before = life.phase
        legal = (before, type(event)) in lf.TABLE
        try:
            effects = life.handle(event, float(at))
        except lf.IllegalEventError:
            assert not legal
            assert life.phase is before
            continue
        assert legal
        exits += sum(isinstance(effect, lf.Exit) for effect in effects)
        assert not (life.ready and life.draining)
        assert (life.phase is Phase.FAILED) <= (life.last_error is not None)
        # once on the way out there is no way back in
        if before in (Phase.DRAINING, Phase.STOPPING, Phase.FAILED):
            assert life.phase in (Phase.DRAINING, Phase.STOPPING, Phase.FAILED)
        assert life.status(float(at), 0, 1)
