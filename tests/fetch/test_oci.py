"""oci: models from a real registry (Debian's docker-registry), with and without a login."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchd.kit import log
from orchd.wire.errors import Kind
from tests.fakes.fileserver import Files, Served
from tests.fetch.making import bring, content, refused, sha256
from tests.lab.needs import REGISTRY, require

pytestmark = pytest.mark.slow
LOGIN = "me:correct horse"
# bcrypt, as htpasswd -B writes it
HASH = "me:$2b$04$abcdefghijklmnopqrstuujydOTSfIH/d5oUHpsygqV5X9xJLQc6e"


def start(folder: Path, more: str = "") -> tuple[subprocess.Popen[bytes], str]:
    """Start a registry and return it with its host:port."""
    require([REGISTRY])
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    config = folder / "config.yml"
    config.write_text(
        f"version: 0.1\nlog: {{level: error}}\n"
        f"storage: {{filesystem: {{rootdirectory: {folder}/data}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\n{more}"
    )
    process = subprocess.Popen(
        ["docker-registry", "serve", str(config)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"OTEL_TRACES_EXPORTER": "none"},
    )
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return process, f"127.0.0.1:{port}"
        except OSError:
            assert process.poll() is None, "the registry ended"
            assert time.monotonic() < deadline, "the registry does not listen"
            time.sleep(0.05)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    process, host = start(tmp_path_factory.mktemp("registry"))
    yield host
    process.kill()
    process.wait()


def push(host: str, files: dict[str, bytes], login: str | None = None, **notes: str) -> str:
    """Put an artifact there as `oras push` does; return its manifest's digest."""
    base = f"http://{host}/v2/org/model"
    headers = {} if login is None else {"Authorization": f"Basic {basic(login)}"}

    def send(method: str, url: str, data: bytes, kind: str) -> str:
        request = urllib.request.Request(
            url, data, {**headers, "Content-Type": kind}, method=method
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            return str(answer.headers.get("Location", ""))

    layers = []
    for name, data in {**files, "": b"{}"}.items():
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        place = send("POST", f"{base}/blobs/uploads/", b"", "application/octet-stream")
        joint = "&" if "?" in place else "?"
        send("PUT", f"{place}{joint}digest={digest}", data, "application/octet-stream")
        layers.append(
            {
                "mediaType": "application/octet-stream",
                "digest": digest,
                "size": len(data),
                "annotations": {"org.opencontainers.image.title": name},
            }
        )
    empty = layers.pop()
    kind = "application/vnd.oci.image.manifest.v1+json"
    config = {**empty, "mediaType": "application/vnd.oci.empty.v1+json", "annotations": {}}
    manifest = {"schemaVersion": 2, "mediaType": kind, "config": config, "layers": layers}
    raw = json.dumps(manifest | notes).encode()
    send("PUT", f"{base}/manifests/v1", raw, kind)
    return f"sha256:{hashlib.sha256(raw).hexdigest()}"


def basic(login: str) -> str:
    return base64.b64encode(login.encode()).decode()


@pytest.mark.req("ORCH-3090", "ORCH-3435")
async def test_an_artifact_by_tag_and_by_digest(registry: str, tmp_path: Path) -> None:
    data = content(300_000)
    digest = push(registry, {"tiny.gguf": data, "LICENSE": b"free"})
    for end in (":v1", f"@{digest}"):
        done = await bring(f"oci://{registry}/org/model{end}", tmp_path)
        assert Path(done.path).name == "tiny.gguf"
        assert done.digest == f"sha256:{sha256(data)}"


async def test_what_is_not_there_is_said(registry: str, tmp_path: Path) -> None:
    error = await refused(f"oci://{registry}/org/none:v1", tmp_path)
    assert "there is no such repository or tag" in error.message


async def test_an_artifact_without_files_is_said(registry: str, tmp_path: Path) -> None:
    push(registry, {"": b"x"})
    error = await refused(f"oci://{registry}/org/model:v1", tmp_path)
    assert "none of its layers is a file" in error.message


@pytest.mark.req("OC-CTRL-2041")
async def test_a_login_is_taken_from_podman_s_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "htpasswd").write_text(HASH + "\n")
    auth = f"auth: {{htpasswd: {{realm: here, path: {tmp_path}/htpasswd}}}}\n"
    process, host = start(tmp_path, auth)
    try:
        push(host, {"m.gguf": b"weights"}, LOGIN)
        error = await refused(f"oci://{host}/org/model:v1", tmp_path)
        assert f"podman login {host}" in error.message
        (tmp_path / "auth.json").write_text(json.dumps({"auths": {host: {"auth": basic(LOGIN)}}}))
        monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "auth.json"))
        with log.capture() as events:
            await bring(f"oci://{host}/org/model:v1", tmp_path)
        assert "correct horse" not in str(events)
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def manifest(files: Files) -> Callable[..., Served]:
    """A registry that wants a token, told by hand: docker-registry gives none itself."""
    blob = b"weights"
    digest = f"sha256:{sha256(blob)}"
    layer = {
        "mediaType": "application/vnd.ollama.image.model",
        "digest": digest,
        "size": len(blob),
    }

    def make(realm: str) -> Served:
        challenge = {"WWW-Authenticate": f'Bearer realm="{realm}",service="s",scope="pull"'}
        files.add(f"/v2/o/m/blobs/{digest}", blob, secret="Bearer tokentokentoken")
        raw = json.dumps({"schemaVersion": 2, "layers": [layer]}).encode()
        return files.add(
            "/v2/o/m/manifests/v1", raw, secret="Bearer tokentokentoken", headers=challenge
        )

    return make


async def test_a_token_is_asked_for_as_registries_say(
    files: Files, manifest: Callable[..., Served], tmp_path: Path
) -> None:
    manifest(f"{files.url}/token")
    files.add("/token", b'{"token": "tokentokentoken"}')
    done = await bring(f"oci://localhost:{files.port}/o/m:v1", tmp_path)
    assert Path(done.path).name == "model.gguf"  # a layer of Ollama's has no name
    assert "/token?service=s&scope=pull" in files.paths()


@pytest.mark.req("ORCH-3206")
async def test_a_realm_elsewhere_is_not_asked_unless_allowed(
    manifest: Callable[..., Served], files: Files, tmp_path: Path
) -> None:
    manifest("https://tokens.example/token")
    error = await refused(f"oci://localhost:{files.port}/o/m:v1", tmp_path)
    assert error.kind is Kind.OUTBOUND_DENIED
    assert "tokens.example" in error.message
