"""The life of tasks through the one door: events in, effects compared whole."""

from collections.abc import Callable
from typing import Any

import pytest

from orchd.core.effects import (
    Accepted,
    Break,
    CancelJob,
    Dispatch,
    Effect,
    Finish,
    Moved,
    Note,
    Observe,
    Seal,
)
from orchd.core.events import DrainAll
from orchd.core.given.spec import Watchdog
from orchd.wire.errors import Kind
from orchd.wire.ids import Count, PoolId, ReplicaId
from orchd.wire.shapes import Priority, Started, TaskAccepted, TaskState
from orchd.wire.snapshot import FRESH_S, Phase
from tests.core.making import (
    House,
    acts,
    canceled,
    dispatched,
    ended,
    notes,
    of,
    only,
    pool,
    request,
    snapshot,
    uid,
    unready,
)

INTERACTIVE, BATCH = Priority.INTERACTIVE, Priority.BATCH


@pytest.mark.req("ORCH-3906", "ORCH-3951", "ORCH-3962")
def test_a_placement_is_logged_with_its_decision_and_counted() -> None:
    house = House.of(pool(replicas=3))
    house.see(unready("demo:0"), snapshot("demo:1"), snapshot("demo:2", vram_free_bytes=2000))
    note = of(house.submit(1), Note)[1]
    said = {key: note.fields[key] for key in (
        "selected", "considered", "excluded", "filters_applied", "tie_breakers_applied", "pinned",
        "fallback_used",
    )}  # fmt: skip
    assert (note.name, said) == ("task_placed", {
        "selected": "demo:2", "considered": ["demo:0", "demo:1", "demo:2"],
        "excluded": ["demo:0=not_ready"], "filters_applied": ["not_ready"],
        "tie_breakers_applied": ["vram_free_bytes_desc"],
        "pinned": False, "fallback_used": False,
    })  # fmt: skip
    counts = house.front.counters()["placement_decisions_total"]
    assert counts == {("assigned", "false", "false"): 1}
    assert house.front.gauges(house.now)["placement_candidates_considered"] == {(): 3}


def test_a_task_from_admission_to_its_end(house: House) -> None:
    effects = house.submit(1)
    zero, demo = Count(0), PoolId("demo")
    assert acts(effects) == [
        Accepted(
            uid(1),
            TaskAccepted(
                task_id=uid(1), queue_position=zero, predicted_start_ms=zero, backoff_ms=zero,
                predicted_start_p90_ms=zero, pool_id=demo, stream_url=f"/v1/tasks/{uid(1)}/stream",
            ),
            Started(
                queue_position=zero, predicted_start_ms=zero, correlation_id="c-1",
                pool_id=demo, replica_id=ReplicaId("demo:0"), engine_version="1.0",
                tokens_used=zero,
            ),
            True,
        ),
        Dispatch(uid(1), ReplicaId("demo:0"), request(1), "c-1"),
    ]  # fmt: skip
    assert notes(effects) == ["task_admitted", "task_placed"]
    house.now += 0.2
    effects = house.progress(1, 1)
    assert acts(effects) == []
    assert notes(effects) == ["task_started"]
    assert only(effects, Observe).value_ms == pytest.approx(200)
    house.now += 0.8
    effects = house.finish(1, 10)
    assert acts(effects) == [Finish(uid(1), ended(10))]
    assert notes(effects) == ["task_ended"]
    assert only(effects, Observe) == Observe(
        "latency_decode_ms", "mock", "1.0", "demo", INTERACTIVE, 1000
    )


@pytest.mark.req("ORCH-3027", "OC-CORE-1040")
def test_the_notes_carry_the_fields_and_never_the_prompt(house: House) -> None:
    found = of(house.submit(1, prompt="a secret wish") + house.finish(1), Note)
    last = dict(found[-1].fields)
    assert {
        "job_id": uid(1), "session_id": uid(9_001), "engine": "mock", "engine_version": "1.0",
        "pool_id": "demo", "replica_id": "demo:0", "model_id": "mock:lorem", "ctx": 1000,
        "kv_warmth": False, "queue_time_ms": 0, "tokens_in": 3, "tokens_out": 10,
        "decode_time_ms": 1000, "correlation_id": "c-1",
    }.items() <= last.items()  # fmt: skip
    first = dict(found[0].fields)
    assert (first["queue_position"], first["predicted_start_ms"]) == (0, 0)
    assert all(note.human for note in found)
    assert "secret" not in repr(found)


# requirements.md, ORCH-3027, word for word
LOGGED = """job_id, session_id, engine, engine_version, pool_id, replica_id, model_id, quant,
ctx, kv_warmth, queue_position, predicted_start_ms, queue_time_ms, tokens_in, tokens_out,
decode_time_ms"""


