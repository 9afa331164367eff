"""Hold a scrape page against the metrics contract [METRICS-LINT].

`lint(text)` returns every fault of a page in the Prometheus text format: names, types, labels,
buckets, label budgets, families too many or missing. Not here: counting, and the page itself.

    python -m tools.metrics_lint < page.txt
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable

from prometheus_client.metrics_core import Metric as Family
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from orchd.wire.metrics import BUDGETS, METRICS, Metric, MetricType

RUNTIME = ("process_", "python_")
"""Families of these beginnings come from prometheus_client's own collectors and are allowed."""


def lint(text: str, *, complete: bool = True) -> list[str]:
    """Return the faults of a page in the text format (version 0.0.4), in its order.

    `complete`: every family of the contract must be there, with or without samples [ORCH-3460].
    """
    try:
        families = list(text_string_to_metric_families(text))
    except ValueError as exc:
        return [f"the page cannot be parsed: {exc}"]
    known = {_family_name(metric): metric for metric in METRICS}
    faults: list[str] = []
    seen: set[str] = set()
    for family in families:
        if family.name.startswith(RUNTIME):
            continue
        metric = known.get(family.name)
        if metric is None:
            faults.append(f"{family.name}: is not in the contract")
        elif family.name in seen:
            faults.append(f"{metric.name}: stands on the page twice")
        else:
            faults += _family_faults(family, metric)
        seen.add(family.name)
    if complete:
        faults += [f"{m.name}: is missing" for name, m in known.items() if name not in seen]
    return faults


def _family_name(metric: Metric) -> str:
    """Return the name as the parser gives it: a counter's without `_total`."""
    return metric.name.removesuffix("_total") if metric.type is MetricType.COUNTER else metric.name


def _family_faults(family: Family, metric: Metric) -> list[str]:
    faults = []
    if family.type != metric.type.value:
        faults.append(f"{metric.name}: is a {family.type}, not a {metric.type.value}")
    if not family.documentation:
        faults.append(f"{metric.name}: has no HELP line")
    faults += _sample_faults(family.samples, metric)
    faults += _budget_faults(family.samples, metric)
    if metric.type is MetricType.HISTOGRAM:
        faults += _bucket_faults(family.samples, metric)
    return faults


def _sample_faults(samples: Iterable[Sample], metric: Metric) -> list[str]:
    suffixes = {MetricType.HISTOGRAM: ("_bucket", "_sum", "_count")}.get(metric.type, ("",))
    names = {metric.name + suffix for suffix in suffixes}
    faults: dict[str, None] = {}  # in order, each once
    for sample in samples:
        if sample.name not in names:
            faults[f"{metric.name}: has a sample {sample.name}"] = None
            continue
        wanted = set(metric.labels) | ({"le"} if sample.name.endswith("_bucket") else set())
        if set(sample.labels) != wanted:
            got = ", ".join(sorted(sample.labels)) or "none"
            should = ", ".join(sorted(wanted)) or "none"
            faults[f"{sample.name}: has the labels {got}, not {should}"] = None
        if metric.type is MetricType.COUNTER and not sample.value >= 0:
            faults[f"{sample.name}: counts {sample.value}"] = None
    return list(faults)


def _budget_faults(samples: Iterable[Sample], metric: Metric) -> list[str]:
    values: dict[str, set[str]] = defaultdict(set)
    for sample in samples:
        for label, value in sample.labels.items():
            values[label].add(value)
    return [
        f"{metric.name}: has {len(values[label])} values of {label}, more than {BUDGETS[label]}"
        for label in metric.labels
        if len(values[label]) > BUDGETS[label]
    ]


def _bucket_faults(samples: Iterable[Sample], metric: Metric) -> list[str]:
    bounds: dict[tuple[tuple[str, str], ...], list[float]] = defaultdict(list)
    counts: dict[tuple[tuple[str, str], ...], list[float]] = defaultdict(list)
    for sample in samples:
        if not sample.name.endswith("_bucket"):
            continue
        series = tuple(sorted((k, v) for k, v in sample.labels.items() if k != "le"))
        bounds[series].append(float(sample.labels.get("le", "nan")))
        counts[series].append(sample.value)
    wanted = [*metric.buckets, float("inf")]
    faults: dict[str, None] = {}
    for series, found in bounds.items():
        if found != wanted:
            faults[f"{metric.name}: has the buckets {found}, not {wanted}"] = None
        if counts[series] != sorted(counts[series]):
            faults[f"{metric.name}: has buckets that do not grow"] = None
    return list(faults)


def main() -> int:
    """Lint the page on stdin."""
    faults = lint(sys.stdin.read())
    print("\n".join(faults) or "the page keeps the contract")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
