"""The OpenAPI documents fit the routes, the shapes, the table of errors and their own examples."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import jsonschema
import orjson
import pytest
import yaml
from openapi_spec_validator import OpenAPIV31SpecValidator, validate

from orchd.catalog import artifacts
from orchd.edge.auth import OPEN_PATHS
from orchd.edge.routes import QUERIES, ROUTES
from orchd.wire import codec, sse
from orchd.wire.artifacts import ArtifactUpload
from orchd.wire.control import API_VERSION
from orchd.wire.errors import TABLE, Envelope, Kind
from orchd.wire.shapes import Token
from tools.openapi import examples
from tools.openapi.document import OPERATIONS, document, is_stream, kinds_of
from tools.openapi.table import EVENTS, FRAMES, IN_FRAMES, JSON, NEVER_ANSWERED, Plane

ROOT = Path(__file__).parents[2]
PLANES: tuple[Plane, ...] = ("control", "data")
ROWS = {row.id: row for row in OPERATIONS}
EXAMPLES = [(row.id, example) for row in OPERATIONS for example in examples.of(row.id)]


@functools.cache
def stored(plane: Plane) -> Any:
    text = (ROOT / "contracts" / "openapi" / f"{plane}.yaml").read_text()
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def fits(plane: Plane, schema: Any, value: Any) -> None:
    """Assert that a value fits a schema of a stored document."""
    whole = {**schema, "components": stored(plane)["components"]}
    faults = jsonschema.Draft202012Validator(whole).iter_errors(value)
    assert [str(fault) for fault in faults] == []


@pytest.mark.req("OC-CTRL-2061", "OC-CTRL-2067", "OC-CTRL-2069")
@pytest.mark.parametrize("plane", PLANES)
def test_a_document_is_openapi_of_our_version(plane: Plane) -> None:
    whole = stored(plane)
    assert whole == document(plane)
    validate(whole, cls=OpenAPIV31SpecValidator)
    assert whole["info"]["version"] == API_VERSION
    assert all(
        operation["x-examples"] for path in whole["paths"].values() for operation in path.values()
    )


@pytest.mark.req("OC-CTRL-2067", "OC-CTRL-2069")
def test_every_route_is_documented_and_nothing_else() -> None:
    served = {(method, path) for method, path, _ in ROUTES}
    assert served == {(row.method, row.path) for row in OPERATIONS}
    assert examples.operations() == set(ROWS)
    assert {row.path for row in OPERATIONS if row.open} == OPEN_PATHS


def test_every_parameter_of_a_query_is_documented_and_no_other_is_read() -> None:
    read = {(method, path): QUERIES.get(served, frozenset()) for method, path, served in ROUTES}
    told = {
        (row.method, row.path): {each.name for each in row.parameters if each.place == "query"}
        for row in OPERATIONS
    }
    assert read == told


@pytest.mark.req("OC-CTRL-2031")
def test_every_error_that_can_be_answered_is_listed() -> None:
    answered = {kind for row in OPERATIONS for kind in kinds_of(row)}
    assert answered | set(IN_FRAMES) | NEVER_ANSWERED == set(Kind)
    assert not (answered | set(IN_FRAMES)) & NEVER_ANSWERED
    assert examples.errors() == {kind.value for kind in answered | set(IN_FRAMES)}
    for row in OPERATIONS:
        responses = stored(row.plane)["paths"][row.path][row.method.lower()]["responses"]
        assert {TABLE[kind].status for kind in kinds_of(row)} <= {int(key) for key in responses}


@pytest.mark.req("OC-CTRL-2031")
def test_what_the_code_of_requests_names_is_listed() -> None:
    """Kinds named anywhere but where a job or a link that runs is told to have broken."""
    files = [
        file
        for room in ("kit", "edge", "core", "catalog")
        for file in (ROOT / "orchd" / room).rglob("*.py")
    ]
    files = [file for file in files if file.name not in ("links.py", "runs.py", "units.py")]
    assert len(files) > 30
    named = {
        Kind[name] for file in files for name in re.findall(r"\bKind\.([A-Z_]+)", file.read_text())
    }
    answered = {kind for row in OPERATIONS for kind in kinds_of(row)}
    # kit serves poolmgr and orchctl too: a socket in use, the signal that ended a program
    assert named - answered - set(IN_FRAMES) <= {Kind.CONFIG_INVALID, Kind.CANCELED}


@pytest.mark.req("OC-CTRL-2067", "OC-CTRL-2069")
@pytest.mark.parametrize(("row_id", "example"), EXAMPLES, ids=lambda value: str(
    getattr(value, "name", value)
))  # fmt: skip
def test_an_example_fits_its_schema_and_the_codec(row_id: str, example: examples.Example) -> None:
    row = ROWS[row_id]
    operation = stored(row.plane)["paths"][row.path][row.method.lower()]
    pattern = re.sub(r"{\w+}", "[^/]+", row.path)
    assert re.fullmatch(pattern + r"(\?.*)?", example.path or row.path)
    assert (example.body is not None) == (row.body is not None)
    if row.body is not None:
        fits(row.plane, operation["requestBody"]["content"][JSON]["schema"], example.body)
        codec.structure(row.body, example.body)
    reply = row.replies[example.status]
    content = operation["responses"][str(example.status)].get("content", {})
    assert (example.answer is not None) == bool(content)
    if reply.shape is not None:
        fits(row.plane, content[JSON]["schema"], example.answer)
        codec.structure(reply.shape, example.answer)
    elif EVENTS in reply.media:
        for event in sse.Decoder().feed(example.answer.encode()):
            told = {"id": event.id, "event": event.name, "data": event.data}
            fits(row.plane, content[EVENTS]["schema"], told)
            cls = FRAMES[event.name]
            fits(
                row.plane,
                {"$ref": f"#/components/schemas/{cls.__name__}"},
                orjson.loads(event.data),
            )
            codec.loads(cls, event.data.encode())


def test_the_artifact_of_the_examples_is_named_as_orchd_names_it() -> None:
    (sent,) = examples.of("storeArtifact")
    upload = codec.structure(ArtifactUpload, sent.body)
    record = codec.unstructure(artifacts.name(artifacts.plain(upload), sent.answer["created_ms"]))
    assert sent.answer.items() <= record.items()
    (read,) = examples.of("getArtifact")
    assert read.answer == record | {"content": upload.content}
    assert read.path.endswith(record["id"])


@pytest.mark.parametrize("plane", PLANES)
def test_an_example_of_an_error_is_an_envelope(plane: Plane) -> None:
    whole = stored(plane)
    for name, example in whole["components"]["examples"].items():
        fits(plane, {"$ref": "#/components/schemas/Envelope"}, example["value"])
        assert codec.structure(Envelope, example["value"]).code == TABLE[Kind[name]].code
    framed = set(IN_FRAMES) if any(is_stream(r) for r in OPERATIONS if r.plane == plane) else set()
    answered = {kind for row in OPERATIONS if row.plane == plane for kind in kinds_of(row)}
    assert {Kind[name] for name in whole["components"]["examples"]} == answered | framed


@pytest.mark.parametrize("plane", PLANES)
def test_what_is_taken_is_closed_and_what_is_said_may_grow(plane: Plane) -> None:
    taken = {row.body.__name__ for row in OPERATIONS if row.body and row.plane == plane}
    schemas = stored(plane)["components"]["schemas"]
    for name, schema in schemas.items():
        if schema["type"] == "object":
            closed = schema.get("additionalProperties") is False
            assert closed == (name in taken | {"Placement", "TrustPolicy"}), name
        assert schema["description"]


def test_the_frame_that_is_written_by_hand_fits_its_shape() -> None:
    (event,) = sse.Decoder().feed(sse.token_frames(2, 0, ["Hé\n"]))
    assert codec.loads(Token, event.data.encode()) == Token(t="Hé\n", i=0)  # type: ignore[arg-type]
