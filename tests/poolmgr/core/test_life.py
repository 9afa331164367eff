"""The table of a replica's life: events in, effects and phases out."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import Count, NonNegative, Positive
from orchd.wire.snapshot import Canary, Gate, Gates, Outcome, Phase, Reload
from poolmgr.core import life as lf
from poolmgr.core import lifewords as lw
from poolmgr.core.life import Life
from poolmgr.core.sentences import SENTENCES

BROKEN = OrchError(Kind.VRAM_SHORT, "needs 9.8 GiB, GPU 1 has 7.1 GiB free")
SICK = OrchError(Kind.GPU_ECC, "GPU 0: Xid 63 (memory page retired or row remapped)")
GONE = OrchError(Kind.ENGINE_UNHEALTHY, "it does not answer")
SEEN = Canary(tokens=Count(16), tokens_per_s=NonNegative(40.0))
TO_READY: list[lw.Event] = [
    lw.Begun(),
    lw.DevicesFound("GPU 0 (RTX 4090)"),
    lw.Provisioned("tiny.gguf"),
    lw.StillLoading("loading model"),
    lw.Serving(),
    lw.SelfTestPassed("verified"),
]
EVERY_EVENT: list[lw.Event] = [
    *TO_READY,
    lw.Fetching("fetching new.gguf: 3 %"),
    lw.HealthLost(GONE),
    lw.Broke(BROKEN),
    lw.StopAsked(),
    lw.Drained(),
    lw.EngineStopped(),
    lw.DrainAsked(30.0),
    lw.Emptied(),
    lw.ReloadAsked("new"),
    lw.Roomy(),
    lw.Cramped(),
    lw.OldStopped(),
    lw.NewServing(),
    lw.Compared(SEEN),
    lw.NewPassed("new.gguf", "verified"),
    lw.NewBroke(BROKEN),
    lw.Sickened(SICK),
    lw.SleepComes(),
    lw.Woke(),
    lw.Awake(),
]


def brought_to(*events: lw.Event) -> Life:
    life = Life(0.0)
    for at, event in enumerate(events):
        life.handle(event, float(at))
    return life


def ready() -> Life:
    return brought_to(*TO_READY)


@pytest.mark.req("ORCH-3490")
def test_a_fetch_is_told_of_until_it_is_over() -> None:
    life = brought_to(*TO_READY[:2])
    assert life.handle(lw.Fetching("fetching m.gguf: 3 % of 4.1 GB"), 2.0) == [lw.Announce()]
    assert "(fetching m.gguf: 3 % of 4.1 GB)" in life.status(3.0, 0, 1)
    life.handle(lw.Provisioned("m.gguf"), 4.0)
    assert "fetching" not in life.status(5.0, 0, 1)
    life = ready()
    effects = life.handle(lw.ReloadAsked("hf:o/r/new.gguf", "sha256:0"), 50.0)
    assert lw.PrepareNew("hf:o/r/new.gguf", "sha256:0") in effects
    life.handle(lw.Fetching("fetching new.gguf: 9 %"), 51.0)
    assert "(fetching new.gguf: 9 %)" in life.status(52.0, 0, 1)
    life.handle(lw.Roomy(), 53.0)
    assert "fetching" not in life.status(54.0, 0, 1)


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
    assert [effect for effect in effects if effect != lw.Announce()] == [
        lw.FindDevices(),
        lw.Provision(),
        lw.StartEngine(),
        lw.SelfTest(),
        lw.BecomeReady(),
    ]


@pytest.mark.req("OC-POOL-3001")
def test_no_way_through_the_table_skips_a_gate() -> None:
    order = [Phase.DEVICES, Phase.PROVISIONING, Phase.LOADING, Phase.SELF_TEST, Phase.READY]
    into = {b: {a for (a, _), to in lf.TABLE.items() if to is b is not a} for b in order[1:]}
    for before, after in pairwise(order):
        assert before in into[after]
    # each way of a reload ends with a self-test too (below)
    assert into[Phase.READY] == {
        Phase.SELF_TEST, Phase.RELOADING, Phase.REPLACING, Phase.RESTORING, Phase.WAKING,
    }  # fmt: skip
    # who wakes was ready before the sleep
    woken = {a for (a, _), to in lf.TABLE.items() if to is Phase.WAKING is not a}
    assert woken == {Phase.READY, Phase.SLEEPING}
    slept = {a for (a, _), to in lf.TABLE.items() if to is Phase.SLEEPING is not a}
    assert slept == {Phase.READY, Phase.WAKING}
    assert into[Phase.SELF_TEST] == {Phase.LOADING}
    assert into[Phase.PROVISIONING] == {Phase.DEVICES}


@pytest.mark.req("OC-POOL-3002", "OC-POOL-3003", "ORCH-3003")
def test_a_failure_is_told_then_the_engine_ends_then_the_exit_code_of_its_row() -> None:
    life = brought_to(*TO_READY[:2])
    assert life.handle(lw.Broke(BROKEN), 9.0) == [
        lw.FailJobs(BROKEN),
        lw.Announce(),
        lw.StopEngine(),
    ]
    assert life.phase is Phase.FAILED
    assert life.last_error is not None
    assert life.last_error.kind is Kind.VRAM_SHORT
    assert life.status(10.0, 0, 1) == f"Failed: {BROKEN.message}. {BROKEN.row.advice}"
    assert life.handle(lw.EngineStopped(), 10.0) == [lw.Exit(BROKEN)]


def test_the_first_cause_stands() -> None:
    life = brought_to(*TO_READY, lw.Broke(BROKEN))
    assert life.handle(lw.Broke(OrchError(Kind.ENGINE_DIED, "later")), 20.0) == []
    assert life.last_error is not None
    assert life.last_error.kind is Kind.VRAM_SHORT
    assert life.handle(lw.EngineStopped(), 21.0) == [lw.Exit(BROKEN)]


def test_a_stop_drains_first_and_leaves_with_0() -> None:
    life = ready()
    assert life.handle(lw.StopAsked(), 10.0) == [lw.Announce(), lw.Drain(lf.DRAIN_S)]
    assert life.draining
    assert not life.ready
    assert life.handle(lw.StopAsked(), 10.5) == []
    effects = life.handle(lw.Drained(), 11.0)
    assert effects[1:] == [lw.Announce(), lw.StopEngine()]
    assert life.handle(lw.EngineStopped(), 12.0) == [lw.Exit(None)]


def test_an_engine_that_dies_while_draining_does_not_make_the_stop_a_failure() -> None:
    life = brought_to(*TO_READY, lw.StopAsked())
    assert life.handle(lw.Broke(GONE), 11.0) == [lw.FailJobs(GONE), lw.Announce(), lw.StopEngine()]
    assert life.handle(lw.Drained(), 11.5) == []
    assert life.handle(lw.EngineStopped(), 12.0) == [lw.Exit(None)]


@pytest.mark.parametrize("steps", range(1, 6))
def test_a_stop_while_loading_does_not_wait(steps: int) -> None:
    life = brought_to(*TO_READY[:steps])
    assert life.handle(lw.StopAsked(), 9.0)[1:] == [lw.Announce(), lw.StopEngine()]
    assert life.phase is Phase.STOPPING


def test_an_external_engine_may_come_back() -> None:
    life = ready()
    assert life.handle(lw.HealthLost(GONE), 10.0) == [
        lw.FailJobs(GONE),
        lw.Announce(),
        lw.WaitForHealth(),
    ]
    assert not life.ready
    assert life.last_error is not None
    life.handle(lw.Serving(), 11.0)
    assert lw.BecomeReady() in life.handle(lw.SelfTestPassed("verified"), 12.0)
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
    life.handle(lw.StopAsked(), 104.0)
    assert life.status(104.0, 1, 2) == "Draining: 1 of 2 slots busy, at most 20 s"


P, F, N = Gate.PASSED, Gate.FAILED, Gate.PENDING


@pytest.mark.req("ORCH-3421", "ORCH-3821")
@pytest.mark.parametrize(
    ("events", "gates"),
    [
        (TO_READY[:1], (N, N, N)),
        ([*TO_READY[:1], lw.Broke(BROKEN)], (N, N, N)),
        (TO_READY[:2], (N, N, N)),
        ([*TO_READY[:2], lw.Broke(OrchError(Kind.MODEL_MISSING, "no file"))], (F, N, N)),
        ([*TO_READY[:2], lw.Broke(OrchError(Kind.DIGEST_MISMATCH, "other"))], (F, N, N)),
        ([*TO_READY[:2], lw.Broke(BROKEN)], (P, F, N)),
        (TO_READY[:5], (P, P, N)),
        ([*TO_READY[:5], lw.Broke(OrchError(Kind.SELF_TEST_FAILED, "no"))], (P, P, F)),
        (TO_READY, (P, P, P)),
        ([*TO_READY, lw.HealthLost(GONE)], (P, P, N)),
        ([*TO_READY, lw.Broke(GONE)], (P, P, F)),
        ([*TO_READY, lw.ReloadAsked("new"), lw.Roomy()], (P, P, P)),
        ([*TO_READY, lw.ReloadAsked("new"), lw.NewBroke(BROKEN)], (P, P, P)),
        ([*TO_READY, lw.ReloadAsked("new"), lw.Cramped()], (P, P, N)),
        (
            [*TO_READY, lw.ReloadAsked("new"), lw.Cramped(), lw.NewBroke(BROKEN), lw.Serving()],
            (P, P, N),
        ),
        ([*TO_READY, lw.ReloadAsked("new"), lw.Cramped(), lw.NewPassed("n", "v")], (P, P, P)),
    ],
)
def test_the_three_gates_tell_how_far_it_is(
    events: list[lw.Event], gates: tuple[Gate, Gate, Gate]
) -> None:
    model, engine, health = gates
    assert brought_to(*events).gates == Gates(model=model, engine=engine, health=health)


@pytest.mark.req("OC-CTRL-2003")
@pytest.mark.parametrize(("room", "gap"), [(lw.Roomy(), False), (lw.Cramped(), True)])
def test_the_canarys_figures_and_the_gap_stand_in_the_reload(room: lw.Event, gap: bool) -> None:
    life = brought_to(*TO_READY, lw.ReloadAsked("new"), room, lw.NewServing())
    assert life.handle(lw.Compared(SEEN), 9.0) == [lw.Announce()]
    bad = OrchError(Kind.CANARY_FAILED, "the canary failed: it does 1 tokens/s")
    life.handle(lw.NewBroke(bad), 10.0)
    assert life.reload is not None
    assert (life.reload.canary, life.reload.gap) == (SEEN, gap)
    assert life.last_error is not None
    assert life.last_error.message == bad.message


def test_every_phase_has_its_sentence() -> None:
    assert set(SENTENCES) == set(Phase)


@given(st.lists(st.sampled_from(EVERY_EVENT), max_size=24))
def test_any_sequence_keeps_the_invariants(events: list[lw.Event]) -> None:
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
        exits += sum(isinstance(effect, lw.Exit) for effect in effects)
        assert not (life.ready and life.draining)
        # no job is taken but by an engine that passed its self-test
        if life.ready and before not in (Phase.READY, Phase.RELOADING):
            assert isinstance(event, lw.SelfTestPassed | lw.NewPassed | lw.ReloadAsked | lw.Awake)
        if life.reloading:
            reloads = (Phase.RELOADING, Phase.REPLACING, Phase.RESTORING)
            assert life.phase in reloads
        assert (life.phase is Phase.FAILED) <= (life.last_error is not None)
        # once on the way out there is no way back in
        if before in (Phase.DRAINING, Phase.STOPPING, Phase.FAILED):
            assert life.phase in (Phase.DRAINING, Phase.STOPPING, Phase.FAILED)
        assert life.status(float(at), 0, 1)


def trace(life: Life, *events: lw.Event) -> list[tuple[Phase, list[lw.Effect]]]:
    """Return the phase after each event, and its effects but for announcements."""
    steps = []
    for event in events:
        effects = [each for each in life.handle(event, 50.0) if each != lw.Announce()]
        steps.append((life.phase, effects))
    return steps


PASSED = lw.NewPassed("new.gguf", "verified")


@pytest.mark.req("OC-CTRL-2002", "ORCH-3038")
def test_a_drain_takes_no_job_keeps_the_model_and_says_so() -> None:
    life = ready()
    assert trace(life, lw.DrainAsked(30.0)) == [(Phase.EMPTYING, [lw.Empty(30.0)])]
    assert (life.ready, life.draining) == (False, True)
    assert life.status(50.0, 2, 4) == "Draining on request: 2 of 4 slots busy, at most 30 s"
    assert trace(life, lw.DrainAsked(5.0)) == [(Phase.EMPTYING, [lw.Empty(5.0)])]
    ((phase, effects),) = trace(life, lw.Emptied())
    assert phase is Phase.DRAINED
    assert [type(effect) for effect in effects] == [lw.FailJobs]
    assert life.draining
    assert life.status(50.0, 0, 4) == "Drained on request: tiny.gguf stays loaded and takes no jobs"
    assert trace(life, lw.DrainAsked(5.0)) == [(Phase.DRAINED, [])]
    assert life.drains == 1
    assert trace(life, lw.StopAsked()) == [(Phase.DRAINING, [lw.Drain(lf.DRAIN_S)])]
    assert life.drains == 1


def test_a_replica_that_is_drained_while_it_loads_takes_no_job_afterwards() -> None:
    life = brought_to(*TO_READY[:3])
    assert trace(life, lw.DrainAsked(30.0)) == [(Phase.LOADING, [])]
    trace(life, *TO_READY[4:])
    assert life.phase is Phase.DRAINED
    assert not life.ready


@pytest.mark.req("OC-CTRL-2003", "ORCH-3038")
def test_a_model_that_fits_beside_replaces_the_old_one_after_its_self_test() -> None:
    life = ready()
    steps = trace(life, lw.ReloadAsked("new"), lw.Roomy(), lw.NewServing())
    assert steps == [
        (Phase.RELOADING, [lw.PrepareNew("new")]),
        (Phase.RELOADING, [lw.StartNew()]),
        (Phase.RELOADING, [lw.SelfTestNew()]),
    ]
    assert life.ready
    assert life.reloading
    assert trace(life, PASSED) == [(Phase.READY, [lw.Switch()])]
    assert life.reload == Reload(number=Positive(1), model_ref="new", outcome=Outcome.READY)
    assert "new.gguf" in life.status(50.0, 0, 1)


@pytest.mark.req("OC-CTRL-2003", "ORCH-3038")
def test_a_bad_model_beside_leaves_the_old_one_serving() -> None:
    life = ready()
    trace(life, lw.ReloadAsked("new"), lw.Roomy())
    assert trace(life, lw.NewBroke(BROKEN)) == [(Phase.READY, [lw.DropNew()])]
    assert life.ready
    assert life.last_error is not None
    assert life.last_error.kind is Kind.VRAM_SHORT
    assert life.reload is not None
    assert life.reload.outcome is Outcome.FAILED
    assert life.preloads["failed", Kind.VRAM_SHORT] == 1
    trace(life, lw.ReloadAsked("other"))
    assert life.reload == Reload(number=Positive(2), model_ref="other", outcome=Outcome.RUNNING)


@pytest.mark.req("OC-CTRL-2003", "ORCH-3038", "HME-031")
def test_a_model_that_does_not_fit_beside_takes_the_place_of_the_old_one() -> None:
    life = ready()
    trace(life, lw.ReloadAsked("new"))
    assert trace(life, lw.Cramped()) == [(Phase.REPLACING, [lw.Empty(lf.EMPTY_S)])]
    assert lf.EMPTY_S < 10
    assert not life.ready
    ((_, effects),) = trace(life, lw.Emptied())
    assert [type(effect) for effect in effects] == [lw.FailJobs, lw.StopOld]
    assert trace(life, lw.OldStopped(), lw.NewServing(), PASSED) == [
        (Phase.REPLACING, [lw.StartNew()]),
        (Phase.REPLACING, [lw.SelfTestNew()]),
        (Phase.READY, [lw.Switch()]),
    ]


@pytest.mark.req("OC-CTRL-2003", "ORCH-3038")
def test_a_bad_model_in_its_place_brings_the_old_one_back_and_says_why() -> None:
    life = ready()
    trace(life, lw.ReloadAsked("new"), lw.Cramped(), lw.Emptied(), lw.OldStopped())
    assert trace(life, lw.NewBroke(BROKEN)) == [(Phase.RESTORING, [lw.Restore()])]
    assert life.reloading
    assert trace(life, lw.Serving(), lw.SelfTestPassed("verified")) == [
        (Phase.RESTORING, [lw.SelfTest()]),
        (Phase.READY, [lw.BecomeReady()]),
    ]
    assert life.reload is not None
    assert life.reload.outcome is Outcome.FAILED
    assert life.last_error is not None
    assert life.last_error.kind is Kind.VRAM_SHORT
    assert "tiny.gguf" in life.status(50.0, 0, 1)


def test_a_reload_ends_a_drain_and_a_failed_one_does_not() -> None:
    for ending, phase in ((PASSED, Phase.READY), (lw.NewBroke(BROKEN), Phase.DRAINED)):
        life = ready()
        trace(life, lw.DrainAsked(30.0), lw.Emptied(), lw.ReloadAsked("new"), lw.Roomy())
        assert not life.ready
        trace(life, ending)
        assert life.phase is phase
        assert life.draining is (phase is Phase.DRAINED)


@pytest.mark.parametrize(
    ("events", "phase"),
    [
        ([lw.Roomy()], Phase.DRAINING),
        ([lw.Cramped()], Phase.STOPPING),
        ([lw.Cramped(), lw.Emptied(), lw.OldStopped(), lw.NewBroke(BROKEN)], Phase.STOPPING),
    ],
)
def test_a_stop_during_a_reload_is_a_stop(events: list[lw.Event], phase: Phase) -> None:
    life = ready()
    trace(life, lw.ReloadAsked("new"), *events, lw.StopAsked())
    assert life.phase is phase
    assert not life.reloading


def test_an_engine_that_dies_under_a_reload_ends_the_poolmgr() -> None:
    life = ready()
    trace(life, lw.ReloadAsked("new"), lw.Roomy(), lw.Broke(GONE))
    assert life.phase is Phase.FAILED
    assert not life.reloading


@pytest.mark.req("OC-POOL-3010", "ORCH-3038", "ORCH-3053")
def test_a_sick_gpu_lets_jobs_end_and_then_is_the_failure() -> None:
    life = ready()
    assert trace(life, lw.Sickened(SICK)) == [(Phase.DRAINING, [lw.Drain(lf.DRAIN_S)])]
    assert (life.ready, life.draining) == (False, True)
    assert life.status(50.0, 1, 2) == f"Failing, {SICK.message}: 1 of 2 slots busy, at most 20 s"
    assert life.last_error is not None
    assert life.last_error.kind is Kind.GPU_ECC
    trace(life, lw.Drained())
    assert life.handle(lw.EngineStopped(), 60.0) == [lw.Exit(SICK)]


def test_a_sick_gpu_while_a_stop_drains_does_not_make_it_a_failure() -> None:
    life = brought_to(*TO_READY, lw.StopAsked())
    assert trace(life, lw.Sickened(SICK), lw.Drained())[0] == (Phase.DRAINING, [])
    assert life.handle(lw.EngineStopped(), 60.0) == [lw.Exit(None)]


def test_a_sick_gpu_under_a_load_ends_it() -> None:
    life = brought_to(*TO_READY[:3])
    assert trace(life, lw.Sickened(SICK)) == [(Phase.FAILED, [lw.FailJobs(SICK), lw.StopEngine()])]


@pytest.mark.req("OC-POOL-3012")
def test_a_sleep_drains_lets_the_machine_go_and_probes_before_jobs_come_back() -> None:
    life = ready()
    assert trace(life, lw.SleepComes()) == [(Phase.SLEEPING, [lw.Empty(lf.SLEEP_S)])]
    assert lf.SLEEP_S < 5.0  # InhibitDelayMaxSec=
    assert (life.ready, life.draining) == (False, True)
    assert "goes to sleep: 1 of 2 slots busy" in life.status(50.0, 1, 2)
    ((_, (fail, let)),) = trace(life, lw.Emptied())
    assert isinstance(fail, lw.FailJobs)
    assert fail.error.kind is Kind.DRAINING
    assert let == lw.LetSleep()
    ((phase, effects),) = trace(life, lw.Woke())
    assert (phase, effects) == (Phase.WAKING, [lw.Probe(), lw.LetSleep()])
    assert not life.ready
    assert trace(life, lw.Awake()) == [(Phase.READY, [lw.Resume()])]
    assert life.ready


@pytest.mark.req("OC-POOL-3012", "OC-POOL-3010")
def test_what_the_sleep_broke_is_a_cause_of_its_own() -> None:
    broken = OrchError(Kind.RESUME_FAILED, "after the machine's sleep gpu_mismatch: ...")
    life = brought_to(*TO_READY, lw.SleepComes(), lw.Emptied(), lw.Woke())
    assert trace(life, lw.Broke(broken)) == [(Phase.FAILED, [lw.FailJobs(broken), lw.StopEngine()])]
    assert life.handle(lw.EngineStopped(), 60.0) == [lw.Exit(broken)]


@pytest.mark.parametrize(
    "event", [lw.Woke(), lw.StopAsked(), lw.Broke(BROKEN), lw.HealthLost(GONE), lw.Sickened(SICK)]
)
def test_whatever_comes_before_the_sleep_nobody_waits_for_us_in_vain(event: lw.Event) -> None:
    life = brought_to(*TO_READY, lw.SleepComes())
    assert lw.LetSleep() in life.handle(event, 50.0)


@pytest.mark.parametrize("steps", range(1, 6))
def test_a_replica_that_takes_no_jobs_does_not_hold_up_a_sleep(steps: int) -> None:
    life = brought_to(*TO_READY[:steps])
    before = life.phase
    assert trace(life, lw.SleepComes(), lw.Woke()) == [(before, [lw.LetSleep()]), (before, [])]


def test_a_drain_outlives_a_sleep() -> None:
    life = brought_to(*TO_READY, lw.SleepComes(), lw.DrainAsked(5.0), lw.Emptied(), lw.Woke())
    trace(life, lw.Awake())
    assert life.phase is Phase.DRAINED
    assert trace(life, lw.SleepComes(), lw.Woke(), lw.Awake()) == [
        (Phase.DRAINED, [lw.LetSleep()]),
        (Phase.DRAINED, [lw.Probe()]),
        (Phase.DRAINED, []),
    ]
