"""The stored JSON Schema is the rule: a configuration that it refuses, orchd refuses too.

The other way round orchd may refuse more: rules across keys have no words in a schema.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchd.config.faults import ConfigError
from orchd.config.load import load
from tests.config.test_any_value import GOOD, STEPS, VALUES, mutate

pytestmark = pytest.mark.req("ORCH-3030", "OC-CONFIG-6001")
STORED = Path(__file__).parents[2] / "contracts" / "config.schema.json"
VALIDATOR = jsonschema.Draft202012Validator(json.loads(STORED.read_text()))
# what is nearly right is what tells schema and loader apart
NEAR = st.sampled_from(
    [0, 1, 2, -1, 1.0, 0.5, True, "", "a", "mock", "file:/x", [], [0], [[0]], {}]
)


def taken(value: dict[str, Any]) -> bool:
    """Whether orchd takes this as its file."""
    try:
        load(Path("/dev/null"), environ={"ORCHD_RUN_DIR": "/run"}, overrides=value)
    except ConfigError:
        return False
    return True


def test_both_take_what_is_good() -> None:
    assert taken(GOOD)
    assert VALIDATOR.is_valid(GOOD)


@given(st.lists(st.tuples(STEPS, NEAR | VALUES), min_size=1, max_size=2))
@settings(max_examples=300, deadline=None)
def test_what_orchd_takes_the_schema_takes(changes: list[tuple[list[int], Any]]) -> None:
    value = copy.deepcopy(GOOD)
    for steps, new in changes:
        mutate(value, steps, new)
    value = {key: item for key, item in value.items() if item is not None}
    if taken(value):
        assert [fault.message for fault in VALIDATOR.iter_errors(value)] == []


@pytest.mark.parametrize(
    ("path", "wrong"),
    [
        (("pools", 0, "ctx"), 0),
        (("pools", 0, "ctx"), 1.0),
        (("pools", 0, "ctx"), "1"),
        (("pools", 0, "id"), "UPPER"),
        (("pools", 0, "replicas"), [[0, 0]]),
        (("pools", 0, "provisioning", "mode"), "magic"),
        (("pools", 0, "unknown"), 1),
        (("sse", "heartbeat_ms"), True),
        (("bind_addr",), 8484),
    ],
)
def test_what_the_schema_refuses_orchd_refuses(path: tuple[str | int, ...], wrong: object) -> None:
    value: Any = copy.deepcopy(GOOD)
    inner = value
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = wrong
    assert not taken(value)
    if wrong != 1.0 or isinstance(wrong, bool):  # JSON Schema has one kind of number
        assert not VALIDATOR.is_valid(value)
