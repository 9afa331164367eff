"""The metrics contract: the file, the data and the linter agree, and the linter finds faults."""

import re

import prometheus_client as prom
import pytest
from prometheus_client.exposition import generate_latest

from orchd.wire.metrics import BUDGETS, BY_NAME, METRICS, MetricType
from tools.metrics_lint import lint

# contract.md, Metrics: the names and labels as they stand there.
REPLICA = ["engine", "engine_version", "pool_id", "replica_id"]
FROM_THE_CONTRACT = {
    "tasks_enqueued_total": [*REPLICA, "priority"],
    "tasks_started_total": [*REPLICA, "priority"],
    "tasks_canceled_total": [*REPLICA, "reason"],
    "tasks_rejected_total": ["engine", "reason"],
    "queue_depth": ["engine", "engine_version", "pool_id", "priority"],
    "kv_cache_usage_ratio": REPLICA,
    "gpu_utilization": [*REPLICA, "device"],
    "vram_used_bytes": [*REPLICA, "device"],
    "latency_first_token_ms": ["engine", "engine_version", "pool_id", "priority"],
    "latency_decode_ms": ["engine", "engine_version", "pool_id", "priority"],
    "tokens_in_total": REPLICA,
    "tokens_out_total": REPLICA,
    "admission_backpressure_events_total": ["engine", "policy"],
    "catalog_verifications_total": ["result", "reason", "engine"],
    "model_state": ["model_id", "state"],
    "placement_decisions_total": ["outcome", "pinned", "fallback"],
    "placement_candidates_considered": [],
}
ALSO = [
    "pool_ready",
    "active_leases",
    "drain_events_total",
    "preload_outcomes_total",
    "restarts_total",
    "driver_reset_events_total",
    "sse_backpressure_drops_total",
    "sessions_active",
]


def page(skip: str = "") -> str:
    """A page as prometheus_client writes it: every family, one sample each."""
    prom.disable_created_metrics()
    registry = prom.CollectorRegistry()
    makers = {
        MetricType.COUNTER: prom.Counter,
        MetricType.GAUGE: prom.Gauge,
        MetricType.HISTOGRAM: prom.Histogram,
    }
    for metric in METRICS:
        if metric.name == skip:
            continue
        more = {"buckets": metric.buckets} if metric.buckets else {}
        made = makers[metric.type](
            metric.name, metric.help, metric.labels, registry=registry, **more
        )
        child = made.labels(*[f"a {label}" for label in metric.labels]) if metric.labels else made
        if metric.type is MetricType.HISTOGRAM:
            child.observe(120)
    return generate_latest(registry).decode()


@pytest.mark.req("OC-METRICS-7101")
def test_names_and_labels_are_the_contracts():
    for name, labels in FROM_THE_CONTRACT.items():
        assert list(BY_NAME[name].labels) == labels, name
    assert set(ALSO) <= set(BY_NAME)
    ours = {
        "job_records_total", "policy_decisions_total", "policy_fetches_total", "policy_fuel_total",
        "pool_shedding", "predicted_start_error_ms",
        "predicted_start_p90_total",
    }  # fmt: skip
    assert set(BY_NAME) - set(FROM_THE_CONTRACT) - set(ALSO) == ours


@pytest.mark.req("OC-METRICS-7101")
def test_buckets_are_the_contracts():
    first = "50 100 150 200 300 500 750 1000 1500 2000 3000"
    decode = "250 500 1000 1500 2000 3000 4000 6000 8000 12000"
    assert BY_NAME["latency_first_token_ms"].buckets == tuple(map(float, first.split()))
    assert BY_NAME["latency_decode_ms"].buckets == tuple(map(float, decode.split()))
    for metric in METRICS:
        assert bool(metric.buckets) == (metric.type is MetricType.HISTOGRAM), metric.name
        assert list(metric.buckets) == sorted(set(metric.buckets)), metric.name


@pytest.mark.req("OC-METRICS-7102")
def test_every_label_has_a_budget():
    assert {label for metric in METRICS for label in metric.labels} == set(BUDGETS)
    assert (BUDGETS["engine"], BUDGETS["reason"], BUDGETS["replica_id"]) == (8, 16, 1024)


def test_a_counter_ends_in_total_and_nothing_else_does():
    for metric in METRICS:
        assert metric.name.endswith("_total") == (metric.type is MetricType.COUNTER)


@pytest.mark.req("METRICS-LINT")
def test_a_right_page_has_no_faults():
    assert lint(page()) == []


@pytest.mark.req("METRICS-LINT", "OC-METRICS-7101")
@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("# TYPE queue_depth gauge", "# TYPE queue_depth counter", r"queue_depth: is a counter"),
        ('policy="a policy"', 'polizei="a"', r"labels engine, polizei, not engine, policy"),
        ('le="3000.0"', 'le="3001.0"', r"latency_first_token_ms: has the buckets"),
        ("sessions_active 0.0", "sessions_active 0.0\nextra_total 1", r"extra.*not in the contr"),
        ("model_state{", 'model_state{x="y",', r"labels model_id, state, x, not model_id, state"),
        ("sessions_active 0.0", "sessions_active{ 0.0", r"cannot be parsed"),
        ("# HELP pool_ready 1 while a replica of the pool is Ready.\n", "", r"no HELP"),
    ],
)  # fmt: skip
def test_a_wrong_page_is_told(old, new, fault):
    right = page()
    assert old in right
    faults = lint(right.replace(old, new))
    assert any(re.search(fault, line) for line in faults), faults


@pytest.mark.req("ORCH-3460", "METRICS-LINT")
def test_a_missing_family_is_told_unless_a_part_was_asked_for():
    part = page(skip="queue_depth")
    assert lint(part) == ["queue_depth: is missing"]
    assert lint(part, complete=False) == []


@pytest.mark.req("OC-METRICS-7102")
def test_more_values_than_the_budget_are_told():
    line = 'admission_backpressure_events_total{engine="e%d",policy="reject"} 1.0\n'
    head = "# HELP admission_backpressure_events_total x\n"
    head += "# TYPE admission_backpressure_events_total counter\n"
    eight = head + "".join(line % i for i in range(8))
    assert lint(eight, complete=False) == []
    told = lint(eight + line % 8, complete=False)
    assert told == ["admission_backpressure_events_total: has 9 values of engine, more than 8"]
