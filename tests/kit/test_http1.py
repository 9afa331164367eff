"""The server, request by request: framing, decoding, errors, correlation ids."""

from __future__ import annotations

import os
import uuid
from typing import Any

import orjson
import pytest
import trio
import trio.testing

from orchd.kit import fds, http, log
from orchd.kit.pipe import Pipe, PipeClosed
from orchd.kit.target import Target
from orchd.wire.errors import Kind, OrchError
from tests.fakes.peers import RawPeer, serving


async def echo(request: http.Request) -> http.Response:
    """Answer what was understood of the request."""
    value = {
        "method": request.method,
        "path": request.path,
        "query": request.query,
        "body": request.body.decode("latin-1"),
        "peer": [request.peer.kind, request.peer.address, request.peer.uid],
    }
    return http.json_response(value)


async def test_several_exchanges_on_one_connection() -> None:
    async with serving(echo) as served:
        peer = await served.connect()
        for number in range(3):
            got = await peer.ask(f"/n/{number}", "POST", b"b%d" % number)
            assert got.status == 200
            assert got.headers["content-type"] == "application/json"
            assert "connection" not in got.headers
            said = orjson.loads(got.body)
            assert (said["method"], said["path"]) == ("POST", f"/n/{number}")
            assert said["body"] == f"b{number}"
            assert said["peer"] == ["unix", f"pid:{os.getpid()}", os.getuid()]


async def test_tcp_peers_have_an_address_and_no_uid() -> None:
    with fds.bind_tcp("127.0.0.1", 0) as listener:
        async with trio.open_nursery() as nursery:
            await nursery.start(
                lambda task_status: http.serve([listener], echo, task_status=task_status)
            )
            host, port = listener.getsockname()
            pipe = await Target(host=host, port=port).connect()
            mine = "{}:{}".format(*pipe.sock.getsockname())
            got = await RawPeer(pipe).ask()
            assert orjson.loads(got.body)["peer"] == ["tcp", mine, None]
            pipe.close()
            nursery.cancel_scope.cancel()


REQUESTS = [
    b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello",
    b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\nTrailer: z\r\n\r\n",
]


@pytest.mark.parametrize("data", REQUESTS)
async def test_a_request_byte_by_byte(data: bytes) -> None:
    async with serving(echo) as served:
        peer = await served.connect()
        for i in range(len(data)):
            await peer.say(data[i : i + 1])
            await trio.testing.wait_all_tasks_blocked()
        got = await peer.answer()
        assert orjson.loads(got.body)["body"] in {"", "hello"}
        assert (await peer.ask("/again")).status == 200


@pytest.mark.parametrize("data", REQUESTS)
async def test_leaving_after_each_byte_disturbs_nobody(data: bytes) -> None:
    with log.capture() as events:
        async with serving(echo) as served:
            for end in range(len(data)):
                peer = await served.connect()
                await peer.say(data[:end])
                peer.pipe.shutdown()
                assert await peer.to_end() == b""
                peer.pipe.close()
            assert (await (await served.connect()).ask()).status == 200
    assert [event for event in events if event["level"] != "debug"] == []


async def test_pipelined_requests_are_answered_in_order() -> None:
    data = b"".join(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % i for i in range(50))

    async def handler(request: http.Request) -> http.Response:
        if request.path.endswith("0"):
            await trio.lowlevel.checkpoint()
        return await echo(request)

    for step in (len(data), 7):
        async with serving(handler) as served:
            peer = await served.connect()
            for i in range(0, len(data), step):
                await peer.say(data[i : i + step])
            for i in range(50):
                assert orjson.loads((await peer.answer()).body)["path"] == f"/{i}"


async def test_a_pipeliner_does_not_hold_up_the_others() -> None:
    order: list[str] = []

    async def handler(request: http.Request) -> http.Response:
        order.append(request.path)
        return http.Response(204)

    async with serving(handler) as served:
        greedy, modest = await served.connect(), await served.connect()
        assert (await greedy.ask("/first")).status == 204
        assert (await modest.ask("/first")).status == 204
        order.clear()
        await greedy.say(b"GET /greedy HTTP/1.1\r\nHost: x\r\n\r\n" * 200)
        await modest.say(b"GET /modest HTTP/1.1\r\nHost: x\r\n\r\n")
        await modest.answer()
        assert order.index("/modest") < 20


async def test_head_gets_the_length_but_no_body() -> None:
    async with serving(echo) as served:
        peer = await served.connect()
        got = await peer.ask("/", "HEAD")
        assert int(got.headers["content-length"]) > 0
        assert got.body == b""
        assert (await peer.ask()).status == 200


