"""The story of each scenario, the workstations they share, and the closing line."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.bdd.heard import keep
from tests.bdd.story import Story
from tests.bdd.workstations import WORKSTATIONS
from tests.sockets.suite import Suite


@pytest.fixture(scope="session")
def workstation_of(request: pytest.FixtureRequest) -> Iterator[Callable[[str], Suite]]:
    """`workstation_of(name)` starts it when it is named first; all end with the session."""
    running: dict[str, Suite] = {}
    with ExitStack() as stack:

        def start(name: str) -> Suite:
            if name not in running:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="orchd-")))
                suite = running[name] = stack.enter_context(Suite(folder, WORKSTATIONS[name]))
                suite.wait_ready()
            return running[name]

        yield start
    for suite in running.values():  # they have ended: what they said last counts too
        keep(request.config, suite.events)


@pytest.fixture
def story(workstation_of: Callable[[str], Suite]) -> Iterator[Story]:
    """What the scenario knows; it leaves nothing behind."""
    story = Story(workstation_of)
    yield story
    story.leave()
