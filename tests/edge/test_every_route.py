"""What holds for every row of the table of routes: who may ask, and the correlation id.

Real sockets, TCP and unix. Who comes from afar is a request in hand: a test has no other machine.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Final
from uuid import UUID

import orjson
import pytest
import trio

from orchd.edge.auth import OPEN_PATHS, Guard, fingerprint
from orchd.edge.routes import ROUTES, Routes
from orchd.kit import fds, http, log
from orchd.kit.client import Answer, Client, Target
from orchd.kit.http import Peer, Request
from orchd.wire.errors import Kind, OrchError
from tests.edge.conftest import Front, Opener, read_json
from tests.fakes.tasks import task_body

TOKEN: Final = "the-token-of-every-route"
WORKERS: Final = "/v1/workers/register"
# ids that nothing has: whoever may ask is told so, or that the body is missing
NAMED: Final = re.compile(r"{\w+}")
TABLE: Final = [
    (method, NAMED.sub("6e7a1d0c-0000-4000-8000-000000000001", path)) for method, path, _ in ROUTES
]
BAD: Final = {
    "none": ({}, 401, "MISSING_TOKEN", 40101),
    "empty": ({"authorization": "Bearer "}, 401, "MISSING_TOKEN", 40101),
    "another scheme": ({"authorization": f"Basic {TOKEN}"}, 401, "MISSING_TOKEN", 40101),
    "another": ({"authorization": "Bearer another"}, 401, "BAD_TOKEN", 40102),
    "a part": ({"authorization": f"Bearer {TOKEN[:-1]}"}, 401, "BAD_TOKEN", 40102),
    "one too long": ({"authorization": f"Bearer {TOKEN}x"}, 401, "BAD_TOKEN", 40102),
}


@asynccontextmanager
async def both(it: Front, *, optional: bool = False) -> AsyncIterator[dict[str, Client]]:
    """Clients without a token of the same daemon: over its unix socket, and over loopback."""
    listener = fds.bind_tcp("127.0.0.1", 0)
    port = listener.getsockname()[1]
    clients = {
        "unix": Client(Target.unix(it.app.settings.front_socket)),
        "tcp": Client(Target.parse(f"http://127.0.0.1:{port}")),
    }
    try:
        async with trio.open_nursery() as nursery:
            routes = Routes(it.app, Guard(TOKEN, optional))
            await nursery.start(partial(http.serve, [listener], routes))
            yield clients
            nursery.cancel_scope.cancel()
    finally:
        for client in clients.values():
            client.close()
        listener.close()


async def ask(client: Client, method: str, path: str, headers: dict[str, str]) -> Answer:
    body = b"{}" if method == "POST" else b""
    sent = {"content-type": "application/json"} | headers
    return await client.request(method, path, body, headers=sent, deadline_s=5)


def test_the_table_is_whole() -> None:
    assert len(TABLE) > 25
    assert {path for _, path in TABLE} > OPEN_PATHS
    assert sorted(OPEN_PATHS) == ["/health", "/healthz", "/readyz"]


@pytest.mark.req("AUTH-1001", "AUTH-1004", "OC-CTRL-2030")
async def test_no_route_but_health_answers_without_the_token(front: Opener) -> None:
    async with front(token=TOKEN) as it, both(it) as clients:
        for where, client in clients.items():
            for method, path in TABLE:
                for name, (headers, status, code, number) in BAD.items():
                    told = (where, method, path, name)
                    answer = await ask(client, method, path, headers)
                    if path in OPEN_PATHS and code == "MISSING_TOKEN":
                        assert answer.status == 200, told
                        continue
                    said = read_json(answer)
                    assert (answer.status, said["code"], said["auth_code"]) == (
                        *(status, code, number),
                    ), told
                    assert answer.headers["www-authenticate"] == "Bearer", told
                    assert TOKEN not in answer.body.decode(), told
                answer = await ask(client, method, path, {"authorization": f"Bearer {TOKEN}"})
                assert answer.status not in {401, 403, 500}, (where, method, path)


@pytest.mark.req("AUTH-1003", "AUTH-1004", "OC-CONFIG-6033")
async def test_where_auth_is_optional_only_a_worker_needs_the_token(front: Opener) -> None:
    async with (
        front(token=TOKEN, auth_optional=True) as it,
        both(it, optional=True) as clients,
    ):
        for where, client in clients.items():
            for method, path in TABLE:
                answer = await ask(client, method, path, {})
                assert (answer.status == 401) == (path == WORKERS), (where, method, path)
                wrong = await ask(client, method, path, {"authorization": "Bearer another"})
                assert wrong.status == 401, (where, method, path)  # nobody guesses for free


@pytest.mark.req("AUTH-1002", "AUTH-1004")
@pytest.mark.parametrize(
    ("guard", "kind"),
    [
        (Guard(None, False), Kind.NON_LOOPBACK_WITHOUT_TOKEN),
        (Guard(TOKEN, False), Kind.MISSING_TOKEN),
        (Guard(TOKEN, True), Kind.MISSING_TOKEN),
    ],
)
async def test_from_afar_no_route_answers_without_the_token(
    front: Opener, guard: Guard, kind: Kind
) -> None:
    async with front() as it:
        for method, path in TABLE:
            if path in OPEN_PATHS and guard.token is not None:
                continue
            request = Request(method, path, {}, {}, b"{}", Peer("tcp", "192.0.2.1:9"), "c")
            with pytest.raises(OrchError) as refused:
                await Routes(it.app, guard)(request)
            assert refused.value.kind is kind, (method, path)


@pytest.mark.req("OC-CTRL-2052")
async def test_every_answer_has_a_correlation_id(front: Opener) -> None:
    async with front() as it:
        task = await it.submit()
        await it.peer.next_job()
        given = "audit-1.of_2:3"
        statuses = set()
        for method, path in (
            *TABLE,
            ("POST", f"/v1/tasks/{task}/cancel"),
            ("GET", "/nowhere"),
            ("PUT", "/v1/tasks"),
        ):
            echoed = await ask(it.client, method, path, {"x-correlation-id": given})
            assert echoed.headers["x-correlation-id"] == given, (method, path)
            made = await ask(it.client, method, path, {})
            assert UUID(made.headers["x-correlation-id"]).version == 4, (method, path)
            statuses |= {echoed.status, made.status}
        tag = (await it.get("/v1/capabilities")).headers["etag"]
        unchanged = await it.get(
            "/v1/capabilities", **{"if-none-match": tag, "x-correlation-id": given}
        )
        assert (unchanged.status, unchanged.headers["x-correlation-id"]) == (304, given)
        assert statuses >= {200, 204, 400, 404, 405}


@pytest.mark.req("AUTH-1008", "ORCH-3810", "ORCH-3811")
async def test_the_log_names_who_asked_for_each_change(front: Opener) -> None:
    """Every route that changes something, and none that reads; the token itself never."""
    reads = {"/v1/placement/explain", "/v1/tokenize"}
    async with front(token=TOKEN) as it:
        for method, path in TABLE:
            with log.capture() as events:
                body = task_body() if path == "/v1/tasks" else {}
                headers = {"content-type": "application/json"}
                data = orjson.dumps(body) if method == "POST" else b""
                await it.client.request(method, path, data, headers=headers, deadline_s=5)
            named = {event["identity"] for event in events if "identity" in event}
            changes = method != "GET" and path not in reads | {WORKERS}
            assert named == ({f"token:{fingerprint(TOKEN)}"} if changes else set()), (method, path)
            assert TOKEN not in repr(events)
        with log.capture() as events:
            refused = task_body(deadline_ms=60_000, model_ref="mock:none")
            assert (await it.post("/v1/tasks", refused)).status == 503
        (said,) = [event for event in events if event["event"] == "task_rejected"]
        assert said["identity"] == f"token:{fingerprint(TOKEN)}"
