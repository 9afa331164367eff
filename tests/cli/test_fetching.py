"""`orchctl models fetch`: from a real server into the cache of whoever asks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchd.kit.http import json_response
from orchd.wire.errors import Kind, OrchError
from tests.cli.test_catalog import CACHE, MODELS, model
from tests.fakes.certs import make_certificate
from tests.fakes.fileserver import Files
from tests.fetch.making import content, sha256

pytestmark = pytest.mark.slow


@pytest.fixture
def secure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Files]:
    cert, key = make_certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(cert))
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path / "cache"))
    server = Files((cert, key))
    yield server
    server.close()


@pytest.mark.req("ORCH-3090", "ORCH-3436")
def test_a_reference_is_fetched_once(secure: Files, tmp_path: Path, orchctl) -> None:
    data = content(300_000)
    secure.add("/m.gguf", data)
    ref = f"{secure.url}/m.gguf"
    ran = orchctl("models", "fetch", ref)
    assert ran.code == 0, ran.err
    assert f"sha256:{sha256(data)}" in ran.err
    assert Path(ran.out.strip()).read_bytes() == data
    again = orchctl("models", "fetch", "--json", ref)
    assert json.loads(again.out)["fetched_bytes"] == 0
    assert "It was here already" in orchctl("models", "fetch", ref).err


@pytest.mark.req("ORCH-3436")
def test_what_came_is_registered_where_orchd_answers(secure: Files, orchctl, peer) -> None:
    secure.add("/m.gguf", b"model")
    ref = f"{secure.url}/m.gguf?sig=canary"
    peer.say("GET", CACHE, json_response({"cached": []}))
    ran = orchctl("models", "fetch", "--url", peer.url, ref)
    path = ran.out.strip()
    assert ran.code == 0
    assert f"not registered in the catalog: this orchd does not see {path}" in ran.err
    digest = f"sha256:{sha256(b'model')}"
    held = {
        "ref": f"{secure.url}/m.gguf", "path": path, "size_bytes": 5, "digest": digest,
        "verified_ms": 1, "models": [],
    }  # fmt: skip
    peer.say("GET", CACHE, json_response({"cached": [held]}))
    taken = OrchError(Kind.MODEL_EXISTS, "$.id: the catalog has another model m")
    second = f"m-{digest[7:15]}"
    peer.say("POST", MODELS, taken, json_response(model(second, digest=digest), 201))
    ran = orchctl("models", "fetch", "--url", peer.url, ref)
    assert (ran.code, f"The catalog has it as {second}" in ran.err) == (0, True)
    sent = [json.loads(asked.body) for asked in peer.asked(MODELS)]
    said = {"digest": digest, "source_url": f"{secure.url}/m.gguf"}
    assert sent == [{"id": "m", **said}, {"id": second, **said}]
    peer.say("GET", CACHE, json_response({"cached": [held | {"models": ["known"]}]}))
    ran = orchctl("models", "fetch", "--json", "--url", peer.url, ref)
    assert json.loads(ran.out)["model_id"] == "known"
    assert len(peer.asked(MODELS)) == 2
    peer.say("GET", CACHE, OrchError(Kind.MISSING_TOKEN, "a token is needed"))
    ran = orchctl("models", "fetch", "--json", "--url", peer.url, ref)
    assert (ran.code, "model_id" in json.loads(ran.out)) == (0, False)
    assert "not registered in the catalog" in ran.err
    assert "canary" not in ran.err


@pytest.mark.req("ORCH-3206")
def test_the_rules_of_the_configuration_hold(secure: Files, orchctl, folder: Path) -> None:
    (folder / "off.toml").write_text("[policy.outbound]\nenabled = false\n")
    ran = orchctl("models", "fetch", "--config", str(folder / "off.toml"), f"{secure.url}/m.gguf")
    assert ran.code == 77
    assert "policy.outbound.enabled is false" in ran.err
    assert "Next: Change the named key" in ran.err
    assert secure.asked == []


def test_the_models_of_the_configuration(secure: Files, orchctl, folder: Path) -> None:
    secure.add("/a.gguf", b"a")
    secure.add("/b.gguf", b"b")
    pools = "".join(
        f'[[pools]]\nid = "{name}"\nengine = {{ id = "llamacpp" }}\nctx = 9\ndevices = [{index}]\n'
        f'model = {{ ref = "{ref}", cache_dir = "{folder}/kept" }}\n'
        for index, (name, ref) in enumerate(
            [("a", f"{secure.url}/a.gguf"), ("b", f"{secure.url}/b.gguf"), ("c", "/x.gguf")]
        )
    )
    (folder / "orchd.toml").write_text(pools)
    ran = orchctl("models", "fetch", "--json", "--config", str(folder / "orchd.toml"))
    paths = [Path(json.loads(line)["path"]) for line in ran.out.splitlines()]
    assert [path.read_bytes() for path in paths] == [b"a", b"b"]
    assert all(path.is_relative_to(folder / "kept") for path in paths)
    # one of them by its name goes to the same place: where its pool looks
    config = ("--config", str(folder / "orchd.toml"))
    named = orchctl("models", "fetch", "--json", *config, f"{secure.url}/a.gguf")
    assert Path(json.loads(named.out)["path"]) == paths[0]
    (folder / "none.toml").write_text("")
    assert "names no model" in orchctl("models", "fetch", "--config", str(folder / "none.toml")).err


def test_a_reference_that_is_none_is_wrong_usage(orchctl) -> None:
    ran = orchctl("models", "fetch", "m.gguf")
    assert ran.code == 2
    assert "must be hf:, https:, s3: or oci:" in ran.err
    for file in ("file:/srv/m.gguf", "/srv/m.gguf", "./m.gguf"):
        ran = orchctl("models", "fetch", file)
        assert (ran.code, "is a file of this machine" in ran.err) == (2, True)
    ran = orchctl("models", "fetch", f"https://host/{'x' * 3000}")
    assert (ran.code, len(ran.err) < 600) == (2, True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run it as somebody else")
def test_as_root_it_runs_as_the_cache_s_owner(secure: Files, tmp_path: Path, orchctl) -> None:
    try:
        subprocess.run([sys.executable, "-c", ""], user=12345, check=True)
    except PermissionError:
        pytest.skip(f"needs a Python that everybody may run, not {sys.executable}")
    secure.add("/m.gguf", b"m")
    for path in (tmp_path, *tmp_path.parents[:-2]):
        path.chmod(0o755)
    cache = tmp_path / "cache"
    cache.mkdir()
    os.chown(cache, 12345, 12345)
    ran = orchctl("models", "fetch", f"{secure.url}/m.gguf")
    assert ran.code == 0, ran.err
    assert {path.stat().st_uid for path in cache.rglob("*")} == {12345}
