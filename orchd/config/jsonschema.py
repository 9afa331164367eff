"""The JSON Schema of the configuration file, made from the classes of schema.py and beside it.

The same bytes on every run [OC-CONFIG-6010]; stored as contracts/config.schema.json. Checks across
keys have no words in JSON Schema: `orchctl config check` has the last word. What turns attrs
classes into schemas is here too (`Schemas`): tools/openapi uses it for the shapes of the API.
"""

from __future__ import annotations

import ast
import enum
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Final

import attrs
import orjson

from orchd.config import schema
from orchd.config.pool import ENGINES
from orchd.wire import codec, ids

Schema = dict[str, Any]

ID: Final = "urn:orchd:config:1"
_MAX = 2**53 - 1
LEAVES: Final[Mapping[Any, Schema]] = {
    bool: {"type": "boolean"},
    str: {"type": "string"},
    int: {"type": "integer", "minimum": -_MAX, "maximum": _MAX},
    float: {"type": "number"},
    ids.Count: {"type": "integer", "minimum": 0, "maximum": _MAX},
    ids.Positive: {"type": "integer", "minimum": 1, "maximum": _MAX},
    ids.Int64: {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1},
    ids.NonNegative: {"type": "number", "minimum": 0},
    ids.Text: {"type": "string", "minLength": 1, "maxLength": 4096},
    ids.PoolId: {"type": "string", "pattern": f"^{ids.POOL_ID.pattern}$"},
    ids.EngineId: {"type": "string", "pattern": f"^{ids.POOL_ID.pattern}$"},
    ids.Digest: {"type": "string", "pattern": f"^{ids.DIGEST.pattern}$"},
    ids.DeviceMask: {
        "description": "GPU indices, ascending.",
        "type": "array",
        "items": {"type": "integer", "minimum": 0, "maximum": ids.MAX_DEVICES - 1},
        "minItems": 1,
        "uniqueItems": True,
    },
}
"""What the codec's leaves take."""
_CONFIG: Final = {
    **LEAVES,
    ids.EngineId: {"type": "string", "enum": list(ENGINES)},
    ids.Digest: {"type": "string", "pattern": f"^{ids.DIGEST.pattern}$"},
}


def generate() -> Schema:
    """Return the schema of `File` (draft 2020-12)."""
    made = Schemas(_CONFIG)
    top = made.object(schema.File)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": ID,
        "title": "orchd configuration",
        **top,
        "$defs": {name: made.defined[name] for name in sorted(made.defined)},
    }


def text() -> str:
    """Return the schema as it is stored: indented, with a line feed at the end."""
    return orjson.dumps(generate(), option=orjson.OPT_INDENT_2).decode() + "\n"


def _never(_cls: type) -> bool:
    return False


@attrs.define
class Schemas:
    """attrs classes -> JSON Schemas; every class met on the way is put into `defined` by name.

    What is *taken* is closed, and what has no default is required. What is only *said* may gain
    keys, has every key that cannot be None, and never a null: the codec leaves None out.
    """

    leaves: Mapping[Any, Schema]
    where: str = "#/$defs/"
    null: bool = False
    """Whether None may also be written as null in what is taken: JSON has one, TOML none."""
    enums: bool = False
    """Whether an enum has a schema of its own, with its docstring."""
    said: Callable[[type], bool] = _never
    defined: dict[str, Schema] = attrs.field(factory=dict)

    def object(self, cls: type) -> Schema:
        """Return the schema of an attrs class itself."""
        words = _descriptions(cls)
        only_said = self.said(cls)
        properties: Schema = {}
        required: list[str] = []
        for field in attrs.fields(attrs.resolve_types(cls)):
            optional = is_optional(field.type) or field.type is Any
            entry = self.of(field.type)
            if self.null and optional and not only_said and field.type is not Any:
                entry = _or_null(entry)
            if field.name in words:
                entry = {"description": words[field.name], **entry}
            if field.default is attrs.NOTHING or (only_said and not optional):
                required.append(field.name)
            elif field.default is not None and not only_said:
                entry = {**entry, "default": codec.unstructure(field.default)}
            properties[field.name] = entry
        whole: Schema = {
            "description": inspect.getdoc(cls),
            "type": "object",
            "properties": properties,
        }
        if not only_said:
            whole["additionalProperties"] = False
        if required:
            whole["required"] = required
        return whole

    def of(self, kind: Any) -> Schema:
        """Return the schema of a field's type: a leaf, a list, or a reference to a class."""
        if kind is Any:
            return {}
        if kind in self.leaves:
            return dict(self.leaves[kind])
        origin, arguments = typing.get_origin(kind), typing.get_args(kind)
        if origin in (typing.Union, types.UnionType):
            (inner,) = [each for each in arguments if each is not types.NoneType]
            return self.of(inner)
        if origin is tuple:
            return {"type": "array", "items": self.of(arguments[0])}
        if origin is dict:
            whole: Schema = {"type": "object", "additionalProperties": self.of(arguments[1])}
            if arguments[0] is not str:
                whole["propertyNames"] = self.of(arguments[0])
            return whole
        if issubclass(kind, enum.Enum):
            values: Schema = {"type": "string", "enum": [member.value for member in kind]}
            if not self.enums:
                return values
            self.defined.setdefault(kind.__name__, {"description": inspect.getdoc(kind), **values})
        elif kind.__name__ not in self.defined:
            self.defined[kind.__name__] = {}  # stands before its inside, should that name it again
            self.defined[kind.__name__] = self.object(kind)
        return {"$ref": f"{self.where}{kind.__name__}"}


def is_optional(kind: Any) -> bool:
    """Whether a field's type is `T | None`."""
    return typing.get_origin(kind) in (typing.Union, types.UnionType)


def _or_null(entry: Schema) -> Schema:
    if set(entry) <= {"type", "minimum", "maximum", "minLength", "pattern", "format"}:
        return {**entry, "type": [entry["type"], "null"]}
    return {"anyOf": [entry, {"type": "null"}]}


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
