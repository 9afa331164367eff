"""What no client should send: values for every field of every body, made from the shapes.

A route that is added to tools/openapi brings its body here by itself. Values are JSON texts, not
Python's: NaN, lone surrogates and numbers of a thousand digits are among them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final, get_args
from uuid import uuid4

import attrs
from attrs import frozen

from orchd.wire.shapes import TaskRequest
from tests.fakes.tasks import task_body
from tools.openapi import examples
from tools.openapi.document import OPERATIONS
from tools.openapi.table import Operation

MARK: Final = "-here-"
LONG: Final = 100_000

VALUES: Final[dict[str, bytes]] = {
    "null": b"null",
    "true": b"true",
    "zero": b"0",
    "minus one": b"-1",
    "minus zero": b"-0.0",
    "a fraction": b"1.5",
    "past 53 bits": b"9007199254740993",
    "past 63 bits": b"9223372036854775808",
    "past 64 bits": b"-18446744073709551617",
    "a thousand digits": b"9" * 1000,
    "a large float": b"1e308",
    "past all floats": b"1e999",
    "NaN": b"NaN",
    "Infinity": b"-Infinity",
    "an empty string": b'""',
    "a letter": b'"x"',
    "a number in quotes": b'"1"',
    "a long string": b'"' + b"x" * LONG + b'"',
    "NUL": b'"a\\u0000b"',
    "a raw NUL": b'"a\x00b"',
    "a lone surrogate": b'"\\ud800"',
    "surrogates the wrong way": b'"\\udc00\\ud800"',
    "a surrogate in UTF-8": b'"\xed\xa0\x80"',
    "no UTF-8": b'"\xff\xfe"',
    "line separators": '"\u2028\u2029\u0085"'.encode(),
    "a bidi override": '"\u202e"'.encode(),
    "a path": b'"../../../etc/passwd"',
    "a header split": b'"x\\r\\nSet-Cookie: a=b"',
    "markup": b'"<script>{{7*7}}${jndi:x}%s%n"',
    "an empty list": b"[]",
    "a list of null": b"[null]",
    "a list of lists": b"[[[]]]",
    "a long list": b"[" + b"0," * LONG + b"0]",
    "an empty object": b"{}",
    "an object": b'{"a": 1, "a": 2, "": null, "__class__": "x"}',
    "a deep list": b"[" * 300 + b"]" * 300,
    "a deep object": b'{"a":' * 300 + b"1" + b"}" * 300,
    "depth past the parser": b"[" * 2000 + b"]" * 2000,
    "nothing": b"",
    "an open bracket": b"[",
    "a comment": b"/* 1 */ 1",
}
NAMES: Final = ("unheard_of", "", "__class__", "task_id ", "Task_ID", "a.b", "\x00", "x" * 1000)
"""Keys that no body has."""


@frozen
class Bad:
    """One body, and what is wrong with it."""

    where: str
    what: str
    body: bytes


def with_bodies() -> list[Operation]:
    """Return the rows of the documents that take a body."""
    return [row for row in OPERATIONS if row.body is not None]


def base(row: Operation) -> dict[str, Any]:
    """Return a good body of a route."""
    if row.body is TaskRequest:
        return task_body(max_tokens=2)
    body: dict[str, Any] = dict(examples.of(row.id)[0].body)
    return {**body, "task_id": str(uuid4())} if "task_id" in body else body


def bad_bodies(row: Operation) -> Iterator[Bad]:
    """Yield bodies with one wrong value each, at every field that the route's shape has."""
    assert row.body is not None
    for place in (*places(row.body), *((name,) for name in NAMES)):
        for what, value in VALUES.items():
            yield Bad(".".join(place), what, put(base(row), place, value))


def places(cls: type, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the path of every field of a shape, and of the shapes in it."""
    attrs.resolve_types(cls)
    for field in attrs.fields(cls):
        here = (*above, field.name)
        yield here
        for part in (field.type, *get_args(field.type)):
            if isinstance(part, type) and attrs.has(part):
                yield from places(part, here)


def put(body: dict[str, Any], place: tuple[str, ...], value: bytes) -> bytes:
    """Return the JSON of the body with a text at a place; "nothing" takes the key out."""
    inner = body
    for name in place[:-1]:
        inner[name] = dict(inner.get(name) or {})
        inner = inner[name]
    if not value:
        inner.pop(place[-1], None)
        return json.dumps(body).encode()
    inner[place[-1]] = MARK
    return json.dumps(body).encode().replace(json.dumps(MARK).encode(), value)


def bad_texts(good: bytes) -> dict[str, bytes]:
    """Return what is no JSON object at all, or hardly, made from a good body."""
    text = good.decode()
    return {
        "nothing": b"",
        "a space": b" ",
        "a byte order mark": b"\xef\xbb\xbf" + good,
        "UTF-16": text.encode("utf-16"),
        "UTF-32": text.encode("utf-32"),
        "twice": good + good,
        "something behind": good + b"x",
        "a NUL behind": good + b"\x00",
        "half": good[: len(good) // 2],
        "single quotes": text.replace('"', "'").encode(),
        "a trailing comma": good[:-1] + b",}",
        "every key twice": b"{" + good[1:-1] + b"," + good[1:-1] + b"}",
        "a list around": b"[" + good + b"]",
        "a string around": json.dumps(text).encode(),
        "a number": b"1",
        "gzip": b"\x1f\x8b\x08\x00" + good,
        "a form": b"task_id=1&prompt=x",
        "XML": b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "b">]><x>&a;</x>',
        "a million brackets": b"[" * 1_000_000,
        "a million objects": b'{"a":' * 1_000_000,
        "a huge array": b"[" + b"0," * 1_000_000 + b"0]",
        "a huge object": b"{" + b",".join(b'"k%d":0' % n for n in range(100_000)) + b"}",
        "a huge number": b'{"task_id": ' + b"1" * 1_000_000 + b"}",
        "a huge key": b'{"' + b"k" * 1_000_000 + b'": 1}',
        "escapes": b'{"task_id": "' + b"\\u0000" * 100_000 + b'"}',
    }
