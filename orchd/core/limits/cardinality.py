"""Holds label values of metrics to their budgets: what has no place is counted as `other`.

The budgets are the contract's (wire/metrics.py). What is counted is tally.py's and the edge's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from orchd.wire.metrics import BUDGETS, BY_NAME

OTHER: Final = "other"
OPEN: Final = frozenset({"engine", "engine_version", "pool_id", "replica_id", "model_id", "reason"})
"""Labels whose values come from configurations, engines and errors. The values of all others are
written in the code, and fit."""


class Cardinality:
    """The values that each label of each family has had. One lasts as long as the counts."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str], set[str]] = {}

    def fit(self, name: str, labels: tuple[str, ...]) -> tuple[str, ...]:
        """Return the label values of family `name`, with OTHER for each past its label's budget.

        First come, first kept; the last place of a budget is OTHER's own.
        """
        return tuple(
            self._place(name, label, value) if label in OPEN else value
            for label, value in zip(BY_NAME[name].labels, labels, strict=True)
        )

    def _place(self, name: str, label: str, value: str) -> str:
        seen = self._seen.setdefault((name, label), set())
        if value not in seen and value != OTHER:
            if len(seen) >= BUDGETS[label] - 1:
                return OTHER
            seen.add(value)
        return value


def added_up(name: str, counts: Mapping[tuple[str, ...], float]) -> dict[tuple[str, ...], float]:
    """Return the counts of a family with what is past a budget added up under OTHER."""
    cardinality, found = Cardinality(), dict[tuple[str, ...], float]()
    for labels, value in counts.items():
        kept = cardinality.fit(name, labels)
        found[kept] = found.get(kept, 0) + value
    return found


def left_out(name: str, gauges: Mapping[tuple[str, ...], float]) -> dict[tuple[str, ...], float]:
    """Return the gauges of a family without those past a budget: ratios cannot be added up."""
    cardinality = Cardinality()
    return {
        labels: value for labels, value in gauges.items() if cardinality.fit(name, labels) == labels
    }