@pytest.mark.req("ORCH-3027", "OC-CORE-1040", "OC-CTRL-2050")
def test_the_notes_of_a_task_have_every_field_between_them() -> None:
    ref = "file:/models/tiny-Q4_K_M.gguf"
    house = House.of(pool(model_ref=ref))
    house.see(snapshot(model_ref=ref))
    found = of(house.submit(1, model_ref=ref) + house.finish(1), Note)
    known = {name: value for note in found for name, value in note.fields.items()}
    assert {name.strip() for name in LOGGED.split(",")} <= {
        name for name, value in known.items() if value is not None
    }
    assert all(note.fields["quant"] == "Q4_K_M" for note in found)


@pytest.mark.req("OC-CORE-1003", "OC-CORE-1004")
def test_interactive_first_and_each_class_in_order(house: House) -> None:
    house.admit(1)
    house.admit(2, priority=BATCH)
    house.admit(3, priority=BATCH)
    house.admit(4)
    assert house.admit(5).accepted.queue_position == 1
    assert house.admit(6, priority=BATCH).accepted.queue_position == 4
    order = []
    for number in (1, 4, 5, 2, 3):
        order += dispatched(house.finish(number))
    assert [task_id for task_id, _ in order] == [uid(n) for n in (4, 5, 2, 3, 6)]


@pytest.mark.req("ORCH-3010", "ORCH-3971")
def test_never_more_jobs_than_slots_whatever_the_snapshot_says() -> None:
    house = House.of()
    house.see(snapshot(slots_total=2))
    assert [len(dispatched(house.submit(n))) for n in (1, 2, 3)] == [1, 1, 0]
    assert not dispatched(house.see(snapshot(slots_total=2, slots_active=0, seq=2)))
    assert dispatched(house.see(snapshot(slots_total=3, seq=3))) == [(uid(3), "demo:0")]


@pytest.mark.req("ORCH-3010", "ORCH-3011", "OC-CORE-1010", "OC-CORE-1011")
@pytest.mark.parametrize(
    "not_now",
    [
        unready("demo:1"),
        snapshot("demo:1", draining=True),
        snapshot("demo:1", sampler_profile_version="v2"),
        snapshot("demo:1", engine_version="2.0"),
        snapshot("demo:1", model_ref="mock:other"),
    ],
)
def test_only_a_ready_replica_of_the_set_gets_work(not_now: Any) -> None:
    house = House.of(pool(replicas=2))
    house.see(snapshot("demo:0"), not_now)
    assert dispatched(house.submit(1)) == [(uid(1), "demo:0")]
    assert dispatched(house.submit(2)) == []
    assert dispatched(house.see(snapshot("demo:1", seq=2))) == [(uid(2), "demo:1")]


@pytest.mark.req("ORCH-3971")
def test_a_stale_replica_is_not_placed_on_until_it_is_heard_of_again(house: House) -> None:
    house.admit(1)
    house.admit(2)
    assert notes(house.wait(FRESH_S)) == ["replica_unready"]
    assert not dispatched(house.finish(1))
    assert house.refuse(3).kind is Kind.POOL_UNREADY
    effects = house.see(snapshot(seq=4))
    assert dispatched(effects) == [(uid(2), "demo:0")]
    assert notes(effects)[0] == "replica_ready"


class TestCancel:
    """Cancel: once, at once, in every state."""

    @pytest.mark.req("OC-CORE-1005", "ORCH-3026", "OC-CTRL-2012")
    def test_queued(self, house: House) -> None:
        house.admit(1)
        house.admit(2)
        effects = house.cancel(2)
        assert acts(effects) == [Seal(uid(2), "client"), Finish(uid(2), canceled())]
        assert notes(effects) == ["task_canceled"]
        assert acts(house.cancel(2)) == []
        assert not dispatched(house.finish(1))  # it is never dispatched

    @pytest.mark.req("OC-CORE-1005", "ORCH-3026", "OC-CTRL-2012", "ORCH-3971")
    def test_running_keeps_its_slot_until_it_is_free(self, house: House) -> None:
        house.admit(1)
        house.admit(2)
        house.progress(1, 5)
        house.now += 1.5
        effects = house.cancel(1, "disconnect", tokens=7)
        assert acts(effects) == [
            Seal(uid(1), "disconnect"),
            CancelJob(uid(1), ReplicaId("demo:0")),
            Finish(uid(1), canceled(7, 1500)),
            Moved(uid(2), 0, 100, 1, 1.0, 164),
        ]
        assert acts(house.cancel(1)) == []
        assert acts(house.progress(1, 9)) == []
        assert house.front.task_status(uid(1), house.now).state is TaskState.CANCELED
        assert dispatched(house.free(1, 9)) == [(uid(2), "demo:0")]
        assert acts(house.cancel(1)) == []
        counts = house.front.counters()
        assert counts["tokens_out_total"] == {("mock", "1.0", "demo", "demo:0"): 9}
        assert counts["tasks_canceled_total"] == {
            ("mock", "1.0", "demo", "demo:0", "disconnect"): 1
        }

    @pytest.mark.parametrize("crossed", ["finish", "fail", "lose"])
    def test_an_end_that_crosses_it_frees_the_slot_and_says_nothing(
        self, house: House, crossed: str
    ) -> None:
        house.admit(1)
        house.cancel(1)
        steps: dict[str, Callable[[], list[Effect]]] = {
            "finish": house.finish, "fail": house.fail, "lose": house.lose,
        }  # fmt: skip
        assert acts(steps[crossed]()) == []
        assert acts(house.free(1)) == []
        assert house.front.task_status(uid(1), house.now).state is TaskState.CANCELED

    def test_an_unknown_task(self, house: House) -> None:
        error = house.cancel(9)
        assert [e.error.kind for e in error] == [Kind.UNKNOWN_ID]  # type: ignore[union-attr]

    def test_what_is_over(self, house: House) -> None:
        house.admit(1)
        house.finish(1)
        assert house.cancel(1) == []


