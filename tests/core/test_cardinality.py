"""No label has more values than its budget, and nothing that was counted is lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchd.config.policies import MAX_PLUGINS
from orchd.core.limits.cardinality import OPEN, OTHER, added_up, left_out
from orchd.core.state.tally import Tally
from orchd.wire.catalog import ModelState, VerifyResult
from orchd.wire.ids import MAX_DEVICES
from orchd.wire.metrics import BUDGETS, BY_NAME, METRICS
from orchd.wire.policy import THROTTLE, FullPolicy
from orchd.wire.shapes import Priority
from orchd.wire.snapshot import Outcome

pytestmark = pytest.mark.req("OC-METRICS-7102")


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 30)), max_size=200))
def test_counts_keep_their_budgets_and_their_sum(found: list[tuple[int, int]]) -> None:
    tally = Tally()
    for engine, reason in found:
        tally.add("tasks_rejected_total", f"e{engine}", f"r{reason}")
    counts = tally.counts.get("tasks_rejected_total", {})
    assert sum(counts.values()) == len(found)
    for at, label in enumerate(BY_NAME["tasks_rejected_total"].labels):
        assert len({labels[at] for labels in counts}) <= BUDGETS[label]


def test_what_came_first_keeps_its_name() -> None:
    tally = Tally()
    for number in (*range(40), 3, 39):
        tally.add("tasks_rejected_total", "mock", f"r{number}")
    counts = tally.counts["tasks_rejected_total"]
    assert [reason for _, reason in counts] == [*(f"r{n}" for n in range(15)), OTHER]
    assert (counts["mock", "r3"], counts["mock", OTHER]) == (2, 26)


def test_an_engine_that_has_a_new_version_every_minute_takes_no_more_memory() -> None:
    tally = Tally()
    for number in range(5000):
        tally.add("tokens_out_total", "mock", f"1.{number}", "demo", "demo:0", by=2)
    assert len(tally.counts["tokens_out_total"]) == BUDGETS["engine_version"]
    assert sum(tally.counts["tokens_out_total"].values()) == 10_000


def test_a_page_of_more_pools_than_the_budget_adds_up_counts_and_leaves_out_gauges() -> None:
    many: dict[tuple[str, ...], float] = {("mock", "1.0", f"p{n}"): 1.0 for n in range(300)}
    assert len(left_out("pool_ready", many)) == BUDGETS["pool_id"] - 1
    drops = added_up(
        "sse_backpressure_drops_total", {(f"p{n}", "metrics"): 1.0 for n in range(300)}
    )
    assert len(drops) == BUDGETS["pool_id"]
    assert drops[OTHER, "metrics"] == 45


def test_labels_that_are_not_watched_have_few_values_by_themselves() -> None:
    values = {
        "priority": set(Priority),
        "result": {*VerifyResult},
        "state": {*ModelState},
        "outcome": {"assigned", "no_capacity"},
        "pinned": {"true", "false"},
        "fallback": {"true", "false"},
        "policy": {*FullPolicy, THROTTLE},
        "device": set(range(MAX_DEVICES)),
        "plugin": set(range(MAX_PLUGINS)),
    }
    assert set(values) == {label for metric in METRICS for label in metric.labels} - OPEN
    assert all(len(values[label]) <= BUDGETS[label] for label in values)
    # of a preload: how it ended when it was none of a reload, and when it was
    assert len({"ready", "failed", *Outcome} - {Outcome.RUNNING}) <= BUDGETS["result"]
