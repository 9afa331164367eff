"""Whatever a configuration holds: settings or named faults, and every key has its line."""

from __future__ import annotations

import copy
import tomllib
from pathlib import Path
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from orchd.config import positions
from orchd.config.faults import ConfigError
from orchd.config.load import load
from orchd.config.schema import Settings
from tests.config.test_positions import paths

GOOD: dict[str, Any] = {
    "bind_addr": "127.0.0.1:1",
    "devices": {"backend": "simulated", "simulated": [{"name": "A", "vram_mb": 1}]},
    "sse": {"heartbeat_ms": 5},
    "pools": [
        {
            "id": "a",
            "engine": {"id": "mock", "faults": {"load_ms": 1}, "args": []},
            "model": {"ref": "x"},
            "replicas": [[0]],
            "ctx": 10,
            "queue": {"batch": 1},
            "provisioning": {"mode": "binary"},
            "tensor_split": [1.0],
        },
    ],
}
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["id", "ref", "mode", "url", "x", "a.b", ""]), inner)
    ),
    max_leaves=4,
)
STEPS = st.lists(st.integers(0, 30), min_size=1, max_size=5)
FRAGMENTS = st.sampled_from(
    ["a", "b", '"c d"', "'e'", ".", "=", "1", '"x#]"', "'''\n'''", '"""a\n"b""""', "[", "]", "[[",
     "]]", "{", "}", ",", "\n", " ", "# [z]\n", "[t]\n", "[[u]]\n", "k = [1,\n {v = 2}]\n",
     "w = 3\n"]
)  # fmt: skip


def mutate(value: Any, steps: list[int], new: Any) -> None:
    """Put `new` somewhere into `value`: the steps choose a way down."""
    for step in steps:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        if not keys:
            return
        key = keys[step % len(keys)]
        if not isinstance(value[key], dict | list) or step == steps[-1]:
            value[key] = new
            return
        value = value[key]


@given(st.lists(st.tuples(STEPS, VALUES), min_size=1, max_size=4))
@settings(max_examples=150, deadline=None)
def test_any_value_anywhere_is_settings_or_faults(changes):
    given_value = copy.deepcopy(GOOD)
    for steps, new in changes:
        mutate(given_value, steps, new)
    overrides = {key: value for key, value in given_value.items() if value is not None}
    found: Settings | ConfigError
    try:
        found = load(Path("/dev/null"), environ={"ORCHD_RUN_DIR": "/run"}, overrides=overrides)
    except ConfigError as exc:
        found = exc
    if isinstance(found, ConfigError):
        assert found.faults
        assert all(fault.path.startswith("$.") for fault in found.faults)
        assert len({(fault.path, fault.message) for fault in found.faults}) == len(found.faults)


def test_the_value_that_is_changed_is_good():
    load(Path("/dev/null"), environ={"ORCHD_RUN_DIR": "/run"}, overrides=GOOD)


@given(st.lists(FRAGMENTS, max_size=25).map("".join))
@example('a = """\n"""\nb = {c = [\n1, # x\n]}\n')
@settings(max_examples=400, deadline=None)
def test_every_key_of_any_text_has_a_line(text):
    try:
        value = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    found = positions.find(text)
    assert paths(value, "$") - {"$"} == set(found)
    assert all(1 <= line <= text.count("\n") + 1 for line in found.values())