@pytest.mark.req("OC-CTRL-2052")
async def test_a_204_has_neither_body_nor_length_but_a_correlation_id() -> None:
    async def handler(request: http.Request) -> http.Response:
        return http.Response(204, b"ignored")

    async with serving(handler) as served:
        peer = await served.connect()
        await peer.say(b"POST / HTTP/1.1\r\nHost: x\r\nX-Correlation-Id: mine\r\n\r\n")
        head = await peer.until(b"\r\n\r\n")
        assert b"content-length" not in head.lower()
        assert b"content-type" not in head.lower()
        assert b"X-Correlation-Id: mine\r\n" in head
        assert (await peer.ask()).status == 204


@pytest.mark.req("OC-CTRL-2052")
@pytest.mark.parametrize("sent", [None, "", "with space", "x" * 129, "caf\xe9"])
async def test_a_correlation_id_that_cannot_be_echoed_is_replaced(sent: str | None) -> None:
    line = b"" if sent is None else b"X-Correlation-Id: %b\r\n" % sent.encode("latin-1")
    async with serving(echo) as served:
        peer = await served.connect()
        await peer.say(b"GET / HTTP/1.1\r\nHost: x\r\n%b\r\n" % line)
        made = uuid.UUID((await peer.answer()).headers["x-correlation-id"])
        assert made.version == 4


@pytest.mark.req("OC-CTRL-2052")
async def test_events_of_a_request_carry_its_correlation_id() -> None:
    async def handler(request: http.Request) -> http.Response:
        log.event("handled", path=request.path)
        return http.Response(204)

    with log.capture() as events:
        async with serving(handler) as served:
            peer = await served.connect()
            for number in (1, 2):
                await peer.say(
                    b"GET /%d HTTP/1.1\r\nHost: x\r\nX-Correlation-Id: c%d\r\n\r\n"
                    % (number, number)
                )
                await peer.answer()
    handled = [event for event in events if event["event"] == "handled"]
    assert [(e["path"], e["correlation_id"]) for e in handled] == [("/1", "c1"), ("/2", "c2")]


async def test_http10_is_answered_and_closed() -> None:
    async with serving(echo) as served:
        peer = await served.connect()
        await peer.say(b"GET /old HTTP/1.0\r\n\r\n")
        got = await peer.answer()
        assert got.headers["connection"] == "close"
        assert orjson.loads(got.body)["path"] == "/old"
        assert await peer.to_end() == b""


