"""TLS on the TCP listener: ALPN, both protocols, endings, and what is no TLS."""

from __future__ import annotations

import ssl
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from orchd.kit import fds, http, log
from orchd.kit.pipe import Pipe, PipeClosed
from orchd.kit.sink import Sink
from orchd.kit.target import Target
from orchd.kit.tls import server_context
from orchd.wire.errors import Kind, OrchError
from tests.fakes.certs import make_certificate
from tests.fakes.h2_peer import H2Peer
from tests.fakes.peers import RawPeer

pytestmark = pytest.mark.req("OC-CTRL-2025", "ORCH-3450")


@pytest.fixture(scope="module")
def files() -> Iterator[tuple[Path, Path]]:
    with tempfile.TemporaryDirectory() as folder:
        yield make_certificate(Path(folder))


async def handler(request: http.Request) -> http.Answer:
    if request.path == "/stream":

        async def run(sink: Sink) -> None:
            for number in range(3):
                sink.send_nowait(b"%d" % number)
                await trio.lowlevel.checkpoint()
            if request.query:
                sink.abort()

        return http.Streaming("text/plain", run)
    if request.path == "/big":
        return http.Response(body=bytes(3 << 20))
    return http.Response(200, b"%d" % len(request.body))


class TlsClient(Pipe):
    """The client's side of a session, over a pipe: no code of the server's side."""

    def __init__(self, pipe: Pipe, context: ssl.SSLContext) -> None:
        super().__init__(pipe.sock)
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._in, self._out, server_hostname="localhost")
        self.notified = False
        """The server ended the session in order."""

    __slots__ = ("_in", "_out", "notified", "tls")

    async def handshake(self) -> None:
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                super().send_nowait(self._out.read())
                self._in.write(await super().recv())
            else:
                super().send_nowait(self._out.read())
                return

    async def recv(self, max_bytes: int = 65536) -> bytes:
        while True:
            try:
                data = self.tls.read(max_bytes)
            except ssl.SSLWantReadError:
                records = await super().recv()
                if not records:
                    return b""
                self._in.write(records)
            else:
                self.notified = not data
                return data

    def send_nowait(self, data: bytes) -> bool:
        if not data:
            return True
        self.tls.write(data)
        return super().send_nowait(self._out.read())


class Served:
    def __init__(self, target: Target, context: ssl.SSLContext) -> None:
        self.target, self.context = target, context
        self.stop = trio.Event()

    async def connect(self, *protocols: str, version: str | None = None) -> TlsClient:
        context = self.context
        context.set_alpn_protocols(list(protocols) or ["x-none"])
        if version is not None:
            context.maximum_version = ssl.TLSVersion[version]
        client = TlsClient(await self.target.connect(), context)
        await client.handshake()
        return client


@asynccontextmanager
async def serving_tls(files: tuple[Path, Path], **options: Any) -> AsyncIterator[Served]:
    context = ssl.create_default_context(cafile=str(files[0]))
    with fds.bind_tcp("127.0.0.1", 0) as listener:
        host, port = listener.getsockname()
        served = Served(Target(host=host, port=port), context)
        async with trio.open_nursery() as nursery:
            await nursery.start(
                partial(
                    http.serve,
                    [listener],
                    handler,
                    tls=server_context(*files),
                    stop=served.stop,
                    **options,
                )
            )
            yield served
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
async def test_http2_by_alpn(files: tuple[Path, Path], version: str) -> None:
    async with serving_tls(files) as served:
        client = await served.connect("h2", "http/1.1", version=version)
        assert client.tls.selected_alpn_protocol() == "h2"
        assert client.tls.version() == version.replace("_", ".")
        peer = H2Peer(client)
        peer.h2.initiate_connection()
        await peer.flush()
        assert (await peer.ask("/stream")).body == b"012"
        assert (await peer.ask("/", "POST", bytes(1 << 20))).body == b"1048576"
        assert len((await peer.ask("/big")).body) == 3 << 20
        client.close()


@pytest.mark.parametrize("protocols", [("http/1.1",), ("x-other",)])
async def test_http1_otherwise(files: tuple[Path, Path], protocols: tuple[str, ...]) -> None:
    async with serving_tls(files) as served:
        client = await served.connect(*protocols)
        peer = RawPeer(client)
        assert (await peer.ask("/stream")).body == b"012"
        assert (await peer.ask("/", "POST", bytes(100_000))).body == b"100000"
        assert len((await peer.ask("/big")).body) == 3 << 20
        client.close()


