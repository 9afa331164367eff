"""What orchd answers beside streams: routes, errors with the envelope, health, auth, the scrape."""

from __future__ import annotations

import hmac

import pytest
import trio
from attrs import evolve

from orchd import __version__
from orchd.core.views import FEATURES, STRICT
from orchd.edge.auth import Guard, fingerprint
from orchd.edge.routes import Routes
from orchd.kit.http import Peer, Request
from orchd.wire.errors import Kind, OrchError
from tests.edge.conftest import Opener, read_json
from tests.fakes.tasks import task_body
from tools.metrics_lint import lint

REGISTRATION = {
    "pool_id": "demo",
    "replica_id": "demo:0",
    "engine": "mock",
    "engine_version": "mock-1",
    "sampler_profile_version": "v1",
    "slots_total": 1,
}


@pytest.mark.req("OC-CTRL-2004", "OC-CTRL-2062", "ORCH-3095")
async def test_replicasets_is_not_served_and_capabilities_is(front: Opener) -> None:
    async with front(slots=2) as it:
        assert (await it.get("/v1/replicasets")).status == 404
        answer = await it.get("/v1/capabilities")
        said = read_json(answer)
        assert said["api_version"] == "1.0.0"
        assert said["engines"][0]["engine"] == "mock"
        assert said["engines"][0]["engine_version"] == "mock-1"
        assert said["engines"][0]["slots_total"] == 2
        assert said["engines"][0]["pools"] == ["demo"]
        assert "tokenize" in said["engines"][0]["features"]
        tag = answer.headers["etag"]
        for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
            again = await it.get("/v1/capabilities", **{"if-none-match": known})
            assert (again.status, again.body) == (304, b"")
        other = await it.get("/v1/capabilities", **{"if-none-match": '"other"'})
        assert other.status == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("GET", "/", 404, None),
        ("GET", "/v1/pools//health", 404, None),
        ("GET", "/v1/tasks/", 404, None),
        ("GET", "/v1/tasks/{task_id}", 404, None),
        ("GET", "/v1/pools/{pool_id}/health", 404, None),
        ("GET", "/v1/pools/a/b/health", 404, None),
        ("GET", "/v1/tasks/not-a-uuid", 404, None),
        ("GET", "/v1/tasks/6e7a1d0c-0000-4000-8000-000000000001", 404, None),
        ("GET", "/v1/tasks/6e7a1d0c-0000-4000-8000-000000000001/stream", 404, None),
        ("POST", "/v1/tasks/6e7a1d0c-0000-4000-8000-000000000001/cancel", 404, None),
        ("GET", "/v1/pools/none/health", 404, None),
        ("DELETE", "/v1/tasks", 405, "GET, POST"),
        ("POST", "/metrics", 405, "GET"),
        ("GET", "/v1/tokenize", 405, "POST"),
        ("PUT", "/v1/tasks/6e7a1d0c-0000-4000-8000-000000000001/stream", 405, "GET"),
        ("GET", "/v1/tasks?state=unknown", 400, None),
        ("GET", "/v1/tasks?cursor=x", 400, None),
        ("GET", "/v1/tasks?limit=0", 400, None),
        ("GET", "/v1/artifacts?limit=101", 400, None),
    ],
)
async def test_what_is_not_there_is_said_in_the_envelope(
    front: Opener, method: str, path: str, status: int, allow: str | None
) -> None:
    async with front(ready=False) as it:
        answer = await it.client.request(method, path, deadline_s=5)
        assert answer.status == status
        assert answer.headers.get("allow") == allow
        said = read_json(answer)
        assert said["code"] == "INVALID_PARAMS"
        assert said["message"]
        assert said["hint"]
        assert answer.headers["x-correlation-id"]


