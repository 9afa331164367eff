"""What routes and the scrape page read."""

import pytest

from orchd.core.front import Front
from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import Count, PoolId
from orchd.wire.metrics import BY_NAME
from orchd.wire.shapes import FinishReason, Priority, TaskState, Timings, Workload
from orchd.wire.snapshot import FRESH_S, Device, Phase
from tests.core.making import GONE, House, pool, snapshot, uid, unready

DEMO = PoolId("demo")


def test_the_status_of_a_task_through_its_life(house: House) -> None:
    house.admit(1)
    house.admit(2, priority=Priority.BATCH)
    house.admit(3)
    status = house.front.task_status(uid(2), house.now)
    assert (status.state, status.queue_position, status.predicted_start_ms) == (
        TaskState.QUEUED, 1, 2000,
    )  # fmt: skip
    assert status.correlation_id == "c-2"
    house.now += 0.25
    house.progress(1, 1)
    house.now += 0.75
    house.finish(1, 10)
    status = house.front.task_status(uid(1), house.now)
    assert (status.state, status.queue_position, status.finish_reason) == (
        TaskState.ENDED, None, FinishReason.STOP,
    )  # fmt: skip
    assert status.timings == Timings(
        queue_time_ms=Count(0), first_token_ms=Count(250), decode_time_ms=Count(1000)
    )
    assert (status.tokens_in, status.tokens_out) == (3, 10)
    assert status.decision is not None
    assert status.decision.selected == status.replica_id == "demo:0"
    assert house.front.task_status(uid(3), house.now).timings.queue_time_ms == 1000
    house.cancel(3)
    status = house.front.task_status(uid(3), house.now)
    assert (status.state, status.finish_reason) == (TaskState.CANCELED, FinishReason.CANCELED)


def test_unknown_ids(house: House) -> None:
    front = house.front
    for kind, ask in (
        (Kind.UNKNOWN_ID, lambda: front.task_status(uid(9), 0)),
        (Kind.UNKNOWN_ID, lambda: front.metrics_frame(uid(9), 0)),
        (Kind.UNKNOWN_NAME, lambda: front.pool_health(PoolId("other"), 0)),
        (Kind.UNKNOWN_NAME, lambda: front.queue_depth(PoolId("other"))),
    ):
        with pytest.raises(OrchError) as caught:
            ask()
        assert caught.value.kind is kind


def test_the_list_of_tasks_is_newest_first_with_cursors() -> None:
    house = House.of(pool(queue_interactive=50))
    house.see()
    for number in range(1, 8):
        house.admit(number)
    front = house.front
    first = front.tasks(limit=3)
    assert [task for _, task in first] == [uid(7), uid(6), uid(5)]
    second = front.tasks(after=first[-1][0], limit=3)
    assert [task for _, task in second] == [uid(4), uid(3), uid(2)]
    assert [task for _, task in front.tasks(state=TaskState.RUNNING)] == [uid(1)]


@pytest.mark.req("ORCH-3100")
def test_metrics_frames_of_waiting_running_and_ended_tasks(house: House) -> None:
    house.admit(1, max_tokens=200, expected_tokens=100, deadline_ms=1_000)
    house.admit(2)
    house.progress(1, 1)
    running = house.front.metrics_frame(uid(1), house.now)
    assert (running.queue_depth, running.replica_id, running.tokens_per_s) == (1, "demo:0", 100)
    assert running.on_time_probability == pytest.approx(0.5, abs=0.05)
    waiting = house.front.metrics_frame(uid(2), house.now)
    assert (waiting.queue_position, waiting.predicted_start_ms) == (0, 990)
    assert waiting.predicted_start_p90_ms == 1625  # 0.64 of the normal spread on top
    assert waiting.on_time_probability == 1.0
    house.now += 2
    house.finish(1)
    assert house.front.metrics_frame(uid(1), house.now).on_time_probability == 0.0
    house.lose()
    assert house.front.metrics_frame(uid(2), house.now).predicted_start_ms is None


