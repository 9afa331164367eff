"""Lists that are kept beside the classes of the configuration: a new key cannot be forgotten."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import attrs
import pytest

from orchd.config import engines, jsonschema
from orchd.config.faults import ConfigError
from orchd.config.load import ENVIRONMENT, STAND_INS, load
from orchd.config.pool import Engine
from orchd.config.schema import File
from orchd.wire.ids import DeviceMask


def classes(cls: Any = File, seen: set[Any] | None = None) -> Iterator[Any]:
    """Every class that the file may say something of."""
    seen = set() if seen is None else seen
    if attrs.has(cls) and cls not in seen and cls is not DeviceMask:  # a list, in a file
        seen.add(cls)
        yield attrs.resolve_types(cls)
        for each in attrs.fields(cls):
            for inner in (each.type, *get_args(each.type)):
                yield from classes(inner, seen)


def test_every_required_key_has_a_stand_in() -> None:
    """One that is missing must be a fault among others, never a traceback."""
    required = [
        each.type
        for cls in classes()
        for each in attrs.fields(cls)
        if each.default is attrs.NOTHING and not attrs.has(each.type)
    ]
    assert required
    assert {kind for kind in required if kind not in STAND_INS} == set()


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("[devices]\nreserve = [{ gpu = 0 }]", "$.devices.reserve[0].mb"),
        ("[devices]\nsimulated = [{ name = 3 }]", "$.devices.simulated[0].name"),
        ("tls = { cert = 3 }", "$.tls.cert"),
        ("[[pools]]\nctx = 0", "$.pools[0].id"),
        ("[[pools]]\nmodel = {}\nengine = 3", "$.pools[0].model.ref"),
    ],
)
def test_an_object_that_lacks_keys_is_told_so(tmp_path: Path, text: str, path: str) -> None:
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "c.toml", environ={"ORCHD_RUN_DIR": "/run"})
    assert path in {fault.path for fault in caught.value.faults}


def test_variables_of_the_environment_are_those_that_the_keys_name() -> None:
    said = {}
    for name, entry in jsonschema.generate()["properties"].items():
        if found := re.search(r"\bEnv: (ORCHD_[A-Z_]+)", entry.get("description", "")):
            said[name] = found[1]
    assert said == ENVIRONMENT


def test_keys_that_only_the_mock_engine_has_say_so() -> None:
    words = jsonschema.generate()["$defs"]["Engine"]["properties"]
    said = {name for name, entry in words.items() if entry.get("description", "")[:6] == "mock: "}
    assert said == set(engines.MOCK_ONLY)
    assert said < {each.name for each in attrs.fields(Engine)}
