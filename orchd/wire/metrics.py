"""The metrics contract as data: every family's name, type, labels and buckets, and label budgets.

Names and labels are the contract's, exactly [OC-METRICS-7101]; `contracts/metrics.json` is written
from here. Counting and the scrape page are the edge's; holding a page against this is
`tools/metrics_lint.py`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from attrs import field, frozen


class MetricType(enum.StrEnum):
    """What Prometheus calls the kind of a family."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@frozen
class Metric:
    """One family. `buckets` (upper bounds, ascending, without +Inf) is for histograms only."""

    name: str
    """As it stands in the text exposition: a counter ends in `_total`."""
    type: MetricType
    labels: tuple[str, ...]
    help: str
    buckets: tuple[float, ...] = field(default=())


_REPLICA: Final = ("engine", "engine_version", "pool_id", "replica_id")
_CLASS: Final = ("engine", "engine_version", "pool_id", "priority")
_DEVICE: Final = (*_REPLICA, "device")
_POOL: Final = ("engine", "engine_version", "pool_id")

_FIRST_TOKEN_MS: Final = (50, 100, 150, 200, 300, 500, 750, 1000, 1500, 2000, 3000)
_DECODE_MS: Final = (250, 500, 1000, 1500, 2000, 3000, 4000, 6000, 8000, 12000)
# The error has a sign: a start before its prediction is as wrong as one after it. Waits are as
# long as queues: seconds to many minutes.
_PREDICTION_MS: Final = (
    *(-60_000, -20_000, -10_000, -5000, -2000, -1000, -500, -200, -50, 0),
    *(50, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 60_000),
)


def _counter(name: str, labels: tuple[str, ...], text: str) -> Metric:
    return Metric(name, MetricType.COUNTER, labels, text)


def _gauge(name: str, labels: tuple[str, ...], text: str) -> Metric:
    return Metric(name, MetricType.GAUGE, labels, text)


def _histogram(name: str, labels: tuple[str, ...], buckets: tuple[int, ...], text: str) -> Metric:
    return Metric(name, MetricType.HISTOGRAM, labels, text, tuple(float(b) for b in buckets))


METRICS: Final[tuple[Metric, ...]] = (
    _counter("tasks_enqueued_total", (*_REPLICA, "priority"), "Tasks admitted to a queue."),
    _counter("tasks_started_total", (*_REPLICA, "priority"), "Tasks given to a replica."),
    _counter("tasks_canceled_total", (*_REPLICA, "reason"), "Tasks canceled, by who asked."),
    _counter(
        "tasks_rejected_total", ("engine", "reason"), "Tasks refused, or dropped, by kind of error."
    ),
    _gauge("queue_depth", _CLASS, "Tasks waiting."),
    _gauge("kv_cache_usage_ratio", _REPLICA, "Share of the KV cache in use, 0 to 1."),
    _gauge("gpu_utilization", _DEVICE, "Utilisation of the GPU in percent, by NVML."),
    _gauge("vram_used_bytes", _DEVICE, "VRAM in use on the GPU by all processes, by NVML."),
    _histogram(
        "latency_first_token_ms", _CLASS, _FIRST_TOKEN_MS, "Admission to first token, in ms."
    ),
    _histogram("latency_decode_ms", _CLASS, _DECODE_MS, "First work on a GPU to the end, in ms."),
    _counter("tokens_in_total", _REPLICA, "Prompt tokens that engines reported."),
    _counter("tokens_out_total", _REPLICA, "Tokens that were generated."),
    _counter(
        "admission_backpressure_events_total",
        ("engine", "policy"),
        "Answers 429, and tasks dropped from a queue, by policy.",
    ),
    _counter(
        "catalog_verifications_total", ("result", "reason", "engine"), "Verifications of models."
    ),
    _counter("job_records_total", ("result",), "Records of jobs, stored or dropped."),
    _counter("policy_decisions_total", ("plugin", "result"), "Decisions of policy plugins."),
    _counter(
        "policy_fuel_total", ("plugin",), "What those decisions took, about wasm instructions."
    ),
    _counter("policy_fetches_total", ("result",), "Fetches for clients, by how they ended."),
    _gauge("model_state", ("model_id", "state"), "1 for the state that a model is in."),
    _counter(
        "placement_decisions_total", ("outcome", "pinned", "fallback"), "Decisions of placement."
    ),
    _gauge("placement_candidates_considered", (), "Replicas that the last decision looked at."),
    # The contract names the rest without labels; these are ours.
    _gauge("pool_ready", _POOL, "1 while a replica of the pool is Ready."),
    _gauge("pool_shedding", _POOL, "1 while the pool sheds load because its SLO is breached."),
    _gauge("active_leases", _REPLICA, "Jobs that hold a slot of the replica."),
    _counter("drain_events_total", _REPLICA, "Drains that were begun."),
    _counter(
        "preload_outcomes_total", (*_REPLICA, "result", "reason"), "Preloads that ended, and how."
    ),
    _counter(
        "restarts_total",
        (*_REPLICA, "reason"),
        "Lives of the replica's daemon after its first, by why the one before ended.",
    ),
    _counter(
        "driver_reset_events_total",
        (*_DEVICE, "reason"),
        "Driver resets, Xid and ECC events of the GPUs of the mask.",
    ),
    _counter("sse_backpressure_drops_total", ("pool_id", "reason"), "Frames not sent to a reader."),
    _gauge("sessions_active", (), "Sessions with a live TTL."),
    _histogram(
        "predicted_start_error_ms",
        _CLASS,
        _PREDICTION_MS,
        "Real minus predicted start of tasks that had to wait, in ms.",
    ),
    _counter(
        "predicted_start_p90_total",
        (*_CLASS, "result"),
        "Starts of tasks that had to wait, before or after the p90 that they were told.",
    ),
)

BUDGETS: Final[Mapping[str, int]] = MappingProxyType(
    {
        "engine": 8,
        "engine_version": 64,
        "pool_id": 256,
        "replica_id": 1024,
        "priority": 8,
        "reason": 16,
        "result": 4,
        "state": 8,
        "model_id": 1024,
        "outcome": 4,
        "pinned": 2,
        "fallback": 2,
        # Not in the contract's list: the policies it names, NVML indices (ids.MAX_DEVICES) and
        # plugins (config.policies.MAX_PLUGINS), with a place for `other`.
        "policy": 4,
        "device": 64,
        "plugin": 9,
    }
)
"""How many distinct values a label may have within one family [OC-METRICS-7102]."""

BY_NAME: Final[Mapping[str, Metric]] = MappingProxyType({m.name: m for m in METRICS})
