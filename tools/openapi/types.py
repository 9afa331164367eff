"""Python types from the stored OpenAPI documents, as a client's generator would make them.

Only the documents are read, nothing of orchd.wire: so a test can hold these types against the wire
(tests/contracts/test_types.py), and a client without orchd may generate its own.

    python -m tools.openapi.types contracts/openapi/data.yaml > orchq.py
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

_HEAD: Final = """\
\"\"\"Generated from {source}: {title} {version}.\"\"\"

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

"""
_LEAVES: Final = {
    "string": "str", "integer": "int", "number": "float", "boolean": "bool", "null": "None",
}  # fmt: skip


def read(path: Path) -> dict[str, Any]:
    """Return a document."""
    loaded = yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - both are safe
    assert isinstance(loaded, dict)
    return loaded


def module(document: Mapping[str, Any], source: str) -> str:
    """Return a module with a TypedDict for each object and a Literal for each enum."""
    info = document["info"]
    text = _HEAD.format(source=source, title=info["title"], version=info["version"])
    for name, schema in document["components"]["schemas"].items():
        if "properties" not in schema:
            text += f"{name} = {annotation(schema)}\n\n"
            continue
        text += f"\nclass {name}(TypedDict):\n"
        text += f"    {schema['description'].splitlines()[0]!r}\n\n"
        for key, entry in schema["properties"].items():
            kind = annotation(entry)
            text += f"    {key}: {kind if key in schema.get('required', ()) else _maybe(kind)}\n"
        text += "\n"
    return text


def _maybe(kind: str) -> str:
    return f"NotRequired[{kind}]"


def annotation(schema: Mapping[str, Any]) -> str:
    """Return a schema as an annotation. Raises ValueError for what the documents do not use."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "anyOf" in schema:
        return " | ".join(annotation(each) for each in schema["anyOf"])
    if "enum" in schema:
        return f"Literal[{', '.join(repr(value) for value in schema['enum'])}]"
    kind = schema.get("type")
    if isinstance(kind, list):
        return " | ".join(annotation({**schema, "type": each}) for each in kind)
    if kind == "array":
        return f"list[{annotation(schema['items'])}]"
    if kind == "object":
        return f"dict[str, {annotation(schema['additionalProperties'])}]"
    if kind in _LEAVES:
        return _LEAVES[kind]
    if not set(schema) - {"description"}:
        return "Any"
    raise ValueError(f"no type for {schema}")


def main(path: Path) -> int:
    """Print the module of one document."""
    print(module(read(path), path.name), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
