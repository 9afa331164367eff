"""Suites for tests, and a small client over the public API."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.sockets.suite import Suite


@pytest.fixture
def suite_of(request: pytest.FixtureRequest) -> Iterator[Callable[..., Suite]]:
    """`suite_of(config)` starts a suite and waits until it is Ready; it ends with the test."""
    with ExitStack() as stack:

        def start(config: str, *, env: dict[str, str] | None = None, wait: bool = True) -> Suite:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="orchd-")))
            suite = stack.enter_context(Suite(folder, config, env))
            if wait:
                suite.wait_ready()
            return suite

        yield start
