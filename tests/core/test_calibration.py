"""Predictions keep what they promise: simulated workloads through the pure core, seeded.

The quick tier runs a few; `python -m tools.bench calibration` writes the whole table, longer runs,
into specs/benchmarks.md.
"""

import pytest

from tools.bench.calibration import calibrate
from tools.bench.workloads import LOADS, Load

QUICK = [LOADS[i] for i in (0, 3, 4, 5, 8, 9, 10)]


@pytest.mark.parametrize("load", QUICK, ids=lambda load: load.name)
def test_p90_covers_nine_starts_in_ten(load: Load) -> None:
    found = calibrate(load, 1500, [1])
    assert found.waited > 300
    assert 0.85 <= found.covered <= 0.95
    assert 0.4 <= found.before_median <= 0.6
    assert found.unknown < 0.05 * found.waited


@pytest.mark.slow
@pytest.mark.parametrize("load", LOADS, ids=lambda load: load.name)
def test_all_workloads_at_length(load: Load) -> None:
    found = calibrate(load, 6000, [1, 2, 3])
    assert found.worst <= 0.1
    assert 0.85 <= found.covered <= 0.95
    assert found.covered_batch is None or 0.85 <= found.covered_batch <= 0.95