@pytest.mark.req("OC-CTRL-2030", "ORCH-3331", "ORCH-3409")
@pytest.mark.parametrize(
    ("changes", "status", "code", "words"),
    [
        ({"ctx": "12"}, 400, "INVALID_PARAMS", "$.ctx: must be an integer of at least 1"),
        ({"max_tokens": True}, 400, "INVALID_PARAMS", "$.max_tokens: must be an integer"),
        ({"colour": 1}, 400, "INVALID_PARAMS", "$.colour: is not a known key"),
        ({"task_id": None}, 400, "INVALID_PARAMS", "$.task_id: is required"),
        ({"ctx": 5000}, 400, "INVALID_PARAMS", "at most 4096 tokens"),
        ({"ctx": 100, "max_tokens": 101}, 400, "INVALID_PARAMS", "101"),
        ({"prompt": None}, 400, "INVALID_PARAMS", "prompt"),
        ({"model_ref": "mock:other"}, 503, "POOL_UNAVAILABLE", "mock:other"),
        ({"engine": "vllm"}, 503, "POOL_UNAVAILABLE", "vllm"),
    ],
)
async def test_a_task_that_cannot_be_served_is_refused_before_it_is_queued(
    front: Opener, changes: dict[str, object], status: int, code: str, words: str
) -> None:
    async with front() as it:
        answer = await it.post("/v1/tasks", task_body(**changes))
        said = read_json(answer)
        assert (answer.status, said["code"]) == (status, code)
        assert words in said["message"]
        assert read_json(await it.get("/v1/tasks"))["tasks"] == []


@pytest.mark.req("ORCH-3101", "ORCH-3102")
@pytest.mark.parametrize(
    ("mode", "status"), [("text", 202), ("json", 202), ("edits", 202), ("sonnet", 202), (1, 400)]
)
async def test_the_output_mode_is_only_a_hint(front: Opener, mode: object, status: int) -> None:
    async with front() as it:
        assert (await it.post("/v1/tasks", task_body(output_mode=mode))).status == status


@pytest.mark.req("OC-CTRL-2060", "OC-CTRL-2061", "ORCH-3093", "ORCH-3096", "ORCH-3812")
async def test_capabilities_say_all_that_a_client_has_to_know(front: Opener) -> None:
    async with front(replicas=2) as it:
        assert read_json(await it.get("/v1/capabilities")) == {
            "api_version": "1.0.0",
            "engines": [
                {
                    "engine": "mock",
                    "engine_version": "mock-1",
                    "sampler_profile_version": "v1",
                    "model_ref": "mock:lorem",
                    "ctx_max": 4096,
                    "max_tokens_out": 4096,
                    "supported_workloads": ["completion"],
                    "concurrency": 2,
                    "slots_total": 2,
                    "rate_limits": {},
                    "features": [*FEATURES, STRICT],
                    "pools": ["demo"],
                }
            ],
        }


async def test_a_body_must_be_json_by_name_and_by_nature(front: Opener) -> None:
    async with front() as it:
        wrong_type = await it.post("/v1/tasks", task_body(), **{"content-type": "text/plain"})
        assert wrong_type.status == 415
        answer = await it.client.request(
            "POST", "/v1/tasks", b"{", headers={"content-type": "application/json"}
        )
        assert answer.status == 400
        assert "is not JSON" in read_json(answer)["message"]


@pytest.mark.parametrize(
    ("path", "stranger", "takes"),
    [
        ("/v1/tasks?limit=2&Cursor=1", "Cursor", "cursor, limit, state"),
        ("/v1/catalog/models?tag=a", "tag", "cursor, limit"),
        ("/v1/artifacts?tags=a", "tags", "cursor, limit, tag"),
        ("/v1/pools?id=demo", "id", "none"),
        ("/v1/pools/demo/health?verbose", "verbose", "none"),
    ],
)
async def test_a_parameter_that_nobody_reads_is_refused_by_its_name(
    front: Opener, path: str, stranger: str, takes: str
) -> None:
    async with front() as it:
        answer = await it.get(path)
        said = read_json(answer)
        assert (answer.status, said["code"]) == (400, "INVALID_PARAMS")
        assert repr(stranger) in said["message"]
        assert said["message"].endswith(f"it takes {takes}")


