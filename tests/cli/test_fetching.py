"""`orchctl models fetch`: from a real server into the cache of whoever asks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

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
    (folder / "none.toml").write_text("")
    assert "names no model" in orchctl("models", "fetch", "--config", str(folder / "none.toml")).err


def test_a_reference_that_is_none_is_wrong_usage(orchctl) -> None:
    ran = orchctl("models", "fetch", "m.gguf")
    assert ran.code == 2
    assert "must be hf:, https:, s3: or oci:" in ran.err


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
