"""The scrape page: what core counts and what snapshots say, as Prometheus or OpenMetrics text.

Every family of the metrics contract (wire/metrics.py) is on the page from the start [ORCH-3460],
and nothing is counted per token: core's counters and the histograms here move with tasks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

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

from orchd.core.cardinality import Cardinality, added_up, left_out
from orchd.core.events import Observe
from orchd.core.front import Front
from orchd.wire.ids import PoolId
from orchd.wire.metrics import METRICS, MetricType

# a `_created` series beside each family is not in the contract
disable_created_metrics()  # type: ignore[no-untyped-call]


class Tally:
    """What the edge itself counts: core's observations, dropped frames, verified models."""

    def __init__(self, front: Front) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.drops: Counter[tuple[str, ...]] = Counter()
        self.verifications: Counter[tuple[str, ...]] = Counter()
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
        self.registry.register(_FromCore(front, self.drops, self.verifications))

    def observe(self, effect: Observe) -> None:
        """Count one observation."""
        labels = (effect.engine, effect.engine_version, effect.pool_id, effect.priority)
        kept = self._cardinality.fit(effect.metric, labels)
        self._histograms[effect.metric].labels(*kept).observe(effect.value_ms)

    def dropped(self, pool_id: PoolId, event: str, count: int) -> None:
        """Count frames that readers which were behind did not get."""
        self.drops[pool_id, event] += count


class _FromCore(Collector):
    """The families that core knows, read at the moment of the scrape."""

    def __init__(
        self,
        front: Front,
        drops: Counter[tuple[str, ...]],
        verifications: Counter[tuple[str, ...]],
    ) -> None:
        self._front = front
        self._drops = drops
        self._verifications = verifications

    def collect(self) -> Iterator[Family]:
        counters = self._front.counters()
        counters["sse_backpressure_drops_total"] = dict(self._drops)
        counters["catalog_verifications_total"] = dict(self._verifications)
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
