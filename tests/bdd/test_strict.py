"""The steps are strict: what has no meaning or two is an error, and no word lies about unused."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_bdd.feature import get_features
from pytest_bdd.parser import Step
from pytest_bdd.steps import StepFunctionContext, step_function_context_registry

from tests.bdd.words import WORDS

ROOT = Path(__file__).parents[2]
FEATURES = Path(__file__).with_name("features")

STEPS = """
from pytest_bdd import given, parsers, scenarios, then

scenarios("{feature}")
ran = []

@given("a cup of tea")
def tea():
    ran.append("tea")

@then("it is hot")
def hot():
    assert ran == ["tea"]

@then(parsers.parse("it {{is}} cold"))
def cold():
    raise AssertionError("never run")

@then(parsers.parse("it is {{what}} and cold"))
def icy():
    raise AssertionError("never run")
"""
CASES = {
    "known": ("Given a cup of tea\n    Then it is hot", "1 passed", ""),
    "unknown": (
        "Given a cup of tea\n    Then it is sweet\n    And it has milk",
        "1 failed",
        r"unknown.feature:4: Then 'it is sweet' is no step\n.*unknown.feature:5: And 'it has milk'",
    ),
    "ambiguous": (
        "Given a cup of tea\n    Then it is very and cold",
        "1 failed",
        r"ambiguous.feature:4: Then '.*' is ambiguous: it is \{what\} and cold \| it \{is\} cold",
    ),
    "of another kind": (
        "Given a cup of tea\n    Then a cup of tea",
        "1 failed",
        r"Then 'a cup of tea' is no step",
    ),
}


@pytest.mark.req("ORCH-3279", "HME-042")
def test_a_step_without_a_meaning_or_with_two_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "conftest.py").write_text('pytest_plugins = ("tests.bdd.strict",)\n')
    for name, (steps, _, _) in CASES.items():
        feature = tmp_path / f"{name}.feature"
        feature.write_text(
            f"Feature: Tea\n  Scenario: Tea\n    {steps}\n".replace("\n    ", "\n    ")
        )
        test = tmp_path / f"test_{name.replace(' ', '_')}.py"
        test.write_text(STEPS.format(feature=feature.name))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            *("-p", "no:schemathesis", "-p", "no:anyio", "--tb=short"),
        ],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "3 failed, 1 passed" in done.stdout, done.stdout
    assert "never run" not in done.stdout
    for name, (_, outcome, said) in CASES.items():
        failed = f"FAILED test_{name.replace(' ', '_')}.py::test_tea" in done.stdout
        assert failed == ("failed" in outcome), done.stdout
        assert re.search(said, done.stdout), (name, done.stdout)


def test_every_word_is_used_by_a_scenario() -> None:
    asked = {(step.type, step.name) for step in steps_of_all_features()}
    unused = [
        word.parser.name
        for module in WORDS
        for word in words_of(module)
        if not any(kind == word.type and word.parser.is_matching(text) for kind, text in asked)
    ]
    assert unused == []


def steps_of_all_features() -> Iterator[Step]:
    for feature in get_features([str(FEATURES)]):
        for template in feature.scenarios.values():
            rows = [row for table in template.examples for row in table.as_contexts()]
            for row in rows or [{}]:
                yield from template.render(row).steps


def words_of(module: str) -> Iterator[StepFunctionContext]:
    for member in vars(sys.modules[module]).values():
        unwrap = getattr(member, "_get_wrapped_function", None)
        if unwrap is not None and unwrap() in step_function_context_registry:
            yield step_function_context_registry[unwrap()]