class TestLost:
    """A replica is gone: what had no token waits again, the rest fails."""

    def test_without_a_token_they_are_next_again_in_order(self) -> None:
        house = House.of(pool(replicas=2))
        house.see(snapshot("demo:0", slots_total=2), snapshot("demo:1", vram_free_bytes=1))
        for number in (1, 2, 3, 4):
            house.admit(number)  # 1 and 2 on demo:0, 3 on demo:1, 4 waits
        assert acts(house.lose("demo:0"))[0].task_id == uid(1)  # type: ignore[union-attr]
        assert [task for task, _ in dispatched(house.finish(3))] == [uid(1)]
        assert [task for task, _ in dispatched(house.finish(1))] == [uid(2)]
        assert [task for task, _ in dispatched(house.finish(2))] == [uid(4)]

    def test_with_a_token_it_fails(self, house: House) -> None:
        house.admit(1)
        house.progress(1, 3)
        effects = house.lose()
        error = only(effects, Break).error
        assert (error.kind, error.fields.pool_id) == (Kind.WORKER_RESET, "demo")
        assert notes(effects) == ["task_failed", "replica_unready"]
        status = house.front.task_status(uid(1), house.now)
        assert (status.state, status.error) == (TaskState.FAILED, "WORKER_RESET")

    def test_a_link_that_stays_down_says_so_once(self, house: House) -> None:
        assert notes(house.lose()) == ["replica_unready"]
        assert house.lose() == []

    def test_a_task_that_kills_its_replica_does_not_go_round_for_ever(self, house: House) -> None:
        house.admit(1)
        for _ in range(2):
            assert notes(house.lose())[0] == "task_requeued"
            assert dispatched(house.see()) == [(uid(1), "demo:0")]
        error = only(house.lose(), Break).error
        assert error.kind is Kind.WORKER_RESET
        assert "3 times" in error.message

    def test_past_its_deadline_it_does_not_wait_again(self) -> None:
        house = House.of(pool(watchdog=Watchdog(enforce_deadline=False)))
        house.see()
        house.admit(1, deadline_ms=1000)
        house.now += 2
        assert only(house.lose(), Break).error.kind is Kind.DEADLINE_UNMET

    def test_the_stream_is_told_its_place_again(self) -> None:
        house = House.of(pool(replicas=2))
        house.see(snapshot("demo:0"), snapshot("demo:1", vram_free_bytes=1))
        house.admit(1)
        house.admit(2)
        assert only(house.lose("demo:0"), Moved).queue_position == 0


