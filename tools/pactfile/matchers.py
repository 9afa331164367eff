"""What an answer must have for orchctl: matchers made from the shapes, errors from their table."""

from __future__ import annotations

import enum
import json
import re
from typing import Any, Final

import attrs
from pact import match

from orchd.config.jsonschema import is_optional
from orchd.wire import ids
from orchd.wire.errors import TABLE, Kind
from tools.openapi import examples

UUID: Final = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
STREAM: Final = (
    b'id: 1\nevent: started\ndata: {"queue_position":0,"predicted_start_ms":0,'
    b'"correlation_id":"c","pool_id":"demo"}\n\n'
    b'id: 2\nevent: token\ndata: {"t":"Hello","i":0}\n\n'
    b'id: 3\nevent: token\ndata: {"t":" there","i":1}\n\n'
    b'id: 4\nevent: end\ndata: {"tokens_out":2,"decode_time_ms":36,"decode_ms":36,'
    b'"finish_reason":"length"}\n\n'
).decode()
STREAM_RULE: Final = (
    r'^id: 1\nevent: started\ndata: \{.*"queue_position":0.*\}\n\n'
    r"((id: \d+\nevent: (metrics|narration)\ndata: \{.*\}\n\n)|(: .*\n\n))*"
    r'id: \d+\nevent: token\ndata: \{"t":".*","i":0\}\n\n'
    r"(id: \d+\nevent: (token|metrics|narration)\ndata: \{.*\}\n\n)*"
    r'id: \d+\nevent: end\ndata: \{.*"finish_reason":"length".*\}\n\n$'
)


def result_rule(result: str) -> str:
    """Return the rule of a stream that has no tokens, and this result in its end."""
    return (
        r'^id: 1\nevent: started\ndata: \{.*"queue_position":0.*\}\n\n'
        r"((id: \d+\nevent: (metrics|narration)\ndata: \{.*\}\n\n)|(: .*\n\n))*"
        rf'id: \d+\nevent: end\ndata: \{{.*"result":\{{{result}\}}.*\}}\n\n$'
    )


def needed(cls: type, example: Any) -> Any:
    """Return the matchers of an answer: each field of a shape that orchctl cannot do without."""
    hints = {each.name: each.type for each in attrs.fields(attrs.resolve_types(cls))}
    return {
        name: _matcher(kind, example[name])
        for name, kind in hints.items()
        if name in example and kind is not Any and not is_optional(kind)
    }


def _matcher(kind: Any, example: Any) -> Any:
    if isinstance(kind, type) and attrs.has(kind):
        return needed(kind, example)
    if isinstance(example, list):
        if not example:
            return match.type([])
        return match.each_like(_matcher(kind.__args__[0], example[0]), min=1)
    if isinstance(example, bool):
        return match.bool(example)
    if isinstance(example, int):
        return match.int(example)
    if isinstance(example, dict) and not example:
        return match.type({})
    if isinstance(example, dict):
        return {key: match.int(value) for key, value in example.items()}
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return match.regex(example, regex="^(" + "|".join(re.escape(m.value) for m in kind) + ")$")
    if kind in (ids.TaskId, ids.SessionId):
        return match.regex(example, regex=f"^{UUID}$")
    return match.str(example)


def refusal(kind: Kind, **fields: Any) -> Any:
    """Return the matchers of an error: the code to the letter, the words of any kind."""
    row, said = TABLE[kind], examples.envelope(kind)
    body: dict[str, Any] = {
        "code": row.code,
        "message": match.str(said["message"]),
        "hint": match.str(row.advice),
        "retriable": row.retriable,
    }
    if row.auth_code is not None:
        body["auth_code"] = row.auth_code
    return body | fields


def golden(name: str) -> Any:
    """Return a golden body."""
    return json.loads((examples.GOLDEN / "shapes" / f"{name}.json").read_text())
