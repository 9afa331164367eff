"""Puts the two OpenAPI documents together: the table, the shapes, the errors and the examples.

The same bytes on every run; stored as contracts/openapi/{data,control}.yaml by `make specs`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

import yaml
from attrs import frozen

from orchd.config.jsonschema import LEAVES, Schema, Schemas
from orchd.wire import codec, ids
from orchd.wire.control import API_VERSION
from orchd.wire.errors import TABLE, Envelope, Kind
from tools.openapi import control, data, examples
from tools.openapi.table import (
    CORRELATION,
    ERROR_HEADERS,
    EVENTS,
    EVERYWHERE,
    FRAMES,
    HEADERS,
    IDS,
    IN_FRAMES,
    JSON,
    ArtifactCursor,
    Cursor,
    EventId,
    Operation,
    PageSize,
    Parameter,
    Plane,
    Reply,
)

OPERATIONS: Final = (*data.ROWS, *control.ROWS)
_UUID: Final[Schema] = {"type": "string", "format": "uuid", "pattern": f"^{codec.UUID.pattern}$"}
_LEAVES: Final = {
    **LEAVES,
    ids.TaskId: _UUID,
    ids.SessionId: _UUID,
    ids.ReplicaId: {"type": "string", "pattern": f"^{codec.MASK_ID.pattern}$"},
    ids.ModelId: {"type": "string", "pattern": f"^{ids.MODEL_ID.pattern}$"},
    ids.ArtifactId: {"type": "string", "pattern": f"^{ids.ARTIFACT_ID.pattern}$"},
    ids.Tag: {"type": "string", "pattern": f"^{ids.TAG.pattern}$"},
    ArtifactCursor: {"type": "string", "pattern": "^[0-9]{1,15}\\.[0-9a-f]{32}$"},
    PageSize: {"type": "integer", "minimum": 1, "maximum": 100},
    Cursor: {"type": "string", "pattern": "^[0-9]{1,19}$"},
    EventId: {"type": "string", "pattern": "^[0-9]*$"},
}
_WORDS: Final[Mapping[Plane, tuple[str, str]]] = {
    "data": ("OrchQueue v1, data plane", "Tasks: submit, follow, cancel."),
    "control": (
        "OrchQueue v1, control plane",
        "What can be asked for, how the pools are, and what supervisors and scrapers read.",
    ),
}
_HEAD: Final = """\
# Written by `make specs` from orchd/wire and tools/openapi: do not edit.
"""
WITH_OR_WITHOUT: Final[list[Schema]] = [{"token": []}, {}]
"""A document does not know whether a token is configured; without one loopback needs none."""
_COMMON: Final = """
The same is served on the unix socket `/run/orchd/orchd.sock`. Every answer has `X-Correlation-Id`.
Every GET may be asked as HEAD. Answers may gain fields: readers pass over those they do not know.
Requests are read strictly: an unknown field is 400 INVALID_PARAMS with its path, and nothing is
coerced (1.0 is no integer). A field that may be absent may also be null.
"""


@functools.cache
def documents() -> dict[Plane, str]:
    """Return both documents as YAML."""
    return {plane: _HEAD + _yaml(document(plane)) for plane in _WORDS}


@functools.cache
def document(plane: Plane) -> Schema:
    """Return one document (OpenAPI 3.1)."""
    rows = [row for row in OPERATIONS if row.plane == plane]
    title, words = _WORDS[plane]
    parts = _Parts(shapes_of(rows))
    paths: Schema = {}
    for row in rows:
        paths.setdefault(row.path, {})[row.method.lower()] = parts.operation(row)
    answered = {kind for row in rows for kind in kinds_of(row)}
    framed = set(IN_FRAMES) if any(is_stream(row) for row in rows) else set()
    return {
        "openapi": "3.1.0",
        "info": {
            "title": title,
            "version": API_VERSION,
            "summary": words,
            "description": _COMMON.strip(),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "http://127.0.0.1:8484", "description": "The default bind_addr."}],
        "security": WITH_OR_WITHOUT,
        "tags": [{"name": tag} for tag in dict.fromkeys(row.tag for row in rows)],
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "headers": {name: {**_header(name), "required": True} for name in sorted(HEADERS)},
            "responses": {
                _shared(status): _error(status, kinds)
                for status, kinds in _by_status(EVERYWHERE).items()
            },
            "examples": {
                kind.name: {"value": examples.envelope(kind)}
                for kind in Kind
                if kind in answered | framed
            },
            "schemas": {name: parts.schemas[name] for name in sorted(parts.schemas)},
        },
    }


def kinds_of(row: Operation) -> tuple[Kind, ...]:
    """Return every error that a route may answer with, in the order of the table of errors."""
    return tuple(kind for kind in Kind if kind in {*EVERYWHERE, *row.kinds})


def is_stream(row: Operation) -> bool:
    """Whether a route answers with a stream of events."""
    return any(EVENTS in reply.media for reply in row.replies.values())


def shapes_of(rows: Iterable[Operation]) -> dict[str, Schema]:
    """Return the schemas of every shape that these routes take or say."""
    taken = Schemas(_LEAVES, where="#/components/schemas/", null=True, enums=True)
    said = Schemas(_LEAVES, where="#/components/schemas/", enums=True, said=lambda _cls: True)
    said.of(Envelope)
    for row in rows:
        if row.body is not None:
            taken.of(row.body)
        for shape in (reply.shape for reply in row.replies.values()):
            if shape is not None:
                said.of(shape)
        for cls in FRAMES.values() if is_stream(row) else ():
            said.of(cls)
        for parameter in row.parameters:
            taken.of(parameter.kind)
    # a shape that is both taken and said: what is taken fits what is said, not the other way round
    return said.defined | taken.defined


@frozen
class _Parts:
    """Makes the parts of one document."""

    schemas: dict[str, Schema]

    def operation(self, row: Operation) -> Schema:
        own: Schema = {
            "operationId": row.id,
            "tags": [row.tag],
            "summary": row.summary,
            "description": row.words,
        }
        if row.open:
            own["security"] = WITH_OR_WITHOUT
        parameters = [
            *(_parameter("path", name, *IDS[name]) for name in re.findall(r"{(\w+)}", row.path)),
            *map(_asked, (*row.parameters, CORRELATION)),
        ]
        own["parameters"] = parameters
        told = examples.of(row.id)
        if row.body is not None:
            own["requestBody"] = {
                "required": True,
                "content": {
                    JSON: {
                        "schema": _ref(row.body),
                        "examples": {e.name: {"summary": e.summary, "value": e.body} for e in told},
                    }
                },
            }
        answers: dict[int, Schema] = {
            status: _reply(row, status, reply) for status, reply in row.replies.items()
        }
        for status, kinds in _by_status(kinds_of(row)).items():
            answers[status] = self._also(answers.get(status), status, kinds)
        own["responses"] = {str(status): answers[status] for status in sorted(answers)}
        own["x-examples"] = {e.name: e.exchange(row.method, row.path) for e in told}
        return own

    def _also(self, reply: Schema | None, status: int, kinds: tuple[Kind, ...]) -> Schema:
        """Return the answer of a status of errors, alone or beside an answer that is none."""
        if kinds == _by_status(EVERYWHERE).get(status) and reply is None:
            return {"$ref": f"#/components/responses/{_shared(status)}"}
        error = _error(status, kinds)
        if reply is None:
            return error
        content, other = error["content"][JSON], reply["content"][JSON]
        both = {
            "schema": {"anyOf": [other["schema"], content["schema"]]},
            "examples": other.get("examples", {}) | content["examples"],
        }
        return {
            **error,
            "description": f"{reply['description']}\n\nOr:\n\n{error['description']}",
            # only an envelope has a time to wait
            "headers": {name: _header(name) for name in error["headers"]} | reply["headers"],
            "content": {JSON: both},
        }


def _reply(row: Operation, status: int, reply: Reply) -> Schema:
    told = [e for e in examples.of(row.id) if e.status == status]
    shown = {e.name: {"summary": e.summary, "value": e.answer} for e in told}
    headers = {"X-Correlation-Id": _always("X-Correlation-Id")}
    headers |= {name: _always(name) for name in reply.headers}
    headers |= {name: _header(name) for name in reply.perhaps}
    whole: Schema = {"description": reply.words, "headers": headers}
    if reply.shape is not None:
        whole["content"] = {JSON: {"schema": _ref(reply.shape), "examples": shown}}
    elif reply.media:
        schema = _event() if EVENTS in reply.media else {"type": "string"}
        whole["content"] = {name: {"schema": schema, "examples": shown} for name in reply.media}
    if EVENTS in reply.media:
        whole["x-frame-errors"] = [_row(kind) for kind in IN_FRAMES]
    if reply.links:
        whole["links"] = {
            name: {
                "operationId": link["to"],
                "parameters": {
                    key: f"$response.body#/{value}" for key, value in link.items() if key != "to"
                },
            }
            for name, link in reply.links.items()
        }
    return whole


def _event() -> Schema:
    """Return the schema of one event of a stream (OpenAPI 3.2 will call it itemSchema)."""
    return {
        "description": "Of one event; the body is any number of them, and comments between them.",
        "anyOf": [
            {
                "title": name,
                "type": "object",
                "properties": {
                    "id": {"type": "string", "pattern": "^[1-9][0-9]*$"},
                    "event": {"const": name},
                    "data": {
                        "type": "string",
                        "contentMediaType": JSON,
                        "contentSchema": _ref(cls),
                    },
                },
                "required": ["id", "event", "data"],
            }
            for name, cls in FRAMES.items()
        ],
    }


def _error(status: int, kinds: tuple[Kind, ...]) -> Schema:
    lines = [
        f"* {TABLE[kind].code} ({kind.value.replace('_', ' ')}): {TABLE[kind].advice}"
        for kind in kinds
    ]
    headers: Schema = {"X-Correlation-Id": _always("X-Correlation-Id")}
    for name, always in ERROR_HEADERS.get(status, ()):
        headers[name] = _always(name) if always else _header(name)
    if Kind.DEADLINE_UNMET in kinds:  # beside others of its status that know no time
        headers |= {name: _header(name) for name in ("Retry-After", "X-Backoff-Ms")}
    return {
        "description": "\n".join(lines),
        "headers": headers,
        "content": {
            JSON: {
                "schema": _ref(Envelope),
                "examples": {
                    kind.name: {"$ref": f"#/components/examples/{kind.name}"} for kind in kinds
                },
            }
        },
        "x-errors": [_row(kind) for kind in kinds],
    }


def _row(kind: Kind) -> Schema:
    row = TABLE[kind]
    return {"kind": kind.value, "code": row.code, "retriable": row.retriable}


def _by_status(kinds: Iterable[Kind]) -> dict[int, tuple[Kind, ...]]:
    found: dict[int, tuple[Kind, ...]] = {}
    for kind in kinds:
        status = TABLE[kind].status
        found[status] = (*found.get(status, ()), kind)
    return {status: tuple(sorted(found[status], key=list(Kind).index)) for status in sorted(found)}


def _shared(status: int) -> str:
    return f"Error{status}"


def _ref(cls: type) -> Schema:
    return {"$ref": f"#/components/schemas/{cls.__name__}"}


def _asked(parameter: Parameter) -> Schema:
    told = _parameter(parameter.place, parameter.name, parameter.kind, parameter.words)
    return {**told, "required": True} if parameter.required else told


def _parameter(place: str, name: str, kind: Any, words: str) -> Schema:
    schema = Schemas(_LEAVES, where="#/components/schemas/", enums=True).of(kind)
    whole: Schema = {"name": name, "in": place, "description": words}
    if place == "path":
        whole["required"] = True
    return {**whole, "schema": schema}


def _header(name: str) -> Schema:
    kind, words = HEADERS[name]
    schema = {"type": "integer", "minimum": 0} if kind is int else {"type": "string"}
    return {"description": words, "schema": schema}


def _always(name: str) -> Schema:
    return {"$ref": f"#/components/headers/{name}"}


class _Dumper(yaml.SafeDumper):
    """Long texts as blocks, nothing as an alias."""

    def ignore_aliases(self, _data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def _yaml(value: Schema) -> str:
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
