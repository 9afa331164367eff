"""A house for core tests: one pool, one replica; its invariants hold when the test is over."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from orchd.core import invariants
from tests.core.making import House


@pytest.fixture
def house() -> Iterator[House]:
    """One pool of one replica with one slot, ready."""
    made = House.of()
    made.see()
    yield made
    invariants.check(made.front, made.now)