@pytest.mark.req("OC-CTRL-2001")
def test_the_health_of_a_pool() -> None:
    house = House.of(pool(replicas=2))
    assert not house.front.pool_health(DEMO, house.now).live
    house.see(snapshot("demo:0", vram_free_bytes=5), unready("demo:1", tokens_per_s=50.0))
    house.lose("demo:1")
    for number in (1, 2):
        house.admit(number)
    health = house.front.pool_health(DEMO, house.now)
    assert (health.live, health.ready, health.draining) == (True, True, False)
    assert [replica.live for replica in health.replicas] == [True, False]
    assert health.last_error == GONE
    metrics = health.metrics
    assert (metrics.queue_depth.interactive, metrics.queue_capacity.interactive) == (1, 8)
    assert (metrics.slots_total, metrics.slots_active, metrics.vram_free_bytes) == (1, 1, 5)
    assert metrics.tokens_per_s == 100
    assert metrics.predicted_start_ms == {Priority.INTERACTIVE: 2000, Priority.BATCH: 2000}
    assert house.front.pools(house.now) == (health,)
    late = house.front.pool_health(DEMO, house.now + FRESH_S)
    assert (late.live, late.ready, late.metrics.predicted_start_ms) == (False, False, {})


def test_a_pool_drains_when_all_that_live_of_it_do(house: House) -> None:
    house.see(snapshot(phase=Phase.DRAINING, draining=True, seq=2))
    health = house.front.pool_health(DEMO, house.now)
    assert (health.ready, health.draining) == (False, True)


@pytest.mark.req("HME-012", "OC-CTRL-2060")
def test_capabilities_add_up_like_pools_and_keep_unlike_ones_apart() -> None:
    house = House.of(pool("a", 2, slots=2), pool("b"), pool("c", model_ref="mock:other"))
    house.see(snapshot("a:0", slots_total=2), snapshot("b:0"))
    one, other = house.front.capabilities(house.now).engines
    assert (one.pools, one.concurrency, one.slots_total) == (("a", "b"), 3, 5)
    assert (one.engine_version, one.sampler_profile_version) == ("1.0", "v1")
    assert one.supported_workloads == (Workload.COMPLETION,)
    assert (other.model_ref, other.concurrency, other.pools) == ("mock:other", 0, ("c",))


@pytest.mark.req("OC-METRICS-7101", "ORCH-3028", "OC-CORE-1041", "OC-CTRL-2051")
def test_every_count_and_gauge_is_of_the_contract(house: House) -> None:
    gpu = Device(
        index=Count(0), uuid="GPU-0", name="Simulated", vram_total_bytes=Count(9),
        vram_used_bytes=Count(4), utilization_percent=Count(50),
    )  # fmt: skip
    house.see(snapshot(seq=2, devices=(gpu,), kv_cache_usage_ratio=0.5))
    house.admit(1)
    house.admit(2)
    house.refuse(3, ctx=9999)
    house.progress(1, 5)
    house.finish(1, 10)
    house.cancel(2)
    front = house.front
    gauges = front.gauges(house.now)
    for name, values in {**front.counters(), **gauges}.items():
        assert all(len(labels) == len(BY_NAME[name].labels) for labels in values), name
    where = ("mock", "1.0", "demo", "demo:0")
    assert front.counters()["tokens_out_total"] == {where: 10}
    assert front.counters()["tokens_in_total"] == {where: 3}
    assert front.counters()["tasks_enqueued_total"] == {
        ("mock", "1.0", "demo", "", "interactive"): 2
    }
    assert front.counters()["tasks_started_total"] == {(*where, "interactive"): 2}
    assert front.counters()["tasks_canceled_total"] == {(*where, "client"): 1}
    assert front.counters()["tasks_rejected_total"] == {("mock", "invalid_params"): 1}
    assert front.counters()["preload_outcomes_total"] == {(*where, "ready", ""): 1}
    assert gauges["active_leases"] == {where: 1}
    assert gauges["kv_cache_usage_ratio"] == {where: 0.5}
    assert gauges["vram_used_bytes"] == {(*where, "0"): 4}
    assert gauges["gpu_utilization"] == {(*where, "0"): 50}
    assert gauges["pool_ready"] == {("mock", "1.0", "demo"): 1}
    assert front.gauges(house.now + FRESH_S)["vram_used_bytes"] == {}
    with pytest.raises(ValueError):
        front.world.tally.add("tokens_out_total", "mock")


def test_pools_and_replicas_are_named_once() -> None:
    with pytest.raises(ValueError):
        Front([pool("a"), pool("a")])
    with pytest.raises(ValueError):
        Front([pool("a"), pool("b", replica_ids=pool("a").replica_ids)])
