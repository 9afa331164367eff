"""What refusals are counted as: few words for the label `reason`, and one for each refusal."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from orchd import core
from orchd.core.flow.runs import ENGINE_LOST
from orchd.core.limits.cardinality import OTHER
from orchd.core.state.tally import REASONS, Tally
from orchd.wire.errors import Kind
from orchd.wire.metrics import BUDGETS

NO_REFUSAL_OF_A_TASK = {
    # how tasks that were admitted end
    *(Kind.DECODE_TIMEOUT, Kind.DEADLINE_PASSED, Kind.WORKER_RESET),
    # what is asked of other things than tasks
    *(Kind.UNKNOWN_ID, Kind.UNKNOWN_NAME, Kind.UNKNOWN_REPLICA, Kind.PINS_DIFFER),
    Kind.RELOAD_UNDER_WAY,
    # what replicas say
    *ENGINE_LOST,
}


@pytest.mark.req("OC-METRICS-7102")
def test_the_reasons_leave_the_budget_a_place_for_others() -> None:
    assert len({*REASONS.values(), OTHER}) <= BUDGETS["reason"]
    tally = Tally()
    for kind in REASONS:
        tally.rejected("mock", kind, None)
    counted = {reason for _, reason in tally.counts["tasks_rejected_total"]}
    assert counted == set(REASONS.values())
    assert OTHER not in counted


def test_every_refusal_that_core_knows_has_a_reason() -> None:
    (folder,) = core.__path__
    source = "".join(path.read_text() for path in Path(folder).rglob("*.py"))
    named = {Kind[name] for name in re.findall(r"\bKind\.([A-Z_]+)\b", source)}
    assert named == set(REASONS) | NO_REFUSAL_OF_A_TASK
    assert not set(REASONS) & NO_REFUSAL_OF_A_TASK
