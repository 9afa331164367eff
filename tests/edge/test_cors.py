"""Browsers: which pages may ask, over both protocols, and what they may read."""

from __future__ import annotations

import pytest

from orchd.wire.ids import Text
from tests.edge.conftest import Front, Opener
from tests.edge.test_h2 import h2_peer

pytestmark = pytest.mark.req("ORCH-3380", "ORCH-3381")
PAGE = "http://localhost:5173"
CONFIGURED = {"cors_origins": (Text(PAGE),)}
PREFLIGHT = {"access-control-request-method": "POST"}
OTHERS = ("http://localhost:51730", "https://localhost:5173", "http://evil.example", "null", "*")


async def preflight(it: Front, origin: str) -> tuple[int, dict[str, str]]:
    asked = {"origin": origin, **PREFLIGHT, "access-control-request-headers": "authorization"}
    answer = await it.client.request("OPTIONS", "/v1/tasks", headers=asked, deadline_s=5)
    return answer.status, answer.headers


async def test_a_configured_page_may_ask_with_the_token(front: Opener) -> None:
    async with front(token="a-token-of-tests", **CONFIGURED) as it:
        status, headers = await preflight(it, PAGE)
        assert status == 204
        assert headers["access-control-allow-origin"] == PAGE
        assert "Authorization" in headers["access-control-allow-headers"]
        assert "POST" in headers["access-control-allow-methods"]
        answer = await it.get("/v1/pools", origin=PAGE)
        assert (answer.status, answer.headers["access-control-allow-origin"]) == (200, PAGE)
        assert answer.headers["vary"] == "Origin"
        assert "X-Correlation-Id" in answer.headers["access-control-expose-headers"]


async def test_an_error_and_a_stream_can_be_read_too(front: Opener) -> None:
    async with front(**CONFIGURED) as it:
        refused = await it.get("/v1/pools/none/health", origin=PAGE)
        assert (refused.status, refused.headers["access-control-allow-origin"]) == (404, PAGE)
        assert b"UNKNOWN" in refused.body or b"INVALID" in refused.body
        task = await it.submit()
        job = await it.peer.next_job()
        job.end()
        answer = await it.get(f"/v1/tasks/{task}/stream", origin=PAGE)
        assert answer.headers["access-control-allow-origin"] == PAGE
        assert b"event: end" in answer.body


@pytest.mark.parametrize("origin", OTHERS)
async def test_another_page_is_told_nothing(front: Opener, origin: str) -> None:
    async with front(**CONFIGURED) as it:
        status, headers = await preflight(it, origin)
        assert status == 405
        answer = await it.get("/v1/pools", origin=origin)
        for told in (headers, answer.headers):
            assert not [name for name in told if name.startswith("access-control")]
            assert told["vary"] == "Origin"  # of errors too
        assert (await it.get("/v1/pools")).headers["vary"] == "Origin"


async def test_no_page_may_ask_unless_configured(front: Opener) -> None:
    async with front() as it:
        status, headers = await preflight(it, PAGE)
        assert status == 405
        answer = await it.get("/v1/pools", origin=PAGE)
        for told in (headers, answer.headers):
            assert not [name for name in told if name.startswith(("access-control", "vary"))]


async def test_a_page_needs_the_token_as_everybody(front: Opener) -> None:
    async with front(token="a-token-of-tests", **CONFIGURED) as it:
        answer = await it.get("/v1/pools", origin=PAGE, authorization="Bearer wrong")
        assert answer.status == 401
        assert answer.headers["access-control-allow-origin"] == PAGE


async def test_http2_answers_alike(front: Opener) -> None:
    async with front(**CONFIGURED) as it, h2_peer(it) as peer:
        got = await peer.ask(
            "/v1/tasks", "OPTIONS", origin=PAGE, access_control_request_method="POST"
        )
        assert (got.status, got.headers["access-control-allow-origin"]) == (204, PAGE)
        got = await peer.ask("/v1/pools", origin=PAGE)
        assert (got.status, got.headers["access-control-allow-origin"]) == (200, PAGE)
        got = await peer.ask("/v1/pools", origin="http://evil.example")
        assert "access-control-allow-origin" not in got.headers
