"""The client: against our server, and against peers that misbehave."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from orchd.kit import fds, http
from orchd.kit.client import Client, PeerError, Target
from orchd.kit.pipe import Pipe, PipeClosed
from orchd.kit.sink import Sink
from tests.fakes.peers import RawPeer, serving, short_folder


@contextlib.asynccontextmanager
async def scripted(*scripts: Callable[[RawPeer], Awaitable[None]]) -> AsyncIterator[Client]:
    """A client whose n-th connection is answered by the n-th script, which is then closed."""
    with short_folder() as folder:
        listener = fds.bind_unix(folder / "s")
        client = Client(Target.unix(folder / "s"))

        async def run() -> None:
            for script in scripts:
                await trio.lowlevel.wait_readable(listener.fileno())
                pipe = Pipe(listener.accept()[0])
                try:
                    await script(RawPeer(pipe))
                finally:
                    pipe.close()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            yield client
            nursery.cancel_scope.cancel()
        client.close()
        listener.close()


def says(*answers: bytes) -> Callable[[RawPeer], Awaitable[None]]:
    """A script: read a request, say the next answer."""

    async def script(peer: RawPeer) -> None:
        for answer in answers:
            await peer.until(b"\r\n\r\n")
            await peer.say(answer)

    return script


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def echo(request: http.Request) -> http.Answer:
    """Answer what was asked."""
    value = {
        "m": request.method,
        "p": request.path,
        "b": request.body.decode(),
        "h": request.headers,
    }
    return http.json_response(value, 201)


async def test_request_against_our_server() -> None:
    async with serving(echo) as served:
        client = Client(served.target, token="abc")
        for method in ("GET", "POST", "DELETE"):
            body = b"{}" if method == "POST" else None
            got = await client.request(method, "/p?q", body, headers={"X-Correlation-Id": "c"})
            assert got.status == 201
            assert got.headers["x-correlation-id"] == "c"
            assert b'"authorization":"Bearer abc"' in got.body
            assert (b'"content-type":"application/json"' in got.body) is (method == "POST")
            assert b'"host":"localhost"' in got.body
        assert (await client.request("HEAD", "/")).body == b""
        assert (await client.request("GET", "/")).status == 201
        client.close()


@pytest.mark.req("ORCH-3610")
async def test_the_connection_is_kept_and_used_again() -> None:
    async with scripted(says(OK, OK, OK)) as client:
        for _ in range(3):
            assert (await client.request("GET", "/")).body == b"ok"


@pytest.mark.parametrize(
    "first",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok and more",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\nmore",
    ],
)
async def test_a_connection_that_cannot_go_on_is_not_kept(first: bytes) -> None:
    async with scripted(says(first), says(OK)) as client:
        assert (await client.request("GET", "/")).body == b"ok"
        assert (await client.request("GET", "/")).body == b"ok"


ANSWERS = [
    (OK, b"ok"),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n", b"ok"),
    (b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\n" + OK, b"ok"),
    (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    (b"HTTP/1.1 200 OK\r\n\r\nok", b"ok"),
]


@pytest.mark.parametrize(("data", "body"), ANSWERS)
async def test_an_answer_byte_by_byte(data: bytes, body: bytes) -> None:
    async def script(peer: RawPeer) -> None:
        await peer.until(b"\r\n\r\n")
        for i in range(len(data)):
            await peer.say(data[i : i + 1])
            await trio.testing.wait_all_tasks_blocked()

    async with scripted(script) as client:
        assert (await client.request("GET", "/")).body == body


@pytest.mark.parametrize("data", [data for data, _ in ANSWERS[:3]])
async def test_an_answer_cut_off_after_each_byte(data: bytes) -> None:
    scripts = [says(data[:end]) for end in range(len(data))]
    async with scripted(*scripts) as client:
        for _ in scripts:
            with pytest.raises(PeerError) as caught:
                await client.request("GET", "/")
            assert caught.value.phase == "receive"


async def test_a_dead_kept_connection_is_tried_again_once_if_that_does_no_harm() -> None:
    async def dies(peer: RawPeer) -> None:
        await says(OK)(peer)
        await peer.until(b"\r\n\r\n")  # the second request arrives, then the peer is gone

    async with scripted(dies, says(OK)) as client:
        assert (await client.request("GET", "/")).body == b"ok"
        assert (await client.request("GET", "/")).body == b"ok"
    async with scripted(dies, says(OK)) as client:
        assert (await client.request("GET", "/")).body == b"ok"
        with pytest.raises(PeerError, match="without an answer"):
            await client.request("POST", "/", b"{}")
    async with scripted(dies, says(OK)) as client:
        assert (await client.request("GET", "/")).body == b"ok"
        async with client.open("POST", "/", b"{}", repeatable=True) as incoming:
            assert await incoming.read_some() == b"ok"
    async with scripted(says(), says(OK)) as client:
        with pytest.raises(PeerError):  # a new connection is not
            await client.request("GET", "/")


async def test_a_kept_connection_that_was_closed_meanwhile_is_not_used() -> None:
    async with scripted(says(OK), says(OK)) as client:
        assert (await client.request("POST", "/", b"")).body == b"ok"
        await trio.testing.wait_all_tasks_blocked()
        assert (await client.request("POST", "/", b"")).body == b"ok"


@pytest.mark.parametrize(
    "data",
    [
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000,
    ],
)
async def test_a_peer_that_speaks_no_http(data: bytes) -> None:
    async with scripted(says(data)) as client:
        with pytest.raises(PeerError) as caught:
            await client.request("GET", "/")
        assert caught.value.phase == "receive"


async def test_nobody_there(tmp_path: Path) -> None:
    client = Client(Target.unix(tmp_path / "none"))
    with pytest.raises(PeerError, match="cannot connect: No such file") as caught:
        await client.request("GET", "/")
    assert caught.value.phase == "connect"
    with fds.bind_tcp("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(PeerError, match="refused"):
        await Client(Target.parse(f"http://127.0.0.1:{port}")).request("GET", "/")


@pytest.mark.req("ORCH-3610")
async def test_deadlines(autojump_clock: object) -> None:
    async def hangs(peer: RawPeer) -> None:
        await peer.to_end()

    async def half(peer: RawPeer) -> None:
        await says(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nha")(peer)
        await peer.to_end()

    async with scripted(hangs, half, hangs, half) as client:
        for _ in range(2):
            with pytest.raises(PeerError, match="within 4 s") as caught:
                await client.request("GET", "/", deadline_s=4)
            assert caught.value.phase == "deadline"
        with pytest.raises(PeerError, match="within 4 s"):
            async with client.open("GET", "/", first_byte_s=4):
                pytest.fail("no head came")
        async with client.open("GET", "/", first_byte_s=4, idle_s=2) as incoming:
            await trio.sleep(10)  # the deadline of the head is over
            assert await incoming.read_some() == b"ha"
            with pytest.raises(PeerError, match="nothing came for 2 s"):
                await incoming.read_some()


async def test_a_body_over_max_body() -> None:
    async with serving(echo) as served:
        with pytest.raises(PeerError, match="over 10 bytes"):
            await Client(served.target).request("GET", "/", max_body=10)


async def test_a_long_body_that_is_refused_early() -> None:
    limits = http.Limits(body_bytes=4 << 20)
    async with serving(echo, limits=limits) as served:
        client = Client(served.target)
        assert (await client.request("POST", "/", b"x" * (4 << 20))).status == 201
        assert (await client.request("POST", "/", b"x" * (5 << 20))).status == 413
        assert (await client.request("GET", "/")).status == 201
        client.close()


async def test_open_reads_as_it_comes_and_leaving_hangs_up_at_once() -> None:
    left = trio.Event()

    async def run(sink: Sink) -> None:
        sink.send_nowait(b"one")
        sink.send_nowait(b"two")
        await sink.wait_closed()
        left.set()

    async def handler(request: http.Request) -> http.Answer:
        return http.Streaming("text/plain", run)

    async with serving(handler) as served:
        client = Client(served.target)
        async with client.open("POST", "/", b"{}") as incoming:
            assert incoming.status == 200
            assert incoming.headers["content-type"] == "text/plain"
            got = b""
            while len(got) < 6:
                got += await incoming.read_some()
            assert got == b"onetwo"
            await trio.testing.wait_all_tasks_blocked()
            assert not left.is_set()
        await left.wait()
        left = trio.Event()
        with trio.move_on_after(0.01):
            async with client.open("POST", "/", b"{}") as incoming:
                while True:
                    await incoming.read_some()
        await left.wait()


async def test_open_read_to_the_end_keeps_the_connection() -> None:
    async with scripted(says(OK, OK)) as client:
        for _ in range(2):
            async with client.open("GET", "/") as incoming:
                assert await incoming.read_some() == b"ok"
                assert await incoming.read_some() == b""
                assert incoming.whole


async def test_chunks_of_one_read_come_together() -> None:
    chunks = b"".join(b"1\r\n%d\r\n" % i for i in range(10))
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with scripted(says(head + chunks + b"0\r\n\r\n")) as client:
        async with client.open("GET", "/") as incoming:
            assert await incoming.read_some() == b"0123456789"
            assert await incoming.read_some() == b""


async def test_upgrade() -> None:
    async def talk(pipe: Pipe, rest: bytes) -> None:
        pipe.send_nowait(b"hi")
        assert rest + await pipe.recv() == b"yo"

    async def handler(request: http.Request) -> http.Answer:
        if request.headers.get("upgrade") == "x/1":
            return http.Upgraded("x/1", talk)
        return http.Response(204)

    async with serving(handler) as served:
        client = Client(served.target)
        pipe, rest = await client.upgrade("/link", "x/1")
        while len(rest) < 2:
            rest += await pipe.recv()
        assert rest == b"hi"
        pipe.send_nowait(b"yo")
        assert await pipe.recv() == b""
        pipe.close()
        with pytest.raises(PeerError, match="answered 204"):
            await client.upgrade("/link", "y/1")


async def test_a_full_backlog_is_waited_for() -> None:
    with short_folder() as folder:
        listener = fds.bind_unix(folder / "s")
        listener.listen(0)
        target = Target.unix(folder / "s")
        pipes = [await target.connect()]
        async with trio.open_nursery() as nursery:

            async def more() -> None:
                pipes.append(await target.connect())

            nursery.start_soon(more)
            nursery.start_soon(more)
            await trio.sleep(0.02)
            for _ in range(3):
                await trio.lowlevel.wait_readable(listener.fileno())
                listener.accept()[0].close()
        assert len(pipes) == 3
        for pipe in pipes:
            with pytest.raises(PipeClosed):
                pipe.close()
                pipe.send_nowait(b"x")
        listener.close()


@pytest.mark.parametrize(
    ("text", "shown", "authority"),
    [
        ("unix:/run/a.sock", "unix:/run/a.sock", "localhost"),
        ("unix:///run/a.sock", "unix:/run/a.sock", "localhost"),
        ("http://127.0.0.1:8484", "http://127.0.0.1:8484", "127.0.0.1:8484"),
        ("http://localhost/", "http://localhost:80", "localhost:80"),
        ("http://[::1]:1", "http://[::1]:1", "[::1]:1"),
    ],
)
def test_targets(text: str, shown: str, authority: str) -> None:
    target = Target.parse(text)
    assert (str(target), target.authority) == (shown, authority)
    assert Target.parse(str(target)) == target


@pytest.mark.parametrize(
    "text",
    ["", "unix:", "unix:a.sock", "ftp://x", "http://", "http://x/path", "http://x:0",
     "http://x:65536", "http://u@x:1", "x:1", "http://::1:80"],
)  # fmt: skip
def test_no_targets(text: str) -> None:
    with pytest.raises(ValueError, match=r"needs an absolute path|neither"):
        Target.parse(text)


@pytest.mark.parametrize(
    ("path", "headers"),
    [("/a b", {}), ("/a\r\nX: y", {}), ("/é", {}), ("/", {"X": "a\r\nY: b"}), ("/", {"X:Y": "z"})],
)
async def test_what_would_break_a_request_is_not_sent(path: str, headers: dict[str, str]) -> None:
    heard: list[bytes] = []

    async def listen(peer: RawPeer) -> None:
        heard.append(await peer.pipe.recv())

    async with scripted(listen) as client:
        with pytest.raises(ValueError, match="would break"):
            await client.request("GET", path, headers=headers)
        await trio.testing.wait_all_tasks_blocked()
    assert heard in ([], [b""])
