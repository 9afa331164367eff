"""HTTP/2, request by request: the same answers as over HTTP/1.1, many on one connection."""

from __future__ import annotations

import os
import uuid

import orjson
import pytest
import trio
import trio.testing

from orchd.kit import http, log
from orchd.kit.h2_connection import MAX_STREAMS
from orchd.kit.h2_heads import understood
from orchd.kit.pipe import Pipe
from orchd.kit.sink import Sink
from orchd.wire.errors import Kind, OrchError
from tests.fakes.h2_peer import HELLO, H2Peer, frame, frames
from tests.fakes.peers import serving

pytestmark = pytest.mark.req("OC-CTRL-2025", "ORCH-3450")


async def echo(request: http.Request) -> http.Answer:
    """Answer what was understood of the request."""
    value = {
        "method": request.method,
        "path": request.path,
        "query": request.query,
        "headers": request.headers,
        "body": request.body.decode("latin-1"),
        "peer": [request.peer.kind, request.peer.address, request.peer.uid],
    }
    return http.json_response(value)


async def test_several_exchanges_on_one_connection() -> None:
    async with serving(echo) as served:
        peer = await H2Peer.connect(served)
        for number in range(3):
            got = await peer.ask(f"/n%20/{number}?a=%C3%BC&b", "POST", b"b%d" % number, x_y="z")
            assert (got.status, got.headers["content-type"]) == (200, "application/json")
            assert int(got.headers["content-length"]) == len(got.body)
            assert "date" in got.headers
            assert got.json == {
                "method": "POST",
                "path": f"/n /{number}",
                "query": {"a": "ü", "b": ""},
                "headers": {"x-y": "z", "host": "x"},
                "body": f"b{number}",
                "peer": ["unix", f"pid:{os.getpid()}", os.getuid()],
            }


async def test_http1_on_the_same_listener() -> None:
    async with serving(echo) as served:
        assert (await (await H2Peer.connect(served)).ask()).status == 200
        assert (await (await served.connect()).ask()).http_version == b"1.1"


@pytest.mark.parametrize("text", ["PRI", "PUT", "PRI * HTTP/2.1", "PRI /x HTTP/1.1"])
async def test_what_only_begins_like_the_preface_is_http1(text: str) -> None:
    async with serving(echo) as served:
        for step in (1, 100):
            peer = await served.connect()
            data = text.encode() + b"\r\n\r\n"
            if " " not in text:
                data = text.encode() + b" /path HTTP/1.1\r\nHost: x\r\n\r\n"
            for at in range(0, len(data), step):
                await peer.say(data[at : at + step])
                await trio.testing.wait_all_tasks_blocked()
            assert (await peer.recv()).startswith(b"HTTP/1.1 ")


REQUEST = (
    HELLO
    + frame(1, 0, 1, b"\x82\x86\x84\x41\x01x")  # GET http / of x, the block in two frames
    + frame(9, 4, 1, b"\x40\x01a\x01b")
    + frame(0, 1, 1, b"hello")
)


async def test_a_request_byte_by_byte() -> None:
    async with serving(echo) as served:
        peer = await served.connect()
        for i in range(len(REQUEST)):
            await peer.say(REQUEST[i : i + 1])
            await trio.testing.wait_all_tasks_blocked()
        data = frames(await peer.recv())
        assert [kind for kind, *_ in data][-2:] == [1, 0]
        said = orjson.loads(data[-1][3])
        assert (said["body"], said["headers"]) == ("hello", {"a": "b", "host": "x"})


async def test_leaving_after_each_byte_disturbs_nobody() -> None:
    with log.capture() as events:
        async with serving(echo) as served:
            for end in range(0, len(REQUEST), 3):
                peer = await served.connect()
                await peer.say(REQUEST[:end])
                peer.pipe.shutdown()
                await peer.to_end()
                peer.pipe.close()
            assert (await (await served.connect()).ask()).status == 200
    assert [event for event in events if event["level"] != "debug"] == []