async def test_a_preface_without_alpn_is_no_request(files: tuple[Path, Path]) -> None:
    async with serving_tls(files) as served:
        client = await served.connect("http/1.1")
        peer = RawPeer(client)
        await peer.say(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert (await peer.recv()).startswith(b"HTTP/1.1 400 ")
        client.close()


async def test_plain_http_is_told_so(files: tuple[Path, Path]) -> None:
    async with serving_tls(files) as served:
        peer = RawPeer(await served.target.connect())
        got = await peer.ask()
        assert got.status == 400
        assert b"https://" in got.body
        assert got.headers["x-correlation-id"]
        peer.pipe.close()


@pytest.mark.parametrize(
    "data", [b"\x16\x03\x01\x00\x05hello", b"\x00" * 99, b"SSH-2.0-x\r\n", b""]
)
async def test_what_is_no_handshake_ends(
    files: tuple[Path, Path], data: bytes, autojump_clock: object
) -> None:
    with log.capture() as events:
        async with serving_tls(files) as served:
            pipe = await served.target.connect()
            pipe.send_nowait(data) if data else None
            began = trio.current_time()
            try:
                while await pipe.recv():
                    pass
            except PipeClosed:
                pass
            assert trio.current_time() - began == pytest.approx(0 if data else 10)
            pipe.close()
    assert [event for event in events if event["level"] != "debug"] == []


async def test_a_broken_record_ends_the_connection(files: tuple[Path, Path]) -> None:
    with log.capture() as events:
        async with serving_tls(files) as served:
            client = await served.connect("http/1.1")
            assert (await RawPeer(client).ask()).status == 200
            Pipe.send_nowait(client, b"\x17\x03\x03\x00\x20" + bytes(32))
            with pytest.raises((ssl.SSLError, PipeClosed)):  # the alert
                await client.recv()
            client.close()
    assert [event for event in events if event["level"] != "debug"] == []


async def test_the_end_is_said_and_a_cut_is_not(files: tuple[Path, Path]) -> None:
    async with serving_tls(files) as served:
        client = await served.connect("http/1.1")
        peer = RawPeer(client)
        await peer.say(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        await peer.to_end()
        assert client.notified
        client.close()
        client = await served.connect("http/1.1")
        peer = RawPeer(client)
        await peer.say(b"GET /stream?cut=1 HTTP/1.1\r\nHost: x\r\n\r\n")
        with pytest.raises(PipeClosed):
            await peer.to_end()
        assert not client.notified
        client.close()


async def test_an_idle_session_is_ended_in_order(
    files: tuple[Path, Path], autojump_clock: object
) -> None:
    async with serving_tls(files) as served:
        for protocol in ("h2", "http/1.1"):
            client = await served.connect(protocol)
            peer = RawPeer(client)
            if protocol == "h2":
                await peer.say(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")
            await peer.to_end()
            assert client.notified
            client.close()


async def test_stop_closes_the_idle(files: tuple[Path, Path]) -> None:
    async with serving_tls(files) as served:
        client = await served.connect("http/1.1")
        peer = RawPeer(client)
        await peer.ask()
        await trio.testing.wait_all_tasks_blocked()
        served.stop.set()
        assert await peer.to_end() == b""
        client.close()


async def test_a_stuck_reader_keeps_its_bound(
    files: tuple[Path, Path], autojump_clock: object
) -> None:
    async with serving_tls(files) as served:
        client = await served.connect("http/1.1")
        await RawPeer(client).say(b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n" * 3)
        await trio.sleep(31)
        total = 0
        try:
            while data := await client.recv():
                total += len(data)
        except (PipeClosed, ssl.SSLError):
            pass
        assert total < 9 << 20
        client.close()


@pytest.mark.parametrize(
    "names",
    [("none", "key.pem"), ("cert.pem", "cert.pem"), ("key.pem", "key.pem"), (".", "key.pem")],
)
def test_files_that_cannot_be_used(files: tuple[Path, Path], names: tuple[str, str]) -> None:
    folder = files[0].parent
    with pytest.raises(OrchError, match="tls: ") as caught:
        server_context(folder / names[0], folder / names[1])
    assert caught.value.kind is Kind.CONFIG_INVALID


def test_a_key_with_a_passphrase_is_refused(files: tuple[Path, Path], tmp_path: Path) -> None:
    locked = tmp_path / "locked.pem"
    subprocess.run(
        ["openssl", "pkey", "-in", str(files[1]), "-aes256", "-passout", "pass:x", "-out", locked],
        check=True,
        capture_output=True,
    )
    with pytest.raises(OrchError, match="passphrase"):
        server_context(files[0], locked)
