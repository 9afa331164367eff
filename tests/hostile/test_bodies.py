"""Every field of every body, with every wrong value, over every way to speak."""

from __future__ import annotations

from itertools import cycle

import orjson
import pytest

from orchd.wire import codec
from orchd.wire.shapes import TaskRequest
from tests.hostile.ledger import VICTIM, envelope_of, nothing_left
from tests.hostile.values import bad_bodies, bad_texts, base, places, with_bodies
from tests.hostile.voices import WAYS, Voice, fair
from tests.sockets.suite import Suite
from tools.openapi.table import Operation

pytestmark = pytest.mark.slow
ROWS = with_bodies()


def path_of(row: Operation) -> str:
    """Return the route's path with ids of what there is."""
    return row.path.replace("{pool_id}", VICTIM)


def faults(row: Operation, body: bytes) -> list[str]:
    """Return the paths that the codec finds wrong."""
    assert row.body is not None
    try:
        codec.loads(row.body, body)
    except codec.ShapeError as exc:
        return [fault.path for fault in exc.faults]
    return []


@pytest.mark.req("ORCH-3101")
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
async def test_no_value_of_any_field_breaks_the_daemon(suite: Suite, row: Operation) -> None:
    asked = 0
    async with nothing_left(suite):
        with (
            Voice(suite, WAYS[0]) as tcp,
            Voice(suite, WAYS[1]) as unix,
            Voice(suite, WAYS[2]) as h2,
        ):
            for bad, voice in zip(bad_bodies(row), cycle((tcp, unix, h2)), strict=False):
                got = await voice.ask(row.method, path_of(row), bad.body)
                asked += 1
                fair(got, (row.id, bad.where, bad.what))
                wrong = faults(row, bad.body)
                if wrong:
                    assert 400 <= got.status < 500, (bad.where, bad.what, got)
                if wrong and got.status == 400:
                    assert envelope_of(got.body)["code"] == "INVALID_PARAMS"
                    assert wrong[0] in envelope_of(got.body)["message"], (bad.where, bad.what, got)
    assert asked > 100


@pytest.mark.req("ORCH-3101")
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
async def test_what_is_no_json_is_refused(suite: Suite, row: Operation) -> None:
    async with nothing_left(suite):
        for way in WAYS:
            with Voice(suite, way) as voice:
                for what, body in bad_texts(orjson.dumps(base(row))).items():
                    got = await voice.ask(row.method, path_of(row), body)
                    fair(got, (row.id, way, what))
                    if faults(row, body):
                        assert 400 <= got.status < 500, (way, what, got)


@pytest.mark.parametrize(
    "declared",
    ["text/plain", "application/json+x", "", "x" * 5000, "application/json; charset=utf-16", "/"],
)
async def test_a_body_that_is_not_declared_as_json(suite: Suite, declared: str) -> None:
    body = orjson.dumps(base(ROWS[0]))
    async with nothing_left(suite):
        for way in WAYS:
            with Voice(suite, way) as voice:
                for packed in ("identity", "gzip"):
                    headers = {"content-type": declared, "content-encoding": packed}
                    got = await voice.ask("POST", "/v1/tasks", body, headers)
                    fair(got, (way, declared))
                    good = declared.startswith("application/json;") and packed == "identity"
                    assert (got.status == 202) if good else (got.status == 415), (way, got)


def test_places_are_all_fields_also_of_what_is_inside() -> None:
    found = {".".join(place) for place in places(TaskRequest)}
    assert found >= {"task_id", "prompt", "inputs", "placement", "placement.prefer_pools"}