async def test_connection_close_is_kept() -> None:
    async with serving(echo) as served:
        peer = await served.connect()
        await peer.say(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert (await peer.answer()).headers["connection"] == "close"
        assert await peer.to_end() == b""


TARGETS = [
    ("/a%20b/%C3%A4", "/a b/\xe4", {}),
    ("/x?a=1&b=%26&c&d=e+f&&g%3D=h", "/x", {"a": "1", "b": "&", "c": "", "d": "e f", "g=": "h"}),
    ("http://host:1/p?q=1", "/p", {"q": "1"}),
    ("HTTP://host", "/", {}),
    ("http://host?q=1", "/", {"q": "1"}),
    ("//a//b", "//a//b", {}),
]


@pytest.mark.parametrize(("target", "path", "query"), TARGETS)
async def test_targets(target: str, path: str, query: dict[str, str]) -> None:
    async with serving(echo) as served:
        said = orjson.loads((await (await served.connect()).ask(target)).body)
        assert (said["path"], said["query"]) == (path, query)


async def test_options_asterisk() -> None:
    async with serving(echo) as served:
        got = await (await served.connect()).ask("*", "OPTIONS")
        assert orjson.loads(got.body)["path"] == "*"


def _head(*lines: str, start: str = "POST / HTTP/1.1") -> bytes:
    return "\r\n".join([start, "Host: x", *lines, "", ""]).encode()


BAD = [
    (b"GARBAGE\r\n\r\n", 400),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),  # a TLS hello
    (b"GET / HTTP/1.1\r\n\r\n", 400),  # no Host
    (b"GET / HTTP/9.9\r\nHost: x\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: x\r\nBad Header: y\r\n\r\n", 400),
    (_head("Content-Length: 1", "Content-Length: 2"), 400),
    (_head("Content-Length: -1"), 400),
    (_head("Content-Length: 1", "Transfer-Encoding: chunked") + b"0\r\n\r\n", 400),
    (_head("Transfer-Encoding: gzip, chunked"), 400),
    (_head("Transfer-Encoding: chunked") + b"zz\r\n", 400),
    (_head("Transfer-Encoding: chunked") + b"1\r\nab\r\n", 400),
    (_head("Transfer-Encoding: chunked") + b"1\nb\r\n", 400),
    (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    (_head(start="GET /%zz HTTP/1.1"), 400),
    (_head(start="GET /%ff HTTP/1.1"), 400),
    (_head(start="GET /%00 HTTP/1.1"), 400),
    (_head(start="GET /a?b=%0a HTTP/1.1"), 400),
    (_head(start="GET /a#b HTTP/1.1"), 400),
    (_head(start="GET a HTTP/1.1"), 400),
    (_head(start="GET ftp://x/ HTTP/1.1"), 400),
    (_head(start="CONNECT x:1 HTTP/1.1"), 400),
    (_head(start="GET /?a=1&a=2 HTTP/1.1"), 400),
    (_head("X: " + "y" * 40_000), 431),
    (_head(*["X: y"] * 100), 431),
    (_head("Content-Length: 8388609"), 413),
    (_head("Content-Length: 99999999999999999999"), 413),
]


@pytest.mark.req("OC-CTRL-2052")
@pytest.mark.parametrize(("data", "status"), BAD)
async def test_what_never_reaches_the_handler(data: bytes, status: int) -> None:
    async def handler(request: http.Request) -> http.Response:
        pytest.fail(f"handled {request}")

    async with serving(handler) as served:
        peer = await served.connect()
        await peer.say(data)
        got = await peer.answer()
        assert got.status == status
        assert got.headers["connection"] == "close"
        uuid.UUID(got.headers["x-correlation-id"])
        envelope = orjson.loads(got.body)
        assert envelope["code"] == "INVALID_PARAMS"
        assert envelope["message"]
        assert await peer.to_end() == b""


async def test_a_refused_header_is_not_repeated() -> None:
    async with serving(echo) as served:
        peer = await served.connect()
        await peer.say(_head("X-Key : opensesame"))
        got = await peer.answer()
        assert got.status == 400
        assert b"opensesame" not in got.body


async def test_a_head_over_the_limit_in_one_packet() -> None:
    async with serving(echo, limits=http.Limits(head_bytes=1000)) as served:
        for size, status in ((900, 200), (1000, 431)):
            peer = await served.connect()
            await peer.say(_head("X: " + "y" * size))
            assert (await peer.answer()).status == status


async def test_a_chunked_body_over_the_limit() -> None:
    limits = http.Limits(body_bytes=10)
    async with serving(echo, limits=limits) as served:
        peer = await served.connect()
        await peer.say(_head("Transfer-Encoding: chunked") + b"a\r\n0123456789\r\n0\r\n\r\n")
        assert (await peer.answer()).status == 200
        await peer.say(_head("Transfer-Encoding: chunked") + b"b\r\n0123456789a\r\n")
        assert (await peer.answer()).status == 413


async def test_a_client_that_sends_on_can_read_its_refusal() -> None:
    async with serving(echo, limits=http.Limits(body_bytes=1 << 20)) as served:
        peer = await served.connect()
        await peer.say(_head("Content-Length: 1048577") + b"x" * (1 << 20))
        assert (await peer.answer()).status == 413


async def test_expect_100_continue() -> None:
    async with serving(echo) as served:
        peer = await served.connect()
        await peer.say(_head("Expect: 100-continue", "Content-Length: 2"))
        assert await peer.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await peer.say(b"ok")
        assert orjson.loads((await peer.answer()).body)["body"] == "ok"
        # a body that is too large is refused before it is sent
        await peer.say(_head("Expect: 100-continue", "Content-Length: 99999999"))
        assert b" 413 " in await peer.until(b"\r\n")


async def test_orch_errors_become_their_row() -> None:
    async def handler(request: http.Request) -> http.Response:
        async with trio.open_nursery():  # wraps it in a group
            error = OrchError(Kind.QUEUE_FULL, "full", retry_after_ms=1500, policy_label="reject")
            if request.path == "/ready":
                error = OrchError(Kind.POOL_UNREADY, "loading", pool_id="demo")
            if request.path == "/method":
                error = OrchError(Kind.METHOD_NOT_ALLOWED, "no", allow="GET, HEAD")
            if request.path == "/token":
                error = OrchError(Kind.MISSING_TOKEN, "who?")
            raise error

    async with serving(handler) as served:
        peer = await served.connect()
        got = await peer.ask("/")
        assert got.status == 429
        assert (got.headers["retry-after"], got.headers["x-backoff-ms"]) == ("2", "1500")
        assert orjson.loads(got.body)["policy_label"] == "reject"
        got = await peer.ask("/ready")
        assert (got.status, got.headers["retry-after"]) == (503, "1")
        assert orjson.loads(got.body)["pool_id"] == "demo"
        got = await peer.ask("/method")
        assert (got.status, got.headers["allow"]) == (405, "GET, HEAD")
        got = await peer.ask("/token")
        assert (got.status, got.headers["www-authenticate"]) == (401, "Bearer")
        assert orjson.loads(got.body)["auth_code"] == 40101


@pytest.mark.req("OC-CTRL-2041", "ORCH-3302")
async def test_unexpected_errors_are_logged_once_and_not_shown() -> None:
    async def handler(request: http.Request) -> http.Response:
        raise RuntimeError("the token=abcd1234 leaked")

    with log.capture() as events:
        async with serving(handler) as served:
            peer = await served.connect()
            got = await peer.ask()
            assert got.status == 500
            assert orjson.loads(got.body)["code"] == "INTERNAL"
            assert b"leaked" not in got.body
            assert (await peer.ask()).status == 500  # the connection goes on
    failed = [event for event in events if event["level"] == "error"]
    assert [event["event"] for event in failed] == ["handler_failed"] * 2
    assert failed[0]["correlation_id"] == got.headers["x-correlation-id"]
    assert "RuntimeError: the token=[redacted] leaked" in failed[0]["traceback"]


@pytest.mark.req("OC-CTRL-2041", "ORCH-3302")
async def test_secrets_do_not_leave_in_errors() -> None:
    async def handler(request: http.Request) -> http.Response:
        raise OrchError(Kind.INVALID_PARAMS, "cannot fetch https://me:hunter2@host/")

    async with serving(handler) as served:
        got = await (await served.connect()).ask()
        assert orjson.loads(got.body)["message"] == "cannot fetch https://me:[redacted]@host/"


@pytest.mark.parametrize(
    ("declared", "good"),
    [
        ("application/json", True),
        ("Application/JSON; charset=utf-8", True),
        ("text/plain", False),
        ("application/jsonx", False),
        (None, False),
    ],
)
def test_require_json(declared: str | None, good: bool) -> None:
    headers = {} if declared is None else {"content-type": declared}
    request = http.Request("POST", "/", {}, headers, b"{}", http.Peer("tcp", "x"), "c")
    if good:
        http.require_json(request)
    else:
        with pytest.raises(OrchError) as caught:
            http.require_json(request)
        assert caught.value.row.status == 415


def test_a_packed_body_is_not_unpacked() -> None:
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    request = http.Request("POST", "/", {}, headers, b"{}", http.Peer("tcp", "x"), "c")
    with pytest.raises(OrchError, match="gzip") as caught:
        http.require_json(request)
    assert caught.value.row.status == 415


async def test_a_header_that_would_split_the_answer_is_not_sent() -> None:
    async def handler(request: http.Request) -> http.Response:
        return http.Response(headers=(("X", "a\r\nSet-Cookie: b"),))

    with log.capture() as events:
        async with serving(handler) as served:
            peer = await served.connect()
            await peer.say(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert await peer.to_end() == b""
    assert "connection_failed" in [event["event"] for event in events]


async def test_upgrade_hands_over_the_pipe_and_what_came_behind() -> None:
    async def talk(pipe: Pipe, rest: bytes) -> None:
        while len(rest) < 5:
            rest += await pipe.recv()
        pipe.send_nowait(b"<" + rest + b">")
        with pytest.raises(PipeClosed):
            while await pipe.recv():
                pass
            raise PipeClosed

    async def handler(request: http.Request) -> Any:
        assert request.headers["upgrade"] == "x/1"
        return http.Upgraded("x/1", talk)

    async with serving(handler) as served:
        peer = await served.connect()
        await peer.say(
            b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: x/1\r\nConnection: Upgrade\r\n\r\nab"
        )
        head = await peer.until(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 ")
        assert b"Upgrade: x/1\r\n" in head
        assert b"X-Correlation-Id: " in head
        await peer.say(b"cde")
        assert await peer.until(b">") == b"<abcde>"


async def test_the_server_gives_an_exchange_one_send() -> None:
    async with serving(echo) as served:
        peer = await served.connect()
        await peer.say(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        data = await peer.recv()  # a unix socket's recv ends where a send ended, or later
        assert data.startswith(b"HTTP/1.1 200 ")
        assert data.endswith(b"}")
