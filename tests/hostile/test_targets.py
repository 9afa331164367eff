"""Paths, queries, methods and headers that no route expects, at every route there is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import cycle
from uuid import uuid4

import orjson
import pytest

from tests.hostile.ledger import VICTIM, nothing_left
from tests.hostile.values import base
from tests.hostile.voices import JSON, WAYS, Voice, fair
from tests.sockets.suite import Suite
from tools.openapi.document import OPERATIONS
from tools.openapi.table import Operation

pytestmark = pytest.mark.slow

SEGMENTS = {
    "empty": "",
    "NUL": "%00",
    "a line end": "x%0d%0aSet-Cookie:%20a=b",
    "a lone percent": "%",
    "half an escape": "%2",
    "no hex": "%zz",
    "no UTF-8": "%ff%fe",
    "a surrogate": "%ED%A0%80",
    "an overlong slash": "%c0%af",
    "a slash in it": "a%2fb",
    "upwards": "..",
    "upwards, escaped": "%2e%2e%2f%2e%2e",
    "a pile of poo": "%F0%9F%92%A9",
    "full-width digits": "%EF%BC%91",
    "a template": "{task_id}",
    "a format": "%25s%25n",
    "SQL": "'%20OR%201=1--",
    "a fragment": "x#y",
    "a semicolon": ";a=b",
    "null": "null",
    "a number": "-1",
    "a UUID that nobody has": "AAAAAAAA-BBBB-4CCC-8DDD-EEEEEEEEEEEE",
    "a UUID in braces": "%7Baaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee%7D",
    "a digest": "sha256:" + "0" * 64,
    "long": "x" * 5_000,
    "very long": "x" * 40_000,
    "many slashes": "/" * 5_000,
    "many escapes": "%41" * 5_000,
}
TEXTS = {
    **{what: text for what, text in SEGMENTS.items() if what not in {"a fragment", "very long"}},
    "zero": "0",
    "nineteen digits": "9" * 19,
    "thousands of digits": "9" * 5_000,
    "a float": "1e9",
    "NaN": "NaN",
    "a word": "running",
    "a plus": "+1",
}
QUERIES = (
    *("", "&&&&", "=", "=&=", "%", "a=%zz", "state", "cursor[]=1", "a=1&a=2", "?", "a=b=c"),
    "&".join(f"k{n}={n}" for n in range(3_000)),
)
HEADERS = {
    **dict.fromkeys(("host", "range", "cookie", "origin", "expect"), "x"),
    "x-correlation-id": "x" * 4_000,
    "authorization": "Bearer " + "x" * 4_000,
    "accept": "application/openmetrics-text;version=;q=NaN,,;=,*/*;q=" + "9" * 400,
    "accept-encoding": "gzip;q=-1, br;q=x, *",
    "if-none-match": 'W/"' + '",' * 500,
    "last-event-id": "-1",
    "x-trust-policy": "strict, strict",
    "x-forwarded-for": "127.0.0.1, " * 200,
}
METHODS = (
    "PUT",
    "PATCH",
    "DELETE",
    "TRACE",
    "OPTIONS",
    "HEAD",
    "GETT",
    "get",
    "G" * 200,
    "M-SEARCH",
)


def request(row: Operation) -> tuple[str, bytes]:
    """Return a good target and body of a route, with ids of which only the pool's is known."""
    path = row.path.replace("{pool_id}", VICTIM)
    body = b"" if row.body is None else orjson.dumps(base(row))
    return re.sub(r"\{\w+\}", str(uuid4()), path), body


def targets(row: Operation) -> Iterator[tuple[str, str]]:
    """Yield what is wrong, and the target, of everything that can be put into this route."""
    good, _ = request(row)
    for what, text in SEGMENTS.items():
        if "{" in row.path:
            yield what, re.sub(r"\{\w+\}", text.replace("\\", r"\\"), row.path)
        yield f"behind: {what}", f"{good}/{text}"
        yield f"before: {what}", f"/{text}{good}"
    for query in QUERIES:
        yield f"?{query[:40]}", f"{good}?{query}"
    for parameter in row.parameters:
        if parameter.place == "query":
            for what, text in TEXTS.items():
                yield f"?{parameter.name}: {what}", f"{good}?{parameter.name}={text}"


@pytest.mark.req("ORCH-3101", "OC-CTRL-2030")
@pytest.mark.parametrize("row", OPERATIONS, ids=lambda row: row.id)
async def test_no_target_breaks_the_daemon(suite: Suite, row: Operation) -> None:
    _, body = request(row)
    async with nothing_left(suite):
        with (
            Voice(suite, WAYS[0]) as tcp,
            Voice(suite, WAYS[1]) as unix,
            Voice(suite, WAYS[2]) as h2,
        ):
            for (what, target), voice in zip(targets(row), cycle((tcp, unix, h2)), strict=False):
                got = await voice.ask(row.method, target, body)
                fair(got, (row.id, what, target[:200]))


@pytest.mark.req("OC-CTRL-2030")
@pytest.mark.parametrize("way", WAYS)
async def test_no_method_breaks_the_daemon(suite: Suite, way: str) -> None:
    async with nothing_left(suite):
        with Voice(suite, way) as voice:
            for row in OPERATIONS:
                served = {r.method for r in OPERATIONS if r.path == row.path}
                for method in METHODS:
                    got = await voice.ask(method, request(row)[0])
                    if method == "HEAD":  # an answer without a body: the status has to do
                        assert got.status < 500, (row.id, got)
                    elif method not in served:
                        fair(got, (row.id, method))
                        assert 400 <= got.status < 500, (row.id, method, got)


@pytest.mark.parametrize("way", WAYS)
async def test_no_header_breaks_the_daemon(suite: Suite, way: str) -> None:
    async with nothing_left(suite):
        with Voice(suite, way) as voice:
            for row in OPERATIONS:
                target, body = request(row)
                for name, value in HEADERS.items():
                    got = await voice.ask(row.method, target, body, JSON | {name: value})
                    fair(got, (row.id, name))


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
async def test_no_last_event_id_breaks_a_stream(suite: Suite, text: str) -> None:
    row = next(row for row in OPERATIONS if row.id == "submitTask")
    async with nothing_left(suite):
        for way in WAYS:
            with Voice(suite, way) as voice:
                _, body = request(row)
                accepted = await voice.ask("POST", "/v1/tasks", body)
                assert accepted.status == 202
                path = orjson.loads(accepted.body)["stream_url"]
                got = await voice.ask("GET", path, headers={"last-event-id": text})
                fair(got, (way, text))
                assert got.status in {200, 400}
                if got.status == 200:
                    assert b"event: end" in got.body or not got.body, got