@pytest.mark.parametrize("path", ["/health?verbose", "/readyz?verbose=1", "/metrics?name[]=up"])
async def test_probes_and_scrapers_may_add_parameters_of_their_own(
    front: Opener, path: str
) -> None:
    async with front() as it:
        assert (await it.get(path)).status == 200


async def test_a_refused_parameter_changes_nothing(front: Opener) -> None:
    async with front() as it:
        assert (await it.post("/v1/tasks?dry_run=1", task_body())).status == 400
        assert read_json(await it.get("/v1/tasks"))["tasks"] == []


@pytest.mark.req("OC-CTRL-2001")
async def test_a_pools_health_tells_what_is_ready_and_what_is_not(front: Opener) -> None:
    async with front() as it:
        said = read_json(await it.get("/v1/pools/demo/health"))
        assert (said["live"], said["ready"], said["draining"]) == (True, True, False)
        assert said["replicas"][0]["snapshot"]["gpu_proof"] == "simulated"
        assert said["metrics"]["slots_total"] == 1
        assert (await it.get("/readyz")).status == 200
        it.peer.hang_up()
    async with front(ready=False) as it:
        await trio.sleep(0.02)
        assert (await it.get("/health")).status == 200
        unready = await it.get("/readyz")
        assert unready.status == 503
        assert "demo" in read_json(unready)["reasons"][0]
        assert read_json(unready)["version"] == __version__
        said = read_json(await it.get("/v1/pools/demo/health"))
        assert said["live"] is False
        assert "socket" in said["replicas"][0]["last_error"]["message"]
        refused = await it.post("/v1/tasks", task_body())
        assert refused.status == 503
        assert read_json(refused)["code"] == "POOL_UNREADY"
        assert int(refused.headers["retry-after"]) >= 1


@pytest.mark.req("METRICS-LINT", "OC-METRICS-7101", "OC-METRICS-7102", "ORCH-3460")
async def test_the_scrape_page_keeps_the_contract_before_and_after_a_task(front: Opener) -> None:
    async with front() as it:
        before = await it.get("/metrics")
        assert lint(before.body.decode()) == []
        await it.submit()
        job = await it.peer.next_job()
        job.tokens("a", "b")
        job.end()
        it.peer.state()  # ACKs go out with what is said next
        with trio.fail_after(2):
            while it.peer.acks == []:
                await trio.sleep(0.001)
        page = (await it.get("/metrics")).body.decode()
        assert lint(page) == [], lint(page)
        ids = 'engine="mock",engine_version="mock-1",pool_id="demo",replica_id="demo:0"'
        assert f"tokens_out_total{{{ids}}} 2.0" in page
        assert 'latency_decode_ms_count{engine="mock"' in page
        open_metrics = await it.get("/metrics", accept="application/openmetrics-text")
        assert open_metrics.headers["content-type"].startswith("application/openmetrics-text")
        assert open_metrics.body.endswith(b"# EOF\n")


@pytest.mark.req("AUTH-1003")
async def test_a_worker_registers_with_the_token_only(front: Opener) -> None:
    async with front(token="s3cret-token") as it:
        assert (await it.post("/v1/workers/register", REGISTRATION)).status == 200
        unknown = REGISTRATION | {"replica_id": "demo:7"}
        assert (await it.post("/v1/workers/register", unknown)).status == 404
        unlike = REGISTRATION | {"sampler_profile_version": "v2"}
        assert (await it.post("/v1/workers/register", unlike)).status == 409
        wrong = await it.post(
            "/v1/workers/register", REGISTRATION, authorization="Bearer not-the-token"
        )
        assert wrong.status == 401
        assert read_json(wrong)["auth_code"] == 40102
        assert b"not-the-token" not in wrong.body


def request_from(
    kind: str,
    address: str,
    token: str | None = None,
    path: str = "/v1/pools",
    scheme: str = "Bearer",
) -> Request:
    headers = {} if token is None else {"authorization": f"{scheme} {token}"}
    peer = Peer(kind, address, 1000 if kind == "unix" else None)  # type: ignore[arg-type]
    return Request("GET", path, {}, headers, b"", peer, "c")