class TestFail:
    """FAIL of one job."""

    @pytest.mark.parametrize(
        ("kind", "told"),
        [
            (Kind.ENGINE_DIED, Kind.WORKER_RESET),
            (Kind.ENGINE_PROTOCOL, Kind.WORKER_RESET),
            (Kind.DECODE_TIMEOUT, Kind.DECODE_TIMEOUT),
            (Kind.INVALID_PARAMS, Kind.INVALID_PARAMS),
        ],
    )
    def test_with_tokens_the_stream_breaks(self, house: House, kind: Kind, told: Kind) -> None:
        house.admit(1)
        house.admit(2)
        effects = house.fail(1, kind, tokens=4)
        assert only(effects, Break).error.kind is told
        assert dispatched(effects) == [(uid(2), "demo:0")]
        assert house.front.task_status(uid(1), house.now).tokens_out == 4

    @pytest.mark.parametrize(
        "kind",
        [
            Kind.REPLICA_EXHAUSTED,
            Kind.DRAINING,
            Kind.POOL_UNREADY,
            Kind.ENGINE_DIED,
            Kind.ENGINE_UNHEALTHY,
        ],
    )
    def test_a_job_that_never_began_waits_for_the_next_snapshot(
        self, house: House, kind: Kind
    ) -> None:
        house.admit(1)
        effects = house.fail(1, kind)
        assert notes(effects) == ["task_requeued"]
        assert not dispatched(effects)
        assert dispatched(house.see(snapshot(seq=2))) == [(uid(1), "demo:0")]

    @pytest.mark.parametrize("kind", [Kind.REPLICA_EXHAUSTED, Kind.POOL_UNREADY])
    def test_a_refusal_is_no_attempt(self, house: House, kind: Kind) -> None:
        house.admit(1)
        for seq in range(2, 12):
            house.fail(1, kind)
            assert dispatched(house.see(snapshot(seq=seq)))

    def test_freed_without_a_cancel_is_a_fault_of_the_pool(self, house: House) -> None:
        house.admit(1)
        assert only(house.free(1), Break).error.kind is Kind.WORKER_RESET

    def test_messages_of_a_job_that_is_over_change_nothing(self, house: House) -> None:
        house.admit(1)
        house.finish(1)
        late = house.finish(1) + house.fail(1) + house.free(1) + house.progress(1)
        unknown = house.finish(9) + house.fail(9) + house.free(9) + house.progress(9)
        assert late + unknown == []


@pytest.mark.req("ORCH-3046", "OC-CORE-1031")
def test_the_first_version_that_was_ready_stays_the_pin_while_it_lives() -> None:
    house = House.of(pool(replicas=2))
    house.see(snapshot("demo:1"), snapshot("demo:0", engine_version="2.0"))
    assert dispatched(house.submit(1)) == [(uid(1), "demo:1")]
    assert dispatched(house.submit(2)) == []
    house.progress(1)
    assert dispatched(house.lose("demo:1")) == [(uid(2), "demo:0")]  # none has the old one now


def test_draining_refuses_new_tasks_and_serves_what_was_admitted(house: House) -> None:
    house.admit(1, digest=b"1")
    house.admit(2)
    assert notes(house.send(DrainAll())) == ["draining"]
    assert house.send(DrainAll()) == []
    assert house.refuse(3).kind is Kind.DRAINING
    assert not house.admit(1, digest=b"1").fresh
    assert dispatched(house.finish(1)) == [(uid(2), "demo:0")]
    assert not house.front.pool_health(PoolId("demo"), house.now).ready


def test_a_batch_task_that_comes_back_keeps_its_class(house: House) -> None:
    house.admit(1, priority=BATCH)
    house.admit(2)
    house.lose()
    assert dispatched(house.see()) == [(uid(2), "demo:0")]
    assert dispatched(house.finish(2)) == [(uid(1), "demo:0")]


def test_a_task_that_comes_back_may_exceed_the_bound() -> None:
    house = House.of(pool(queue_interactive=1))
    house.see()
    house.admit(1)
    house.admit(2)
    house.lose()
    assert house.front.queue_depth(PoolId("demo")).interactive == 2


def test_a_head_that_fits_nowhere_holds_its_place() -> None:
    house = House.of(pool(replicas=2))
    house.see(snapshot("demo:0", ctx_max=8192), snapshot("demo:1", ctx_max=1000))
    house.admit(1)
    house.admit(2)
    assert dispatched(house.submit(3, ctx=4096)) == []
    house.finish(2)  # the small one is free, the head needs the large one
    assert dispatched(house.submit(4)) == []
    assert dispatched(house.finish(1)) == [(uid(3), "demo:0"), (uid(4), "demo:1")]


def test_the_error_of_a_prediction_is_observed(house: House) -> None:
    house.admit(1, max_tokens=100)
    house.admit(2)
    house.now += 1.25
    effects = house.finish(1)
    errors = [o.value_ms for o in of(effects, Observe) if o.metric == "predicted_start_error_ms"]
    assert errors == [pytest.approx(250)]
    house.lose()
    assert not of(house.see(), Observe)  # a second start is not what was promised


@pytest.mark.req("ORCH-3027")
def test_a_drain_on_request_is_no_warning_and_names_the_replica_once(house: House) -> None:
    said = snapshot(seq=2, phase=Phase.EMPTYING, ready=False, draining=True, status="Draining")
    (note,) = of(house.see(said), Note)
    assert (note.level, note.human) == ("info", "demo:0 is not placed on: Draining")
    house.see(snapshot(seq=3))
    (note,) = of(house.see(snapshot(seq=4, phase=Phase.DRAINING, draining=True)), Note)
    assert note.level == "info"  # its unit is stopped
    house.see(snapshot(seq=5))
    (lost,) = of(house.see(snapshot(seq=6, phase=Phase.FAILED, ready=False)), Note)
    assert lost.level == "warning"
