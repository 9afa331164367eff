"""The keys of orchd.toml as a man page lists them, from the JSON Schema of the configuration."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from orchd.config import jsonschema
from tools.manual import roff

Schema = dict[str, Any]
_KINDS: Final = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
}


def keys() -> str:
    """Return one subsection for each table, in the order of the schema."""
    whole = jsonschema.generate()
    tables = list(_tables(whole, "", whole["$defs"]))
    return "\n".join(part for name, table in tables for part in _table(name, table))


def _tables(table: Schema, name: str, defined: Schema) -> Iterator[tuple[str, Schema]]:
    """Yield a table and those in it, each with its name as TOML writes it."""
    yield name, table
    for key, entry in table["properties"].items():
        below = _below(entry)
        if below is not None:
            inside = defined[below.removeprefix(f"{jsonschema.Schemas({}).where}")]
            path = f"{name.strip('[]')}.{key}".removeprefix(".")
            many = entry.get("type") == "array"
            yield from _tables(inside, f"[[{path}]]" if many else f"[{path}]", defined)


def _below(entry: Schema) -> str | None:
    """Return the reference to the table that a key holds, or a list of which."""
    found = entry.get("$ref") or entry.get("items", {}).get("$ref")
    return None if found is None else str(found)


def _table(name: str, table: Schema) -> Iterator[str]:
    required = table.get("required", ())
    yield f'.SS "{name or "Top of the file"}"'
    yield roff.text(str(table["description"]))
    yield roff.tagged(
        (roff.bold(key), _words(entry, key in required))
        for key, entry in table["properties"].items()
        if _below(entry) is None or "description" in entry
    )


def _words(entry: Schema, required: bool) -> str:
    facts = ["required"] if required else []
    facts.append(_kind(entry))
    if "default" in entry and _below(entry) is None:
        facts.append(f"default: `{json.dumps(entry['default'])}`")
    return f"{entry.get('description', '')} ({', '.join(fact for fact in facts if fact)})"


def _kind(entry: Schema) -> str:
    if _below(entry) is not None:
        return "a list of tables, below" if entry.get("type") == "array" else "a table, below"
    if "enum" in entry:
        return " or ".join(f"`{value}`" for value in entry["enum"])
    if entry.get("type") == "array":
        return f"list of {_kind(entry['items'])}"
    if entry.get("type") == "object":
        return "table"
    bounds = [f"at least {entry['minimum']}"] if entry.get("minimum", 0) > 0 else []
    if entry.get("maximum", 2**53) < 2**32:
        bounds.append(f"at most {entry['maximum']}")
    return " ".join([_KINDS[entry["type"]], *bounds])
