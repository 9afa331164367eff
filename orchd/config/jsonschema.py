"""The JSON Schema of the configuration file, made from the classes of schema.py.

The same bytes on every run [OC-CONFIG-6010]; stored as contracts/config.schema.json. Checks across
keys have no words in JSON Schema: `orchctl config check` has the last word.
"""

from __future__ import annotations

import ast
import enum
import inspect
import types
import typing
from typing import Any, Final

import attrs
import orjson

from orchd.config import schema
from orchd.wire import codec, ids

ID: Final = "urn:orchd:config:1"
_MAX = 2**53 - 1
_LEAVES: Final[dict[Any, dict[str, Any]]] = {
    bool: {"type": "boolean"},
    str: {"type": "string"},
    ids.Count: {"type": "integer", "minimum": 0, "maximum": _MAX},
    ids.Positive: {"type": "integer", "minimum": 1, "maximum": _MAX},
    ids.NonNegative: {"type": "number", "minimum": 0},
    ids.Text: {"type": "string", "minLength": 1, "maxLength": 4096},
    ids.PoolId: {"type": "string", "pattern": f"^{ids.POOL_ID.pattern}$"},
    ids.EngineId: {"type": "string", "enum": list(schema.ENGINES)},
    ids.DeviceMask: {
        "description": "GPU indices, ascending.",
        "type": "array",
        "items": {"type": "integer", "minimum": 0, "maximum": ids.MAX_DEVICES - 1},
        "minItems": 1,
        "uniqueItems": True,
    },
}


def generate() -> dict[str, Any]:
    """Return the schema of `File` (draft 2020-12)."""
    defined: dict[str, dict[str, Any]] = {}
    top = _object(schema.File, defined)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": ID,
        "title": "orchd configuration",
        **top,
        "$defs": {name: defined[name] for name in sorted(defined)},
    }


def text() -> str:
    """Return the schema as it is stored: indented, with a line feed at the end."""
    return orjson.dumps(generate(), option=orjson.OPT_INDENT_2).decode() + "\n"


def _object(cls: type, defined: dict[str, dict[str, Any]]) -> dict[str, Any]:
    said = _descriptions(cls)
    properties: dict[str, Any] = {}
    required: list[str] = []
    for field in attrs.fields(attrs.resolve_types(cls)):
        entry = _type(field.type, defined)
        if field.name in said:
            entry = {"description": said[field.name], **entry}
        if field.default is attrs.NOTHING:
            required.append(field.name)
        elif field.default is not None:
            entry = {**entry, "default": codec.unstructure(field.default)}
        properties[field.name] = entry
    whole: dict[str, Any] = {
        "description": inspect.getdoc(cls),
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }
    if required:
        whole["required"] = required
    return whole


def _type(kind: Any, defined: dict[str, dict[str, Any]]) -> dict[str, Any]:
    if kind in _LEAVES:
        return dict(_LEAVES[kind])
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        (inner,) = [each for each in typing.get_args(kind) if each is not types.NoneType]
        return _type(inner, defined)  # TOML has no null: the key is there or it is not
    if typing.get_origin(kind) is tuple:
        return {"type": "array", "items": _type(typing.get_args(kind)[0], defined)}
    if issubclass(kind, enum.Enum):
        return {"type": "string", "enum": [member.value for member in kind]}
    if kind.__name__ not in defined:
        defined[kind.__name__] = {}  # stands before its inside, should that name it again
        defined[kind.__name__] = _object(kind, defined)
    return {"$ref": f"#/$defs/{kind.__name__}"}


def _descriptions(cls: type) -> dict[str, str]:
    """Return the docstring under each field of `cls` and its bases."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if base is object:
            continue
        body = ast.parse(inspect.getsource(base)).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, doc in zip(body.body, body.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(doc, ast.Expr)
                and isinstance(doc.value, ast.Constant)
            ):
                found[field.target.id] = inspect.cleandoc(str(doc.value.value))
    return found
