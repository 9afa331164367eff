"""How a step's words are matched: what stands in them, and what stands in the tables below them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from parse import with_pattern
from pytest_bdd import parsers

from tests.bdd.story import Story


@with_pattern(r'[^"]+')
def _name(text: str) -> str:
    return text


@with_pattern(r"[A-Z][a-z]+")
def _agent(text: str) -> str:
    return text


@with_pattern(r"[0-9]+")
def _count(text: str) -> int:
    return int(text)


@with_pattern(r"[A-Z]+(?:_[A-Z]+)+|INTERNAL")
def _code(text: str) -> str:
    return text


@with_pattern(r"[a-z]+")
def _word(text: str) -> str:
    return text


@with_pattern(r"GET|POST|PUT|DELETE|HEAD")
def _method(text: str) -> str:
    return text


TYPES: dict[str, Callable[[str], Any]] = {
    "Name": _name,
    "Agent": _agent,
    "Count": _count,
    "Code": _code,
    "Word": _word,
    "Method": _method,
}


def phrase(text: str) -> parsers.parse:
    """Return the matcher of a step: `"{task:Name}" ends with {n:Count} tokens`."""
    return parsers.parse(text, extra_types=TYPES)


def pairs(story: Story, table: list[list[str]] | None) -> dict[str, Any]:
    """Return a table of two columns as key -> value: JSON where it is JSON, else the text."""
    return {key: value_of(story.filled(text)) for key, text in table or []}


def value_of(text: str) -> Any:
    """Return the JSON value that a cell holds, or the cell's text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def at(value: Any, path: str) -> Any:
    """Return what stands at a path such as `metrics.queue_depth.batch` or `considered.0`."""
    for part in path.split("."):
        assert part.isdigit() or part in value, f"no {part!r} in {value}"
        value = value[int(part)] if part.isdigit() and isinstance(value, list) else value[part]
    return value


def check(value: Any, table: list[list[str]], story: Story) -> None:
    """Assert every row of a table: `path | value`, `path | > 0`, `path | absent`."""
    for path, text in table:
        wanted = story.filled(text)
        if wanted == "absent":
            head, _, tail = path.rpartition(".")
            assert tail not in (at(value, head) if head else value), f"{path} is there: {value}"
            continue
        found = at(value, path)
        sign, _, limit = wanted.partition(" ")
        if sign in {">", "<", ">=", "<="} and isinstance(found, str):
            found = float(found)  # a header
        if sign in {">", "<", ">=", "<="}:
            ok = {
                ">": found > float(limit),
                "<": found < float(limit),
                ">=": found >= float(limit),
                "<=": found <= float(limit),
            }[sign]
        elif sign == "holds":
            ok = value_of(limit) in found
        else:
            ok = found == value_of(wanted)
        assert ok, f"{path} is {found!r}, not {wanted!r}"
