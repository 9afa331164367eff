"""Through a proxy that was named, and through none that the environment names."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import trio.testing
from attrs import evolve

from orchd.kit import fds
from orchd.kit.client import Client, PeerError, Target
from orchd.kit.pipe import Pipe, PipeClosed
from tests.fakes.certs import make_certificate
from tests.kit.test_tls_client import serving


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_certificate(tmp_path_factory.mktemp("tls"))


@contextlib.asynccontextmanager
async def proxy(answer: bytes, asked: list[bytes]) -> AsyncIterator[Target]:
    """A proxy that says `answer` to each CONNECT, and after a 200 carries bytes both ways."""
    listener = fds.bind_tcp("127.0.0.1", 0)
    pipes: list[Pipe] = []

    async def copy(source: Pipe, sink: Pipe) -> None:
        with contextlib.suppress(PipeClosed):
            while data := await source.recv():
                if not sink.send_nowait(data):
                    await sink.flush()
        sink.close()

    async def one(pipe: Pipe) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            data = await pipe.recv()
            if not data:
                return
            head += data
        asked.append(head)
        pipe.send_nowait(answer)
        if b" 200 " not in answer:
            pipe.close()
            return
        authority = head.split()[1].decode()
        there = await Target.parse(f"http://{authority}").connect()
        pipes.append(there)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(copy, pipe, there)
            nursery.start_soon(copy, there, pipe)

    async def accept(nursery: trio.Nursery) -> None:
        while True:
            await trio.lowlevel.wait_readable(listener.fileno())
            pipes.append(Pipe(listener.accept()[0]))
            nursery.start_soon(one, pipes[-1])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept, nursery)
        yield Target(host="127.0.0.1", port=listener.getsockname()[1])
        nursery.cancel_scope.cancel()
    for pipe in pipes:
        pipe.close()
    listener.close()


@pytest.mark.req("OC-ADAPT-OAI-6030", "ORCH-3610")
async def test_tls_goes_through_the_proxy_and_its_key_does_not(files: tuple[Path, Path]) -> None:
    asked: list[bytes] = []
    async with serving(files) as port, proxy(b"HTTP/1.1 200 OK\r\n\r\n", asked) as via:
        target = evolve(Target.parse(f"https://localhost:{port}", files[0]), proxy=via)
        client = Client(target, token="t-o-k-e-n")
        for _ in range(2):
            answer = await client.request("POST", "/", b"{}")
            assert answer.body == b"Bearer t-o-k-e-n{}"
        client.close()
    assert len(asked) == 1, "the connection is kept"
    assert asked[0].startswith(f"CONNECT localhost:{port} HTTP/1.1\r\n".encode())
    assert b"t-o-k-e-n" not in asked[0]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "the proxy answered 407"),
        (b"", "the proxy closed the connection"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "does not speak HTTP"),
    ],
)
async def test_a_proxy_that_refuses_is_told(answer: bytes, words: str) -> None:
    async with proxy(answer, []) as via:
        client = Client(Target(host="localhost", port=9, tls=True, proxy=via))
        with pytest.raises(PeerError) as broken:
            await client.request("GET", "/")
    assert broken.value.phase == "connect"
    assert words in broken.value.why


@pytest.mark.req("OC-ADAPT-OAI-6030")
async def test_the_environment_names_no_proxy(
    files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with serving(files) as port:
        client = Client(Target.parse(f"https://localhost:{port}", files[0]))
        assert (await client.request("GET", "/")).status == 200
        client.close()


@pytest.mark.req("ORCH-3611")
async def test_a_connection_that_does_not_come_about_is_given_up(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A listener that accepts nobody: its backlog is full."""
    listener = fds.bind_tcp("127.0.0.1", 0)
    silent = Target(host="127.0.0.1", port=listener.getsockname()[1])
    client = Client(evolve(silent, tls=True), connect_s=3.0)
    with listener, pytest.raises(PeerError) as broken:
        await client.request("GET", "/", deadline_s=60)
    assert (broken.value.phase, broken.value.why) == ("connect", "no connection within 3 s")


async def test_a_gate_may_forbid_a_request_before_anything_is_sent() -> None:
    async def closed(target: Target, method: str, path: str) -> None:
        raise PermissionError(f"{method} {target}{path}")

    client = Client(Target.parse("http://127.0.0.1:9"), gate=closed)
    with pytest.raises(PermissionError, match=r"GET http://127.0.0.1:9/x"):
        await client.request("GET", "/x")
    with pytest.raises(PermissionError):
        async with client.open("POST", "/y"):
            pass


@pytest.mark.parametrize(
    ("target", "local"),
    [
        ("unix:/run/x.sock", True),
        ("http://127.0.0.1:1", True),
        ("http://[::1]:1", True),
        ("http://localhost:1", True),
        ("https://example.org", False),
        ("http://192.0.2.1:1", False),
    ],
)
def test_what_is_this_machine(target: str, local: bool) -> None:
    assert Target.parse(target).local is local
