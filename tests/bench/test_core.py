"""The core at scale, small: a step costs the same however many wait, and batch never starves."""

from __future__ import annotations

import pytest

from tools.bench import core


@pytest.mark.req("OC-CORE-1003", "OC-CORE-1005", "PERF-BENCH")
def test_a_step_does_as_much_with_ten_as_with_thousands_waiting() -> None:
    few, many = core.calls(10), core.calls(5000)
    for step, calls in many.items():  # a count of calls, not a time: it does not depend on the load
        assert 0 < calls < 1.3 * few[step], (few, many)


@pytest.mark.req("ORCH-3250", "OC-CORE-1004")
def test_a_crowd_ends_and_no_batch_task_waits_beyond_its_bound() -> None:
    done = core.Crowd(pools=8).run(6000)
    assert done.admitted + done.refused == 6000
    assert sum(done.ends.values()) == done.admitted
    assert min(done.ends["ended"], done.ends["canceled"], done.ends["broken"]) > 0
    assert done.most_waiting > 50, "there was a crowd"
    assert 0.3 < done.longest <= 1.0