async def test_answers_come_when_they_are_ready_and_not_in_order() -> None:
    go = trio.Event()

    async def handler(request: http.Request) -> http.Answer:
        if request.path == "/slow":
            await go.wait()
        return http.Response(200, request.path.encode())

    async with serving(handler) as served:
        peer = await H2Peer.connect(served)
        slow = await peer.send("/slow")
        for number in range(50):
            assert (await peer.ask(f"/{number}")).body == b"/%d" % number
        assert not peer.answers[slow].over
        go.set()
        assert (await peer.answer(slow)).body == b"/slow"


async def test_as_many_streams_as_are_allowed_at_once() -> None:
    go = trio.Event()

    async def handler(request: http.Request) -> http.Answer:
        await go.wait()
        return http.Response(200, request.path.encode())

    async with serving(handler) as served:
        peer = await H2Peer.connect(served)
        asked = [await peer.send(f"/{i}") for i in range(MAX_STREAMS)]
        await trio.testing.wait_all_tasks_blocked()
        go.set()
        for number, stream_id in enumerate(asked):
            assert (await peer.answer(stream_id)).body == b"/%d" % number
        assert (await peer.ask("/more")).status == 200
        assert peer.h2.remote_settings.max_concurrent_streams == MAX_STREAMS


async def test_head_gets_the_length_but_no_body() -> None:
    async def run(sink: Sink) -> None:
        pytest.fail("ran")

    async def handler(request: http.Request) -> http.Answer:
        if request.path == "/stream":
            return http.Streaming("text/plain", run)
        return await echo(request)

    async with serving(handler) as served:
        peer = await H2Peer.connect(served)
        got = await peer.ask("/", "HEAD")
        assert int(got.headers["content-length"]) > 0
        assert (got.body, got.ended) == (b"", True)
        got = await peer.ask("/stream", "HEAD")
        assert (got.headers["content-type"], got.body) == ("text/plain", b"")


@pytest.mark.req("OC-CTRL-2052")
async def test_every_answer_has_a_correlation_id() -> None:
    async def handler(request: http.Request) -> http.Answer:
        match request.path:
            case "/none":
                return http.Response(204, b"ignored")
            case "/error":
                raise OrchError(Kind.QUEUE_FULL, "full", retry_after_ms=1500)
            case "/broken":
                raise RuntimeError("secret")
        assert log.correlation.get() == request.correlation_id
        return http.Response(200, request.correlation_id.encode())

    with log.capture() as events:
        async with serving(handler) as served:
            peer = await H2Peer.connect(served)
            got = await peer.ask("/", x_correlation_id="mine")
            assert (got.headers["x-correlation-id"], got.body) == ("mine", b"mine")
            got = await peer.ask("/", x_correlation_id="not\tprintable")
            assert uuid.UUID(got.headers["x-correlation-id"]).version == 4
            got = await peer.ask("/none", x_correlation_id="n")
            assert (got.status, got.headers["x-correlation-id"]) == (204, "n")
            assert not {"content-length", "content-type"} & set(got.headers)
            got = await peer.ask("/error", x_correlation_id="e")
            assert (got.status, got.headers["x-correlation-id"]) == (429, "e")
            assert (got.headers["retry-after"], got.headers["x-backoff-ms"]) == ("2", "1500")
            assert got.json["code"] == "ADMISSION_REJECT"
            got = await peer.ask("/broken", x_correlation_id="b")
            assert (got.status, got.json["code"]) == (500, "INTERNAL")
            assert b"secret" not in got.body
            got = await peer.ask("%zz", x_correlation_id="p")
            assert (got.status, got.headers["x-correlation-id"]) == (400, "p")
    assert [event["event"] for event in events if event["level"] == "error"] == ["handler_failed"]


async def test_an_upgrade_is_refused() -> None:
    async def run(pipe: Pipe, rest: bytes) -> None:
        pytest.fail("ran")

    async def handler(request: http.Request) -> http.Answer:
        return http.Upgraded("link", run)

    async with serving(handler) as served:
        peer = await H2Peer.connect(served)
        got = await peer.ask()
        assert (got.status, got.json["code"]) == (400, "INVALID_PARAMS")
        assert "HTTP/1.1" in got.json["message"]


