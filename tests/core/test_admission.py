"""Every reason to refuse a task before it is queued."""

from typing import Any

import pytest
from attrs import evolve

from orchd.core.effects import Accepted, Note, Refused
from orchd.wire.errors import Kind
from orchd.wire.ids import PoolId, Positive
from orchd.wire.shapes import Placement, Priority, Workload
from orchd.wire.snapshot import Cause, Phase
from tests.core.making import (
    GONE,
    House,
    dispatched,
    only,
    pool,
    snapshot,
    uid,
    unready,
)

EMBED = {"workload": Workload.EMBEDDING, "prompt": None, "inputs": ("a",)}


@pytest.mark.parametrize(
    ("more", "path", "word"),
    [
        pytest.param(
            {"ctx": 8193}, "$.ctx", "8192",
            marks=pytest.mark.req("ORCH-3014", "OC-CORE-1020", "OC-CTRL-2010"), id="ctx"),
        pytest.param(
            {"ctx": 8192, "max_tokens": 4097}, "$.max_tokens", "4096",
            marks=pytest.mark.req("OC-CORE-1021"), id="max_tokens of the pool"),
        pytest.param(
            {"ctx": 50, "max_tokens": 51}, "$.max_tokens", "50",
            marks=pytest.mark.req("OC-CORE-1021", "ORCH-3016"), id="max_tokens over ctx"),
        pytest.param(
            {"prompt_tokens": 901}, "$.ctx", "1000",
            marks=pytest.mark.req("OC-CORE-1021", "ORCH-3016"), id="prompt and max_tokens"),
        pytest.param({"prompt": None}, "$.prompt", "required", id="no prompt"),
        pytest.param({"inputs": ("a",)}, "$.inputs", "prompt", id="inputs for a completion"),
        pytest.param({**EMBED, "inputs": None}, "$.inputs", "embedding", id="no inputs"),
        pytest.param({**EMBED, "inputs": ()}, "$.inputs", "embedding", id="empty inputs"),
        pytest.param({**EMBED, "prompt": "x"}, "$.prompt", "inputs", id="prompt for embedding"),
        pytest.param(EMBED, "$.workload", "completion", id="workload",
            marks=pytest.mark.req("OC-CORE-1016")),
        pytest.param(
            {"sampler_profile_version": "v2"}, "$.sampler_profile_version", "v1", id="profile"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_with_its_path(
    house: House, more: dict[str, Any], path: str, word: str
) -> None:
    effects = house.submit(**more)
    error = only(effects, Refused).error
    assert (error.kind, error.fields.path) == (Kind.INVALID_PARAMS, path)
    assert word in error.message
    assert only(effects, Note).name == "task_rejected"
    assert not house.front.world.tasks
    assert house.front.counters()["tasks_rejected_total"] == {("mock", "invalid_params"): 1}


@pytest.mark.req("ORCH-3045", "OC-CORE-1030")
def test_a_strict_task_is_refused_where_jobs_beside_it_change_its_bytes(house: House) -> None:
    house.see(snapshot(slots_total=4, strict=False))
    error = only(house.submit(), Refused).error
    assert (error.kind, error.fields.path) == (Kind.INVALID_PARAMS, "$.determinism")
    assert "best_effort" in error.message
    house.admit(2, determinism="best_effort")
    features = house.front.capabilities(house.now).engines[0].features
    assert "strict_determinism" not in features


@pytest.mark.req("ORCH-3045")
def test_a_server_that_cannot_be_held_to_its_bytes_is_named(house: House) -> None:
    pool = house.front.world.pools[next(iter(house.front.world.pools))]
    pool.spec = evolve(pool.spec, slots=Positive(1))
    house.see(snapshot(slots_total=1, strict=False))
    message = only(house.submit(), Refused).error.message
    assert "cannot hold its mock server to the same bytes" in message
    assert "slots = 1" not in message


@pytest.mark.req("OC-CORE-1021")
def test_what_just_fits_is_admitted(house: House) -> None:
    house.admit(1, ctx=8192, max_tokens=4096, prompt_tokens=4096)
    house.admit(2, sampler_profile_version="v1")


@pytest.mark.req("ORCH-3908")
def test_without_placement_or_with_auto_it_is_automatic(house: House) -> None:
    assert house.admit(1).started.replica_id == "demo:0"
    assert house.admit(2, placement=Placement()).accepted.queue_position == 0


@pytest.mark.req("OC-CORE-1016")
def test_an_engine_or_model_that_no_pool_has_is_refused_with_what_is_served(house: House) -> None:
    wrong: list[dict[str, Any]] = [{"engine": "vllm"}, {"model_ref": "mock:other"}]
    for more in wrong:
        error = house.refuse(**more)
        assert error.kind is Kind.POOL_UNAVAILABLE
        assert "mock:lorem on mock" in error.message
    counts = house.front.counters()["tasks_rejected_total"]
    assert counts == {("other", "pool_unavailable"): 1, ("mock", "pool_unavailable"): 1}


@pytest.mark.req("ORCH-3010")
def test_a_pool_that_was_never_ready_refuses_with_its_last_error() -> None:
    house = House.of()
    assert "no replica has reported" in house.refuse().message
    house.lose(cause=GONE)
    assert GONE.message in house.refuse().message
    house.see(unready())  # it is heard of: what was wrong with the link is over
    assert house.refuse().message.endswith("demo:0: loading the model")
    assert house.front.unready_reasons(house.now) == ("pool demo: demo:0: loading the model",)
    why = Cause(kind=Kind.VRAM_SHORT, message="24 GB are needed, 12 are free", advice="Free VRAM.")
    house.see(unready(phase=Phase.FAILED, last_error=why))
    error = house.refuse()
    assert error.kind is Kind.POOL_UNREADY
    assert why.message in error.message
    assert (error.fields.pool_id, error.fields.retry_after_ms) == ("demo", 5000)
    house.see(unready(seq=3))  # it tries again, which does not take the cause away
    assert why.message in house.refuse().message
    house.lose(cause=GONE)  # its poolmgr exits after that: the cause stays the one that helps
    assert why.message in house.refuse().message


def test_the_cause_of_the_replica_that_is_not_ready_comes_first() -> None:
    house = House.of(pool(replicas=2))
    old = Cause(kind=Kind.ENGINE_DIED, message="it died yesterday", advice="Read on.")
    house.see(snapshot("demo:0", last_error=old))
    house.lose("demo:1")
    health = house.front.pool_health(PoolId("demo"), house.now)
    assert health.last_error == GONE


@pytest.mark.req("ORCH-3010")
def test_a_pool_whose_replicas_are_lost_takes_no_more_but_keeps_what_waits(house: House) -> None:
    for number in (1, 2):
        house.admit(number)
    house.lose()
    assert house.refuse(3).kind is Kind.POOL_UNREADY
    assert house.front.queue_depth(PoolId("demo")).interactive == 2
    assert dispatched(house.see()) == [(uid(1), "demo:0")]


@pytest.mark.req("ORCH-2007", "OC-CTRL-2011", "ORCH-3004", "OC-CORE-1001")
@pytest.mark.parametrize("priority", Priority)
def test_a_full_queue_says_when_a_place_will_be_free(priority: Priority) -> None:
    house = House.of(pool(queue_interactive=2, queue_batch=2))
    house.see(snapshot(tokens_per_s=100.0))
    house.admit(1, max_tokens=300)  # 3 s
    house.admit(2, priority=Priority.INTERACTIVE, max_tokens=200)  # 2 s
    room = range(3, 4 if priority is Priority.INTERACTIVE else 5)
    answers = [house.admit(number, priority=priority).accepted for number in room]
    house.now += 1.0
    house.progress(1, 100)
    error = house.refuse(9, priority=priority)
    assert error.kind is Kind.QUEUE_FULL
    # a place is free when the head of the class starts: batch waits for all interactive
    wait_ms = 2000 if priority is Priority.INTERACTIVE else 4000
    assert error.fields.retry_after_ms == wait_ms
    assert (error.fields.policy_label, error.fields.pool_id) == ("reject", "demo")
    assert error.envelope().code == "ADMISSION_REJECT"
    assert [a.backoff_ms for a in answers] == [0] * (len(answers) - 1) + [wait_ms + 1000]
    counts = house.front.counters()
    assert counts["admission_backpressure_events_total"] == {("mock", "reject"): 1}
    other = next(p for p in Priority if p is not priority)
    house.admit(10, priority=other, max_tokens=1)


def test_a_deadline_before_the_predicted_start_is_refused(house: House) -> None:
    house.admit(1, max_tokens=300)
    assert house.admit(2, deadline_ms=3000).accepted.predicted_start_ms == 3000
    error = house.refuse(3, deadline_ms=3999)
    assert (error.kind, error.fields.path) == (Kind.DEADLINE_UNMET, "$.deadline_ms")
    assert error.fields.retry_after_ms == 1


def test_a_retry_after_is_rounded_up() -> None:
    house = House.of(pool(queue_interactive=1))
    house.see(snapshot(tokens_per_s=99.0))
    house.admit(1, max_tokens=100)
    house.admit(2)
    assert house.refuse(3).fields.retry_after_ms == 1011  # 1010.1 ms


@pytest.mark.req("ORCH-3024")
def test_the_same_body_is_the_same_task_and_another_body_is_refused(house: House) -> None:
    first = house.admit(1, digest=b"a")
    house.now += 5
    again = only(house.submit(1, digest=b"a"), Accepted)
    assert (again.accepted, again.started) == (first.accepted, first.started)
    assert (first.fresh, again.fresh) == (True, False)
    assert house.refuse(1, digest=b"b").kind is Kind.TASK_ID_REUSED
    house.finish(1)
    assert not only(house.submit(1, digest=b"a"), Accepted).fresh
    assert len(house.front.world.tasks) == 1


def test_a_context_that_the_engine_does_not_give_is_refused() -> None:
    house = House.of()
    house.see(snapshot(ctx_max=2048))
    assert house.refuse(1, ctx=4096).fields.path == "$.ctx"
    house.admit(2, ctx=2048)


class TestSeveralPools:
    """One engine and model in two pools: `big` with more context, `demo` smaller."""

    @pytest.fixture
    def two(self) -> House:
        house = House.of(pool("demo", ctx=2048), pool("big", ctx=8192))
        house.see(snapshot("demo:0", vram_free_bytes=900), snapshot("big:0", vram_free_bytes=100))
        return house

    def test_placement_chooses_among_all_replicas(self, two: House) -> None:
        assert two.admit(1).accepted.pool_id == "demo"
        assert two.admit(2).accepted.pool_id == "big"

    def test_then_the_smallest_predicted_start_and_then_the_id(self, two: House) -> None:
        two.admit(1, max_tokens=100)
        two.admit(2, max_tokens=200)
        assert two.admit(3, max_tokens=100).accepted.pool_id == "demo"  # 1 s against 2 s
        assert two.admit(4).accepted.pool_id == "big"  # 2 s both

    def test_only_pools_that_fit_and_are_ready(self, two: House) -> None:
        assert two.admit(1, ctx=4096).accepted.pool_id == "big"
        two.lose("demo:0")
        assert two.admit(2).accepted.pool_id == "big"

    def test_full_only_when_all_are(self) -> None:
        house = House.of(*(pool(p, queue_interactive=1) for p in ("a", "b")))
        house.see(snapshot("a:0"), snapshot("b:0"))
        pools = [house.admit(n, max_tokens=100 * n).accepted.pool_id for n in range(1, 5)]
        assert sorted(pools) == ["a", "a", "b", "b"]
        error = house.refuse(9)
        assert (error.kind, error.fields.pool_id, error.fields.retry_after_ms) == (
            Kind.QUEUE_FULL, "a", 1000,
        )  # fmt: skip


def test_the_decision_of_a_waiting_task_is_kept_and_not_counted_before_it_runs(
    house: House,
) -> None:
    house.admit(1)
    house.admit(2)
    log = house.front.task_status(uid(2), house.now).decision
    assert log is not None
    assert (log.selected, log.pool_id, log.reason) == (None, "demo", None)
    assert [(c.excluded, c.predicted_start_ms) for c in log.considered] == [(None, 1000)]
    counts = house.front.counters()["placement_decisions_total"]
    assert counts == {("assigned", "false", "false"): 1}
