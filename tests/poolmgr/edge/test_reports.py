"""Reports of self-tests: kept over a restart, sent when orchd answers, never more than a few."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trio
from attrs import evolve

from orchd.kit import http, log
from orchd.kit.client import Client, Target
from orchd.kit.fds import bind_unix
from orchd.kit.http import Request, Response
from orchd.wire import codec
from poolmgr.edge.reports import PENDING_KEPT, SENT_KEPT, Kept, Reports
from tests.poolmgr.core.test_selftest import REPORT


class Shelf:
    """orchd's end: answers with `statuses` in turn, the last one for ever; ids count up."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.asked: list[str] = []
        self.took: list[dict[str, object]] = []

    async def handle(self, request: Request) -> Response:
        self.asked.append(f"{request.method} {request.path}")
        assert request.headers["authorization"] == "Bearer s3cret"
        if request.method == "DELETE":
            return Response(204)
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        if status != 201:
            return Response(status, b'{"code":"REPLICA_EXHAUSTED"}')
        body = json.loads(request.body)
        self.took.append(body)
        stored = {
            "id": f"{len(self.took):032x}", "kind": body["kind"], "digest": f"sha256:{'0' * 64}",
            "created_ms": 1, "tags": sorted(body["tags"]),
        }  # fmt: skip
        return Response(201, json.dumps(stored).encode())


async def sending(folder: Path, shelf: Shelf, count: int) -> None:
    """Take so many reports, and send until none waits and the file says so."""
    socket = folder / "o.sock"
    client = Client(Target.unix(socket), token="s3cret")
    reports = Reports(folder / "demo:0.selftests", client)
    for number in range(count):
        reports.take(evolve(REPORT, at=str(number)))
    listener = bind_unix(socket)
    async with trio.open_nursery() as nursery:
        await nursery.start(http.serve, [listener], shelf.handle)
        nursery.start_soon(reports.keep_sending)
        with trio.fail_after(20):
            while reports.pending or not reports.saved:
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    client.close()
    listener.close()


def kept(folder: Path) -> Kept:
    return codec.loads(Kept, (folder / "demo:0.selftests").read_bytes())


@pytest.mark.req("ORCH-3049")
async def test_a_report_becomes_an_artifact_when_orchd_takes_it(tmp_path: Path) -> None:
    shelf = Shelf(503, 500, 201)
    await sending(tmp_path, shelf, 1)
    assert shelf.asked == ["POST /v1/artifacts"] * 3
    (body,) = shelf.took
    assert body["kind"] == "trace"
    assert "self-test" in str(body["tags"])
    content = json.loads(str(body["content"]))
    assert (content["passed"], content["steps"][0]["name"]) == (False, "identity")
    assert kept(tmp_path) == Kept(sent=(f"{1:032x}",))


@pytest.mark.req("ORCH-3049")
async def test_what_was_not_sent_is_sent_by_the_next_life_and_old_ones_go(tmp_path: Path) -> None:
    client = Client(Target.unix(tmp_path / "none.sock"))
    first = Reports(tmp_path / "demo:0.selftests", client)
    for number in range(PENDING_KEPT + 3):
        first.take(evolve(REPORT, at=str(number)))
        await first.save()
    assert [one.at for one in kept(tmp_path).pending] == [
        str(number) for number in range(3, PENDING_KEPT + 3)
    ]
    shelf = Shelf(201)
    await sending(tmp_path, shelf, 2)  # the two oldest of the file go for them
    assert len(shelf.took) == PENDING_KEPT
    assert kept(tmp_path).pending == ()
    await sending(tmp_path, shelf, 2)
    assert shelf.asked[-1] == f"DELETE /v1/artifacts/{2:032x}"
    assert len(kept(tmp_path).sent) == SENT_KEPT


@pytest.mark.req("ORCH-3049")
async def test_what_orchd_will_never_take_is_said_once_and_dropped(tmp_path: Path) -> None:
    with log.capture() as events:
        await sending(tmp_path, Shelf(507), 1)
    told = [one for one in events if one["event"] == "self_test_not_sent"]
    assert len(told) == 1
    assert "status 507" in str(told[0]["human"])
    assert kept(tmp_path).pending == ()


async def test_a_file_that_cannot_be_read_or_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "demo:0.selftests").mkdir()
    shelf = Shelf(201)
    with log.capture() as events:
        await sending(tmp_path, shelf, 1)
    said = [one["event"] for one in events if str(one["event"]).startswith("self_test")]
    assert said[0] == "self_tests_forgotten"
    assert "self_test_not_kept" in said
    assert len(shelf.took) == 1  # and it is sent all the same