WRONG = {
    "no slash": {":path": "x"},
    "absolute": {":path": "http://x/"},
    "star": {":path": "*"},
    "space": {":path": "/a b"},
    "not ascii": {":path": "/ü"},
    "no escape": {":path": "/%x"},
    "control": {":path": "/%00"},
    "fragment": {":path": "/a#b"},
    "query twice": {":path": "/?a&a"},
    "method": {":method": "G T"},
    "scheme": {":scheme": "ftp"},
    "userinfo": {":authority": "me@x"},
    "empty authority": {":authority": ""},
}


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG)
async def test_what_h2_lets_pass_and_no_request_has(change: dict[str, str]) -> None:
    fields = {":method": "GET", ":scheme": "http", ":authority": "x", ":path": "/"} | change
    async with serving(echo) as served:
        peer = await H2Peer.connect(served)
        peer.h2.config.validate_outbound_headers = False
        stream_id = await peer.send()
        assert (await peer.answer(stream_id)).status == 200
        block = b"".join(
            b"\x00"
            + bytes([len(name)])
            + name.encode()
            + bytes([len(value.encode())])
            + value.encode()
            for name, value in fields.items()
        )
        await peer.say(frame(1, 5, stream_id + 2, block))
        seen = frames(await peer.pipe.recv())
        assert [kind for kind, *_ in seen] == [1, 0]
        assert orjson.loads(seen[1][3])["code"] == "INVALID_PARAMS"
        assert seen[0][2] == seen[1][2] == stream_id + 2


@pytest.mark.parametrize("length", ["", "x", "-1", "+1", "1_0", "1, 1", "9" * 19])
def test_a_length_that_is_no_number(length: str) -> None:
    fields = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/"), (b"host", b"x")]
    with pytest.raises(OrchError, match="Content-Length"):
        understood([*fields, (b"content-length", length.encode())], "id", http.Limits())


async def test_host_instead_of_authority_and_cookies_in_crumbs() -> None:
    block = b"\x82\x86\x84" + b"".join(
        b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value
        for name, value in [
            (b"host", b"h"),
            (b"cookie", b"a=1"),
            (b"cookie", b"b=2"),
            (b"k", b"1"),
            (b"k", b"2"),
        ]
    )
    async with serving(echo) as served:
        peer = await served.connect()
        await peer.say(HELLO + frame(1, 5, 1, block))
        data = b""
        while b"}" not in data:
            data += await peer.recv()
        said = orjson.loads(frames(data)[-1][3])
        assert said["headers"] == {"host": "h", "cookie": "a=1; b=2", "k": "1, 2"}


async def test_trailers_are_ignored() -> None:
    async with serving(echo) as served:
        peer = await H2Peer.connect(served)
        stream_id = await peer.send("/", "POST", b"body", end=False)
        peer.h2.send_headers(stream_id, [("x-sum", "1")], end_stream=True)
        await peer.flush()
        got = await peer.answer(stream_id)
        assert (got.json["body"], got.json["headers"]) == ("body", {"host": "x"})


async def test_a_client_that_waits_for_100_is_told_to_go_on() -> None:
    async with serving(echo) as served:
        peer = await H2Peer.connect(served)
        stream_id = await peer.send("/", "POST", end=False, expect="100-continue")
        while not peer.answers[stream_id].informed:
            await peer.receive()
        peer.h2.send_data(stream_id, b"late", end_stream=True)
        await peer.flush()
        got = await peer.answer(stream_id)
        assert (got.informed, got.json["body"]) == (["100"], "late")


async def test_a_goaway_of_the_client_lets_its_streams_end() -> None:
    """Node's session.close() says it at once and waits for what is open."""
    go = trio.Event()

    async def handler(request: http.Request) -> http.Answer:
        await go.wait()
        return http.Response(200, b"ok")

    async with serving(handler) as served:
        peer = await H2Peer.connect(served)
        stream_id = await peer.send()
        await peer.say(frame(7, 0, 0, bytes(8)))
        await trio.testing.wait_all_tasks_blocked()
        go.set()
        assert (await peer.answer(stream_id)).body == b"ok"