def proxied(kind: str, address: str, user: str, token: str | None = None) -> Request:
    """A request that a proxy passed on for this user."""
    request = request_from(kind, address, token)
    return evolve(request, headers=request.headers | {"x-forwarded-user": user})


PAGE = "http://localhost:5173"
HERE = (
    "127.0.0.1:8484",
    "[::1]:8484",
    "localhost",
    "LOCALHOST:8484",
    "x.localhost:1",
    "ws:8484",
    "",
)


@pytest.mark.req("AUTH-1004", "ORCH-3381")
@pytest.mark.parametrize(
    ("headers", "served"),
    [
        *(({"host": host}, True) for host in HERE),
        *(({"host": host}, False) for host in ("evil.example:8484", "a.local", "1.2.3.4.evil.org")),
        ({"host": "localhost", "origin": PAGE}, True),
        ({"host": "localhost", "origin": "http://evil.example"}, False),
        ({"host": "localhost", "origin": "null"}, False),
        ({"host": "evil.example", "origin": PAGE}, False),
    ],
)
def test_a_page_is_no_program_of_this_machine(headers: dict[str, str], served: bool) -> None:
    for token in (None, "t"):
        guard = Guard(token, token is not None, origins=frozenset({PAGE}))
        asked = evolve(request_from("tcp", "127.0.0.1:9"), headers=headers)
        if served:
            assert guard.identity(asked) == "localhost"
        else:
            with pytest.raises(OrchError) as refused:
                guard.identity(asked)
            assert refused.value.kind is Kind.NON_LOOPBACK_WITHOUT_TOKEN
        assert guard.identity(evolve(asked, path="/readyz")) == "localhost"
        assert guard.identity(evolve(asked, peer=Peer("unix", "pid:1", 7))) == "uid:7"
    with_token = evolve(
        request_from("tcp", "127.0.0.1:9", "t"), headers=headers | {"authorization": "Bearer t"}
    )
    assert Guard("t", True).identity(with_token) == f"token:{fingerprint('t')}"


@pytest.mark.req("AUTH-1001", "AUTH-1004", "AUTH-1006", "AUTH-1008", "OC-CONFIG-6033")
@pytest.mark.parametrize(
    ("guard", "request_", "answer"),
    [
        (Guard(None, False), request_from("tcp", "127.0.0.1:9"), "localhost"),
        (Guard(None, False), request_from("tcp", "[::1]:9"), "localhost"),
        (Guard(None, False), request_from("tcp", "[::ffff:127.0.0.1]:9"), "localhost"),
        (Guard(None, False), request_from("unix", ""), "uid:1000"),
        (Guard(None, False), request_from("tcp", "192.0.2.1:9"), Kind.NON_LOOPBACK_WITHOUT_TOKEN),
        (Guard("t", False), request_from("tcp", "127.0.0.1:9"), Kind.MISSING_TOKEN),
        (Guard("t", True), request_from("tcp", "127.0.0.1:9"), "localhost"),
        (Guard("t", False), request_from("unix", ""), Kind.MISSING_TOKEN),
        (
            Guard("t", False),
            request_from("unix", "", scheme="Basic", token="t"),
            Kind.MISSING_TOKEN,
        ),
        (Guard(None, False), request_from("tcp", "who knows"), Kind.NON_LOOPBACK_WITHOUT_TOKEN),
        (Guard("t", True), request_from("unix", ""), "uid:1000"),
        (Guard("t", True), request_from("tcp", "192.0.2.1:9"), Kind.MISSING_TOKEN),
        (Guard("t", False), request_from("tcp", "192.0.2.1:9", "t"), f"token:{fingerprint('t')}"),
        (Guard("t", True), request_from("tcp", "127.0.0.1:9", "wrong"), Kind.BAD_TOKEN),
        (Guard("t", False), request_from("tcp", "192.0.2.1:9", path="/healthz"), "anonymous"),
        (Guard("t", False), proxied("tcp", "127.0.0.1:9", "alice@x.org"), Kind.MISSING_TOKEN),
        (Guard("t", False, True), proxied("tcp", "127.0.0.1:9", "a@x.org"), "proxy:a@x.org"),
        (Guard("t", False, True), proxied("unix", "", "alice"), "proxy:alice"),
        (Guard(None, False, True), proxied("unix", "", "alice"), "proxy:alice"),
        (Guard("t", False, True), request_from("tcp", "127.0.0.1:9"), Kind.MISSING_TOKEN),
        (Guard("t", False, True), proxied("tcp", "192.0.2.1:9", "alice"), Kind.MISSING_TOKEN),
        (Guard("t", False, True), proxied("tcp", "127.0.0.1:9", "alice", "no"), Kind.BAD_TOKEN),
        (Guard("t", False, True), proxied("tcp", "127.0.0.1:9", ""), Kind.BAD_TOKEN),
        (Guard("t", False, True), proxied("tcp", "127.0.0.1:9", "a, b"), Kind.BAD_TOKEN),
        (Guard("t", False, True), proxied("tcp", "127.0.0.1:9", "a" * 65), Kind.BAD_TOKEN),
    ],
)
def test_who_may_ask(guard: Guard, request_: Request, answer: str | Kind) -> None:
    if isinstance(answer, Kind):
        with pytest.raises(OrchError) as refused:
            guard.identity(request_)
        assert refused.value.kind is answer
    else:
        assert guard.identity(request_) == answer


