"""Types generated from the stored documents are those of orchd.wire, field by field.

The generator reads only the documents and this test only the classes: where they meet, a client
that was generated and the daemon mean the same.
"""

from __future__ import annotations

import enum
import inspect
import sys
import types
import typing
from pathlib import Path
from typing import Any

import attrs
import mypy.api
import pytest

from orchd.wire import artifacts, catalog, control, errors, ids, pages, shapes, snapshot
from tools.openapi import types as generated
from tools.openapi.table import Plane

FOLDER = Path(__file__).parents[2] / "contracts" / "openapi"
CLASSES: list[tuple[str, Any]] = [
    (name, cls)
    for room in (shapes, control, snapshot, errors, catalog, artifacts, pages)
    for name, cls in inspect.getmembers(room, inspect.isclass)
    if cls.__module__ == room.__name__
]
WIRE = dict(CLASSES)
PLANES: tuple[Plane, ...] = ("control", "data")


def made(plane: Plane) -> Any:
    """Return the generated module, loaded."""
    path = FOLDER / f"{plane}.yaml"
    module = types.ModuleType(f"made_{plane}")
    sys.modules[module.__name__] = module  # get_type_hints looks there
    exec(
        compile(generated.module(generated.read(path), path.name), path.name, "exec"), vars(module)
    )
    return module


def spelled(kind: Any) -> str:
    """Return a field's type of the wire as JSON has it."""
    if kind is Any:
        return "Any"
    if kind is ids.DeviceMask:
        return "list[int]"
    if hasattr(kind, "__supertype__"):
        return spelled(kind.__supertype__)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        (inner,) = [each for each in arguments if each is not types.NoneType]
        return spelled(inner)
    if origin is tuple:
        return f"list[{spelled(arguments[0])}]"
    if origin is dict:
        return f"dict[str, {spelled(arguments[1])}]"
    return str(kind.__name__)


def test_no_two_shapes_have_one_name() -> None:
    """A client that reads both documents puts them into one module."""
    assert len(WIRE) == len(CLASSES)


@pytest.mark.req("OC-CTRL-2067", "OC-CTRL-2031")
@pytest.mark.parametrize("plane", PLANES)
def test_the_generated_types_are_the_wires(plane: Plane) -> None:
    document = generated.read(FOLDER / f"{plane}.yaml")
    module = made(plane)
    schemas = document["components"]["schemas"]
    assert len(schemas) > 10
    for name, schema in schemas.items():
        cls, mine = WIRE[name], getattr(module, name)
        if issubclass(cls, enum.Enum):
            assert typing.get_args(mine) == tuple(member.value for member in cls), name
            continue
        taken = schema.get("additionalProperties") is False
        fields = {each.name: each for each in attrs.fields(attrs.resolve_types(cls))}
        # as it is written there: a NotRequired is left standing
        hints = {
            key: getattr(hint, "__forward_arg__", hint)
            for key, hint in mine.__annotations__.items()
        }
        assert list(hints) == list(fields), name
        for key, each in fields.items():
            optional = typing.get_origin(each.type) in (typing.Union, types.UnionType)
            wanted = spelled(each.type)
            if optional and taken:
                wanted += " | None"
            required = each.default is attrs.NOTHING or not (taken or optional or each.type is Any)
            assert hints[key] == (wanted if required else f"NotRequired[{wanted}]"), (name, key)


def test_mypy_takes_what_is_generated_and_holds_a_client_to_it(tmp_path: Path) -> None:
    for plane in PLANES:
        path = FOLDER / f"{plane}.yaml"
        (tmp_path / f"{plane}_types.py").write_text(
            generated.module(generated.read(path), path.name)
        )
    (tmp_path / "client.py").write_text(
        "from data_types import TaskAccepted\n"
        "def position(answer: TaskAccepted) -> str:\n"
        "    return answer['queue_position']\n"
    )
    # with no configuration: it is the generated text that is asked about
    out, _, code = mypy.api.run(
        [*("--strict", "--config-file=", "--no-incremental", "--cache-dir", str(tmp_path / "c")),
         *map(str, sorted(tmp_path.glob("*.py")))]
    )  # fmt: skip
    assert code == 1
    assert "client.py:3" in out
    assert out.count("error:") == 1, out
