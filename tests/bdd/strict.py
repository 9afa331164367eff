"""A pytest plugin: every step of a scenario has exactly one meaning, or the scenario is an error.

pytest-bdd itself says so of a step that nobody wrote, when it comes to it; of two meanings it takes
one and is silent. Here both are found before the first step runs, all of them at once [HME-042].
"""

from __future__ import annotations

from typing import Any

import pytest
from pytest_bdd.scenario import find_fixturedefs_for_step
from pytest_bdd.steps import step_function_context_registry


class StepError(Exception):
    """Steps of a scenario that have no meaning, or more than one."""


def pytest_bdd_before_scenario(request: pytest.FixtureRequest, feature: Any, scenario: Any) -> None:
    """Refuse the scenario unless each of its steps is known and unambiguous."""
    faults = []
    for step in scenario.steps:
        found = find_fixturedefs_for_step(step, request._fixturemanager, request.node)
        meanings = sorted(
            step_function_context_registry[definition.func].parser.name for definition in found
        )
        where = f"{feature.filename}:{step.line_number}: {step.keyword} {step.name!r}"
        if not meanings:
            faults.append(f"{where} is no step")
        elif len(meanings) > 1:
            faults.append(f"{where} is ambiguous: {' | '.join(meanings)}")
    if faults:
        raise StepError("\n".join(faults))
