"""What schemathesis also asks of every answer, in its own process (SCHEMATHESIS_HOOKS).

Schemas of answers are open, so that a field may be added; here it is the codec that reads, which
knows no field beside the shape's. What was seen is written down: a run that saw nothing would pass.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import schemathesis

from orchd.wire import codec
from orchd.wire.errors import TABLE, Envelope
from tools.openapi.document import OPERATIONS, kinds_of
from tools.openapi.table import Operation

ROWS = {(row.method, row.path): row for row in OPERATIONS}
SEEN: Counter[str] = Counter()
PAGES = "https://docs.example.org"


@schemathesis.hook
def before_load_schema(_context: Any, raw_schema: dict[str, Any]) -> None:
    """The daemon under test has a token: what needs it must refuse who has none."""
    raw_schema["security"] = [{"token": []}]


@schemathesis.hook
def before_call(_context: Any, case: Any, _kwargs: Any) -> None:
    """The pages of the examples are on a server of the test's (ORCHD_PAGES)."""
    if case.operation.path == "/v1/fetch" and isinstance(case.body, dict):
        url = case.body.get("url")
        if isinstance(url, str) and url.startswith(PAGES):
            case.body["url"] = os.environ["ORCHD_PAGES"] + url.removeprefix(PAGES)


@schemathesis.hook
def after_call(_context: Any, case: Any, response: Any) -> None:
    SEEN[f"{case.operation.method.upper()} {case.operation.path} {response.status_code}"] += 1
    Path(os.environ["ORCHD_SEEN"]).write_text(
        "".join(f"{count} {key}\n" for key, count in sorted(SEEN.items()))
    )


@schemathesis.check
def the_codec_reads_the_answer(_context: Any, response: Any, case: Any) -> None:
    row = row_of(case)
    if row is None or not response.content:
        return
    reply = row.replies.get(response.status_code)
    if reply is not None:
        said = _faults(reply.shape, response.content) if reply.shape is not None else ""
        if not said:
            return
        assert response.status_code >= 400, said
    assert _faults(Envelope, response.content) == ""
    envelope = codec.loads(Envelope, response.content)
    listed = {(TABLE[kind].code, TABLE[kind].status) for kind in kinds_of(row)}
    assert (envelope.code, response.status_code) in listed
    assert envelope.message
    assert envelope.hint


@schemathesis.check
def what_the_schema_takes_the_codec_takes(_context: Any, response: Any, case: Any) -> None:
    """A 400 for data that the schema takes comes from a rule that no schema can say."""
    row = row_of(case)
    if row is None or row.body is None or response.status_code != 400:
        return
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    data = orjson.dumps(_as_the_codec_wants(case.body))
    assert _faults(row.body, data) == ""


def row_of(case: Any) -> Operation | None:
    return ROWS.get((case.method.upper(), case.operation.path))


def _faults(cls: type, data: bytes) -> str:
    try:
        codec.loads(cls, data)
    except codec.ShapeError as exc:
        return str(exc)
    return ""


def _as_the_codec_wants(value: Any, name: str = "") -> Any:
    """Put right what no schema can ask for: in JSON Schema 1.0 is an integer, any order good."""
    if isinstance(value, dict):
        return {key: _as_the_codec_wants(item, key) for key, item in value.items()}
    if isinstance(value, list):
        items = [_as_the_codec_wants(item) for item in value]
        return sorted(items) if name == "require_device_mask" else items
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
