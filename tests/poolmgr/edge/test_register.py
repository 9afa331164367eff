"""Registration with orchd: the token, the retries, and again when no link stands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import trio

from orchd.kit import http, log
from orchd.kit.client import Client, Target
from orchd.kit.fds import bind_unix
from orchd.kit.http import Request, Response
from orchd.wire import codec
from orchd.wire.control import WorkerRegistration
from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import EngineId, PoolId, Positive, ReplicaId, Text
from poolmgr.edge.register import LINKLESS_S, RETRY_MAX_S, keep_registered

BODY = WorkerRegistration(
    pool_id=PoolId("demo"),
    replica_id=ReplicaId("demo:0"),
    engine=EngineId("mock"),
    engine_version=Text("1"),
    sampler_profile_version=Text("v1"),
    slots_total=Positive(2),
)


class Front:
    """orchd's end: answers with `statuses` in turn, the last one for ever."""

    def __init__(self, *statuses: int, kind: Kind = Kind.BAD_TOKEN, body: bytes = b"") -> None:
        self.statuses = list(statuses)
        self.refusal = body or codec.dumps(OrchError(kind, "it is so").envelope())
        self.requests: list[Request] = []
        self.at: list[float] = []

    async def handle(self, request: Request) -> Response:
        self.requests.append(request)
        self.at.append(trio.current_time())
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        return Response(status, self.refusal if status != 200 else b"{}")


async def run_for(seconds: float, path: Path, front: Front, **replica: Any) -> None:
    listener = bind_unix(path)
    client = Client(Target.unix(path), token="s3cret")
    state = {"ready": lambda: True, "linked": lambda: False, **replica}

    async def wait_ready() -> None:
        while not state["ready"]():
            await trio.sleep(0.1)

    async with trio.open_nursery() as nursery:
        await nursery.start(http.serve, [listener], front.handle)
        nursery.start_soon(
            keep_registered,
            client,
            lambda: BODY if state["ready"]() else None,
            wait_ready,
            state["linked"],
        )
        await trio.sleep(seconds)
        nursery.cancel_scope.cancel()
    client.close()
    listener.close()


@pytest.mark.req("AUTH-1003")
async def test_it_says_who_it_is_and_sends_the_token(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    front = Front(200)
    await run_for(1, tmp_path / "o.sock", front)
    (request,) = front.requests
    assert (request.method, request.path) == ("POST", "/v1/workers/register")
    assert request.headers["authorization"] == "Bearer s3cret"
    assert json.loads(request.body)["replica_id"] == "demo:0"


async def test_it_is_repeated_only_while_no_link_stands(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    front = Front(200)
    started = trio.current_time()
    await run_for(60, tmp_path / "o.sock", front, linked=lambda: trio.current_time() - started > 12)
    assert len(front.requests) == 3
    assert front.at[1] - front.at[0] == pytest.approx(LINKLESS_S, abs=0.1)


@pytest.mark.req("AUTH-1003")
async def test_a_refusal_is_logged_once_and_retried_with_growing_pauses(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    front = Front(401)
    with log.capture() as events:
        await run_for(300, tmp_path / "o.sock", front)
    told = [event for event in events if event["event"] == "registration_failed"]
    assert len(told) == 1
    assert told[0]["level"] == "warning"
    assert "does not take the registration: it is so. Send the token that" in told[0]["human"]
    assert "s3cret" not in str(events)
    gaps = [after - before for before, after in zip(front.at, front.at[1:], strict=False)]
    assert gaps == sorted(gaps)
    assert gaps[0] == pytest.approx(0.2, abs=0.05)
    assert gaps[-1] == pytest.approx(RETRY_MAX_S, abs=0.1)


async def test_an_orchd_that_was_not_told_yet_is_no_reason_to_worry(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    front = Front(404, 404, 200, kind=Kind.UNKNOWN_REPLICA)
    with log.capture() as events:
        await run_for(10, tmp_path / "o.sock", front)
    (told,) = [event for event in events if event["event"] == "registration_failed"]
    assert told["level"] == "info"
    assert told["human"].startswith(
        "orchd has not been told of demo:0 yet: systemctl reload orchd lets it read its "
        "configuration again. "
    )
    assert "{" not in told["human"]
    assert any(event["event"] == "registered" for event in events)


@pytest.mark.parametrize("body", [b"<html>", b"{}", b"\xff"])
async def test_an_answer_that_is_not_orchds_is_told_in_words(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, body: bytes
) -> None:
    with log.capture() as events:
        await run_for(10, tmp_path / "o.sock", Front(502, body=body))
    (told,) = [event for event in events if event["event"] == "registration_failed"]
    assert "it answered 502 without saying why" in told["human"]


async def test_nothing_is_said_before_ready_and_again_after_a_lost_health(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    front = Front(503, 200)
    started = trio.current_time()

    def ready() -> bool:
        now = trio.current_time() - started
        return 10 < now < 20 or now > 30

    await run_for(40, tmp_path / "o.sock", front, ready=ready, linked=lambda: True)
    assert front.at[0] - started == pytest.approx(10, abs=0.3)
    assert [round(at - started) for at in front.at] == [10, 10, 30]
