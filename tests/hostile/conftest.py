"""The suite that is attacked: two unlike GPUs, a pool for the tasks and one to be played with."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hostile.ledger import VICTIM
from tests.sockets.suite import SIMULATED, Suite, mock_pool


@pytest.fixture(scope="package")
def suite() -> Iterator[Suite]:
    """Started once; each test leaves it as it was (ledger.py)."""
    demo = mock_pool(engine="tokens_per_s = 0", replicas="[[0], [1]]", slots=4)
    victim = mock_pool(replicas="[[1]]").replace('"demo"', f'"{VICTIM}"').replace("lorem", VICTIM)
    with tempfile.TemporaryDirectory(prefix="orchd-") as folder:
        with Suite(Path(folder), SIMULATED + demo + victim) as started:
            started.wait_ready()
            yield started
