"""The examples of the documents: examples.yaml, read and completed from the golden bodies.

A test holds each of them against the schemas and the codec. What an error says beside its message
is the table's and is not written twice.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any, Final

import yaml
from attrs import field, frozen

from orchd.wire import codec
from orchd.wire.errors import Kind, OrchError

FILE: Final = Path(__file__).with_name("examples.yaml")
GOLDEN: Final = Path(__file__).resolve().parents[2] / "contracts" / "golden"


@frozen(kw_only=True)
class Example:
    """One exchange."""

    name: str
    summary: str
    path: str = ""
    """The target, where it is another than the route's own path."""
    headers: dict[str, str] = field(factory=dict)
    body: Any = None
    status: int
    answer_headers: dict[str, str] = field(factory=dict)
    answer: Any = None

    def exchange(self, method: str, path: str) -> dict[str, Any]:
        """Return it as `x-examples` shows it: the request and its answer."""
        asked: dict[str, Any] = {"method": method, "path": self.path or path}
        told: dict[str, Any] = {"status": self.status}
        for whole, headers, body in (
            (asked, self.headers, self.body),
            (told, self.answer_headers, self.answer),
        ):
            if headers:
                whole["headers"] = headers
            if body is not None:
                whole["body"] = body
        return {"summary": self.summary, "request": asked, "response": told}


def of(operation: str) -> list[Example]:
    """Return the examples of a route. Raises KeyError where there are none."""
    return [
        Example(name=name, **{key: _filled(value) for key, value in entry.items()})
        for name, entry in _read()["operations"][operation].items()
    ]


def operations() -> set[str]:
    """Return the ids that have examples."""
    return set(_read()["operations"])


def envelope(kind: Kind) -> dict[str, Any]:
    """Return an example of an error's body. Raises KeyError for a kind that has no words."""
    said = dict(_read()["errors"][kind.value])
    plain: dict[str, Any] = codec.unstructure(
        OrchError(kind, said.pop("message"), **said).envelope()
    )
    return plain


def errors() -> set[str]:
    """Return the kinds that have words."""
    return set(_read()["errors"])


@functools.cache
def _read() -> Any:
    return yaml.safe_load(FILE.read_text())


def _filled(value: Any) -> Any:
    """Put a golden file in the place of `{golden: shapes/NAME.json}`; `with` changes some keys."""
    if not isinstance(value, dict) or "golden" not in value:
        return value
    path = GOLDEN / value["golden"]
    if path.suffix != ".json":
        return path.read_text()
    whole = json.loads(path.read_text())
    return {**whole, **value.get("with", {})}
