"""The client's side of TLS: a session that proves the server, and every reason to refuse one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from orchd.kit import fds, http
from orchd.kit.client import Client, PeerError, Target
from orchd.kit.http import Request, Response
from orchd.kit.tls import client_context, secured, server_context
from tests.fakes.certs import make_certificate

LARGE = b"x" * (3 << 20)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_certificate(tmp_path_factory.mktemp("tls"))


async def echo(request: Request) -> Response:
    token = request.headers.get("authorization", "")
    return Response(body=LARGE if request.path == "/large" else token.encode() + request.body)


@asynccontextmanager
async def serving(files: tuple[Path, Path] | None) -> AsyncIterator[int]:
    listener = fds.bind_tcp("127.0.0.1", 0)
    tls = None if files is None else server_context(*files)
    with listener:
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(http.serve, [listener], echo, tls=tls))
            yield int(listener.getsockname()[1])
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_a_server_that_proves_itself_is_spoken_to(
    files: tuple[Path, Path], host: str
) -> None:
    async with serving(files) as port:
        client = Client(Target.parse(f"https://{host}:{port}", files[0]), token="t-o-k-e-n")
        for _ in range(2):  # the second on the kept connection
            answer = await client.request("POST", "/", b"{}")
            assert (answer.status, answer.body) == (200, b"Bearer t-o-k-e-n{}")
        assert (await client.request("GET", "/large")).body == LARGE
        assert str(client.target) == f"https://{host}:{port}"
        client.close()


async def refused(target: Target) -> str:
    client = Client(target)
    with pytest.raises(PeerError) as broken:
        await client.request("GET", "/")
    client.close()
    assert broken.value.phase == "connect"
    return broken.value.why


async def test_a_server_that_nobody_vouches_for_is_refused(files: tuple[Path, Path]) -> None:
    async with serving(files) as port:
        why = await refused(Target.parse(f"https://localhost:{port}"))
        assert "its certificate is not trusted: self-signed" in why


async def test_a_name_that_is_not_the_servers_is_refused(files: tuple[Path, Path]) -> None:
    async with serving(files) as port:
        pipe = await Target.parse(f"http://127.0.0.1:{port}").connect()
        with pytest.raises(OSError, match="not trusted: Hostname mismatch"):
            await secured(pipe, client_context(files[0]), "orchd.example")


async def test_a_server_without_tls_and_a_file_without_certificate_are_said(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    async with serving(None) as port:
        target = f"https://localhost:{port}"
        assert "does it speak TLS?" in await refused(Target.parse(target, files[0]))
        (tmp_path / "empty.pem").write_text("nothing")
        why = await refused(Target.parse(target, tmp_path / "empty.pem"))
        assert "holds no certificate" in why
        assert "cannot read" in await refused(Target.parse(target, tmp_path / "none.pem"))
