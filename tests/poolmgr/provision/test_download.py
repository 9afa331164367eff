"""A binary from a server, with what may be wrong with it: a whole run of the operator's program."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchd.wire.errors import TABLE, Kind
from tests.fakes.certs import make_certificate
from tests.fakes.fileserver import Files
from tests.lab.fake_llama import MAIN
from tests.lab.needs import GCC, require
from tests.poolmgr.provision.bringing import Place
from tests.poolmgr.provision.test_unpack import tar

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A llama-server with CUDA and one without, as far as anybody can see."""
    require((GCC,))
    folder = tmp_path_factory.mktemp("programs")
    (folder / "main.c").write_text(MAIN)
    found = {}
    for name, flags in (("cuda", ["-DGGML_CUDA"]), ("cpu", [])):
        out = str(folder / name)
        subprocess.run(["gcc", *flags, "-o", out, str(folder / "main.c")], check=True)
        found[name] = (folder / name).read_bytes()
    return found


@pytest.fixture
def server(place: Place, tmp_path: Path) -> Iterator[Files]:
    """A server that the programs we start trust."""
    cert, key = make_certificate(tmp_path)
    place.env["SSL_CERT_FILE"] = str(cert)
    files = Files((cert, key))
    yield files
    files.close()


def binary(server: Files, path: str, data: bytes, *, allow: bool = True, checksum: str = "") -> str:
    checksum = checksum or hashlib.sha256(data).hexdigest()
    return (
        f'mode = "binary"\nbinary = {{ url = "{server.url}{path}", '
        f'checksum = "sha256:{checksum}" }}\n'
        f"allow_binary_downloads = {str(allow).lower()}"
    )


def archive(folder: Path, program: bytes) -> bytes:
    members = [("llama/bin/llama-server", program), ("llama/LICENSE", b"MIT")]
    made: Path = tar(folder / "made.tar.gz", *members)
    return made.read_bytes()


@pytest.mark.req("ORCH-3201", "ORCH-3805", "OC-CONFIG-6025")
def test_an_archive_is_fetched_checked_unpacked_and_registered(place, server, programs, tmp_path):
    data = archive(tmp_path, programs["cuda"])
    server.add("/llama.tar.gz", data, cut_after=2000, cuts=1)  # it breaks off once
    place.write(binary(server, "/llama.tar.gz", data))
    done = place.run("provision")
    assert done.code == 0, done.events
    ((name, entry),) = place.entries().items()
    program = place.cache / name / "files/llama/bin/llama-server"
    assert entry.artifacts == (str(program),)
    assert program.read_bytes() == programs["cuda"]
    assert entry.digest == f"sha256:{hashlib.sha256(programs['cuda']).hexdigest()}"
    assert entry.build_ref == f"{server.url}/llama.tar.gz"
    # what was downloaded is gone, once it is unpacked
    kept = {path.suffix for path in (place.cache / "downloads").rglob("*") if path.is_file()}
    assert kept == {".lock"}
    asked = len(server.asked)
    assert "engine_here" in place.run("provision").names()
    assert len(server.asked) == asked


def test_a_bare_program_is_one_too(place, server, programs):
    server.add("/llama-server-linux", programs["cuda"])
    place.write(binary(server, "/llama-server-linux", programs["cuda"]))
    assert place.run("provision").code == 0
    (entry,) = place.entries().values()
    assert Path(entry.artifacts[0]).name == "llama-server-linux"


@pytest.mark.req("ORCH-3437")
def test_one_for_the_cpu_is_refused(place, server, programs):
    server.add("/llama-server", programs["cpu"])
    place.write(binary(server, "/llama-server", programs["cpu"]))
    done = place.run("provision")
    assert done.code == TABLE[Kind.CPU_FALLBACK].exit_code
    assert place.entries() == {}


def test_another_digest_is_thrown_away(place, server, programs):
    server.add("/llama-server", programs["cuda"])
    place.write(binary(server, "/llama-server", b"", checksum="0" * 64))
    done = place.run("provision")
    assert done.code == TABLE[Kind.DIGEST_MISMATCH].exit_code
    assert place.entries() == {}
    assert programs["cuda"] not in [
        path.read_bytes() for path in place.cache.rglob("*") if path.is_file()
    ]


def test_an_archive_that_leads_out_or_is_cut_off_leaves_nothing(place, server, tmp_path, programs):
    evil = tar(tmp_path / "e.tar.gz", ("../../evil", b"x")).read_bytes()
    cut = archive(tmp_path, programs["cuda"])[:-1000]
    for path, data in (("/evil.tar.gz", evil), ("/cut.tar.gz", cut)):
        server.add(path, data)
        place.write(binary(server, path, data))
        done = place.run("provision")
        assert done.code == TABLE[Kind.PROVISION_FAILED].exit_code, done.events
    assert place.entries() == {}
    assert list(tmp_path.rglob("evil")) == []
    assert list(place.cache.glob("*.part")) == []


@pytest.mark.req("OC-CONFIG-6027", "ORCH-3203")
def test_nothing_is_asked_for_unless_that_is_allowed(place, server, programs):
    place.write(binary(server, "/llama-server", programs["cuda"], allow=False))
    done = place.run("provision")
    assert done.code == TABLE[Kind.PROVISION_FAILED].exit_code
    assert f"curl -fLO '{server.url}/llama-server' && echo" in done.last()
    assert server.asked == []


@pytest.mark.req("ORCH-3206")
def test_the_off_switch_holds_for_downloads(place, server, programs):
    server.add("/llama-server", programs["cuda"])
    place.write(
        binary(server, "/llama-server", programs["cuda"]),
        more="policy.outbound.enabled = false",
    )
    done = place.run("provision")
    assert done.code == TABLE[Kind.OUTBOUND_DENIED].exit_code
    assert server.asked == []
