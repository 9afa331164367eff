"""Predictions keep what they promise: simulated workloads through the pure core, seeded.

The quick tier runs a few; `python -m tools.bench calibration` writes the whole table, longer runs,
into specs/benchmarks.md.
"""

import pytest

from tools.bench.calibration import calibrate
from tools.bench.workloads import LOADS, Load

QUICK = [(LOADS[3], 1000), (LOADS[4], 1000), (LOADS[5], 2000), (LOADS[8], 1000)]


@pytest.mark.parametrize(("load", "tasks"), QUICK, ids=[load.name for load, _ in QUICK])
def test_p90_covers_nine_starts_in_ten(load: Load, tasks: int) -> None:
    found = calibrate(load, tasks, [1])
    assert found.waited > 200
    assert 0.85 <= found.covered <= 0.95
    assert 0.4 <= found.before_median <= 0.6
    assert found.unknown < 0.05 * found.waited


@pytest.mark.slow
@pytest.mark.parametrize("load", LOADS, ids=lambda load: load.name)
def test_all_workloads_at_length(load: Load) -> None:
    found = calibrate(load, 4000, [1, 2, 3])
    assert found.worst <= 0.1
    assert 0.85 <= found.covered <= 0.95
    assert found.covered_batch is None or 0.85 <= found.covered_batch <= 0.95
