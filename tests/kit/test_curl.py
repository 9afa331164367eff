"""The server as curl sees it: both protocols, on TCP, a unix socket and TLS."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import orjson
import pytest
import trio

from orchd.kit import fds, http
from orchd.kit.sink import Sink
from orchd.kit.tls import server_context
from tests.fakes.certs import make_certificate
from tests.fakes.peers import short_folder

pytestmark = pytest.mark.req("OC-CTRL-2025", "ORCH-3450")


def _speaks_http2() -> bool:
    if shutil.which("curl") is None:
        return False
    said = subprocess.run(["curl", "--version"], capture_output=True, text=True, check=True)
    return "HTTP2" in said.stdout


if not _speaks_http2():
    pytest.skip("needs a curl that speaks HTTP/2", allow_module_level=True)


async def handler(request: http.Request) -> http.Answer:
    if request.path == "/stream":

        async def run(sink: Sink) -> None:
            for number in range(3):
                sink.send_nowait(b"data: %d\n\n" % number)
                await trio.lowlevel.checkpoint()

        return http.Streaming("text/event-stream", run)
    if request.path == "/big":
        return http.Response(body=bytes(1 << 20))
    return http.json_response(
        {"path": request.path, "size": len(request.body), "host": request.headers["host"]}
    )


class Served:
    def __init__(self, folder: Path, tcp: int, tls: int) -> None:
        self.folder, self.tcp, self.tls = folder, tcp, tls

    async def curl(self, *arguments: str) -> tuple[str, int, bytes]:
        """Return version and status as curl writes them, and the body."""
        argv = [
            "curl",
            "-sS",
            "-m",
            "10",
            "-w",
            "%{stderr}%{http_version} %{http_code}",
            *arguments,
        ]
        done = await trio.run_process(
            argv, capture_stdout=True, capture_stderr=True, env=dict(os.environ, no_proxy="*")
        )
        version, _, status = done.stderr.decode().rpartition(" ")
        return version, int(status), done.stdout


@asynccontextmanager
async def serving() -> AsyncIterator[Served]:
    with short_folder() as folder, fds.bind_tcp("127.0.0.1", 0) as tcp:
        context = server_context(*make_certificate(folder))
        with fds.bind_unix(folder / "s") as unix, fds.bind_tcp("127.0.0.1", 0) as secure:
            async with trio.open_nursery() as nursery:
                await nursery.start(partial(http.serve, [tcp, unix], handler))
                await nursery.start(partial(http.serve, [secure], handler, tls=context))
                yield Served(folder, tcp.getsockname()[1], secure.getsockname()[1])
                nursery.cancel_scope.cancel()


async def test_every_way_in() -> None:
    """The same answers, whatever the client asks for and can."""
    async with serving() as served:
        plain, tls = f"http://127.0.0.1:{served.tcp}", f"https://localhost:{served.tls}"
        unix = ["--unix-socket", str(served.folder / "s")]
        trust = ["--cacert", str(served.folder / "cert.pem")]
        ways = [
            ("1.1", plain, ["--http1.1"]),
            ("1.1", plain, ["--http2"]),  # asks for an upgrade, which is not taken
            ("2", plain, ["--http2-prior-knowledge"]),
            ("1.1", "http://x", [*unix]),
            ("2", "http://x", ["--http2-prior-knowledge", *unix]),
            ("2", tls, ["--http2", *trust]),
            ("1.1", tls, ["--http1.1", *trust]),
            ("2", tls, ["--http2", "--tls-max", "1.2", *trust]),
        ]
        for version, url, how in ways:
            got = await served.curl(f"{url}/a%20b", *how)
            assert got[:2] == (version, 200)
            host = url.partition("://")[2]
            assert orjson.loads(got[2]) == {"path": "/a b", "size": 0, "host": host}
            got = await served.curl(f"{url}/stream", *how)
            assert got == (version, 200, b"data: 0\n\ndata: 1\n\ndata: 2\n\n")


async def test_bodies_both_ways() -> None:
    async with serving() as served:
        upload = served.folder / "body"
        upload.write_bytes(bytes(3 << 20))
        plain = [f"http://127.0.0.1:{served.tcp}", "--http2-prior-knowledge"]
        tls = [
            f"https://localhost:{served.tls}",
            "--http2",
            "--cacert",
            str(served.folder / "cert.pem"),
        ]
        for url, *how in (plain, tls):
            got = await served.curl(f"{url}/", *how, "--data-binary", f"@{upload}")
            assert orjson.loads(got[2])["size"] == 3 << 20
            got = await served.curl(f"{url}/big", *how)
            assert (got[:2], len(got[2])) == (("2", 200), 1 << 20)
            got = await served.curl(f"{url}/", *how, "-I")
            assert got[:2] == ("2", 200)


async def test_an_answer_before_the_body_is_read() -> None:
    """curl 7.88 would report a broken stream if the reset came with the answer."""
    async with serving() as served:
        upload = served.folder / "body"
        upload.write_bytes(bytes(9 << 20))
        url, how = f"http://127.0.0.1:{served.tcp}/", "--http2-prior-knowledge"
        for way in (["--data-binary", f"@{upload}"], ["-T", str(upload)]):
            version, status, body = await served.curl(url, how, *way)
            assert (version, status) == ("2", 413)
            assert orjson.loads(body)["code"] == "INVALID_PARAMS"
        got = await served.curl(url, how, "-H", "X: " + "y" * 40_000)
        assert got[:2] == ("2", 431)


async def test_a_certificate_that_is_not_trusted_is_refused_by_curl() -> None:
    async with serving() as served:
        with pytest.raises(subprocess.CalledProcessError) as caught:
            await served.curl(f"https://localhost:{served.tls}/")
        assert caught.value.returncode == 60  # peer certificate cannot be authenticated
