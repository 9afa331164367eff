"""The scrape page: what core counts and what snapshots say, as Prometheus or OpenMetrics text.

Every family of the metrics contract (wire/metrics.py) is on the page from the start [ORCH-3460],
and nothing is counted per token: core's counters and the histograms here move with tasks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from types import MappingProxyType

import trio
from prometheus_client import (
    CollectorRegistry,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from orchd.core.effects import Observe
from orchd.core.front import Front
from orchd.core.limits.cardinality import Cardinality, added_up, left_out
from orchd.wire.ids import PoolId
from orchd.wire.metrics import METRICS, MetricType

# a `_created` series beside each family is not in the contract
disable_created_metrics()  # type: ignore[no-untyped-call]


class Tally:
    """What the edge itself counts: core's observations, dropped frames, verified models, records
    of jobs."""

    def __init__(
        self, front: Front, more: Mapping[str, Counter[tuple[str, ...]]] = MappingProxyType({})
    ) -> None:
        """`more`: what others count, by family."""
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.drops: Counter[tuple[str, ...]] = Counter()
        self.verifications: Counter[tuple[str, ...]] = Counter()
        self.job_records: Counter[tuple[str, ...]] = Counter()
        self._histograms = {
            metric.name: Histogram(
                metric.name,
                metric.help,
                metric.labels,
                buckets=metric.buckets,
                registry=self.registry,
            )
            for metric in METRICS
            if metric.type is MetricType.HISTOGRAM
        }
        self._cardinality = Cardinality()
        own = {
            "sse_backpressure_drops_total": self.drops,
            "catalog_verifications_total": self.verifications,
            "job_records_total": self.job_records,
            **more,
        }
        self.registry.register(_FromCore(front, own))

    def observe(self, effect: Observe) -> None:
        """Count one observation."""
        labels = (effect.engine, effect.engine_version, effect.pool_id, effect.priority)
        kept = self._cardinality.fit(effect.metric, labels)
        self._histograms[effect.metric].labels(*kept).observe(effect.value_ms)

    def dropped(self, pool_id: PoolId, event: str, count: int) -> None:
        """Count frames that readers which were behind did not get."""
        self.drops[pool_id, event] += count


class _FromCore(Collector):
    """The families that core and the edge know, read at the moment of the scrape."""

    def __init__(self, front: Front, own: Mapping[str, Counter[tuple[str, ...]]]) -> None:
        """`own`: what the edge counts itself, by family."""
        self._front = front
        self._own = own

    def collect(self) -> Iterator[Family]:
        counters = self._front.counters()
        counters |= {name: dict(counts) for name, counts in self._own.items()}
        gauges = self._front.gauges(trio.current_time())
        for metric in METRICS:
            if metric.type is MetricType.COUNTER:
                family: CounterMetricFamily | GaugeMetricFamily = CounterMetricFamily(
                    metric.name, metric.help, labels=metric.labels
                )
                values = added_up(metric.name, counters.get(metric.name, {}))
            elif metric.type is MetricType.GAUGE:
                family = GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
                values = left_out(metric.name, gauges.get(metric.name, {}))
            else:
                continue
            for labels, value in values.items():
                family.add_metric(labels, value)
            yield family


def page(tally: Tally, accept: str) -> tuple[bytes, str]:
    """Return the scrape page and its content type, in the format that `accept` asks for."""
    encode, content_type = choose_encoder(accept)
    return encode(tally.registry), content_type