@pytest.mark.req("AUTH-1003")
def test_a_worker_needs_the_token_even_where_others_do_not() -> None:
    local = request_from("unix", "")
    assert Guard("t", True).identity(local) == "uid:1000"
    with pytest.raises(OrchError) as refused:
        Guard("t", True).registration(local)
    assert refused.value.kind is Kind.MISSING_TOKEN
    Guard("t", True).registration(request_from("unix", "", "t"))
    Guard(None, False).registration(local)
    with pytest.raises(OrchError):
        Guard("t", False, True).registration(proxied("unix", "", "alice"))


@pytest.mark.req("AUTH-1007")
def test_tokens_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the one function that does so, whatever the token looks like."""
    compared: list[tuple[bytes, bytes]] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return True

    monkeypatch.setattr(hmac, "compare_digest", compare)
    for token in ("t", "secret", "\u00e9", "secret-and-more"):
        # what it says is believed: nothing beside it has looked at the token
        assert Guard("secret", False).identity(request_from("tcp", "192.0.2.1:9", token))
        assert compared.pop() == (token.encode(), b"secret")


@pytest.mark.req("AUTH-1005")
async def test_whoever_may_ask_may_ask_everything(front: Opener) -> None:
    """No roles: the token from afar opens what the machine's own users get, on every route."""
    async with front(token="s3cret-token", auth_optional=True) as it:
        for method, path in (
            ("GET", "/v1/tasks"),
            ("GET", "/v1/capabilities"),
            ("GET", "/v1/pools"),
            ("GET", "/v1/pools/demo/health"),
            ("GET", "/metrics"),
            ("GET", "/readyz"),
            ("POST", "/v1/tasks/6e7a1d0c-0000-4000-8000-000000000001/cancel"),
        ):
            statuses = []
            for who in (
                Peer("tcp", "192.0.2.1:9"),
                Peer("tcp", "127.0.0.1:9"),
                Peer("unix", "", 7),
            ):
                headers = {"authorization": "Bearer s3cret-token"} if "192" in who.address else {}
                request = Request(method, path, {}, headers, b"", who, "c")
                try:
                    answer = await Routes(it.app, Guard("s3cret-token", True))(request)
                    statuses.append(answer.status)
                except OrchError as error:
                    statuses.append(error.row.status)
            assert len(set(statuses)) == 1, (path, statuses)
            assert statuses[0] in {200, 404}
