"""Building from source, by git, cmake and a compiler that are real: up to CUDA, which is not."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from orchd.wire.errors import TABLE, Kind
from poolmgr.provision.bringing.source import version_of
from tests.lab.fake_llama import commit_of, repository, stub_nvcc
from tests.lab.nvml import FakeNvml
from tests.poolmgr.provision.bringing import finished

pytestmark = pytest.mark.slow
FAILED = TABLE[Kind.PROVISION_FAILED].exit_code


def source(repository, tag="b1", more="") -> str:
    return f'mode = "source"\nsource.git = {{ repo = "{repository}", ref = "{tag}" }}\n{more}'


@pytest.mark.req("ORCH-3201", "ORCH-3440", "ORCH-3441", "ORCH-3805", "ORCH-3490", "ORCH-3432")
def test_it_is_built_checked_registered_and_not_built_again(place, llama_repository):
    place.write(source(llama_repository))
    done = place.run("provision", "--json")
    assert done.code == 0, done.events
    told = ["engine_source", "engine_configure", "engine_build", "engine_check", "engine_ready"]
    assert [name for name in done.names() if name in told] == told
    ((name, entry),) = place.entries().items()
    prepared = json.loads(done.out)
    assert prepared["engine_catalog_id"] == name == entry.id
    assert prepared["entry"] == entry.artifacts[0] == str(place.cache / name / "bin/llama-server")
    assert (entry.engine, entry.mode, entry.version) == ("llamacpp", "source", "b1234-abcdef0")
    assert entry.build_ref == commit_of(llama_repository, "b1")
    assert "-DGGML_CUDA=ON" in entry.build_flags
    assert "-DCMAKE_CUDA_ARCHITECTURES=90" in entry.build_flags
    # neither source nor objects stay, but the log does
    assert sorted(path.name for path in (place.cache / name).rglob("*")) == ["bin", "llama-server"]
    assert not (place.cache / f"{name}.part").exists()
    (log,) = (place.cache / "logs").iterdir()
    assert entry.log == str(log)
    text = log.read_text()
    assert "$ cmake -S" in text
    assert "CUDA0: NVIDIA Fake" in text
    again = place.run("provision")
    assert again.code == 0
    assert "engine_here" in again.names()
    assert "engine_build" not in again.names()
    # whoever removes it gets it again
    (place.cache / name / "bin/llama-server").unlink()
    assert "engine_build" in place.run("provision").names()


@pytest.mark.req("ORCH-3437", "ORCH-3431")
def test_a_build_without_cuda_is_refused_and_leaves_nothing(place, llama_repository):
    place.write(source(llama_repository, "cpu"))
    done = place.run("provision")
    assert done.code == TABLE[Kind.CPU_FALLBACK].exit_code
    assert "was built without CUDA" in done.last()
    assert place.entries() == {}
    assert [path.name for path in place.cache.glob("*.part")] == []


@pytest.mark.req("ORCH-3431", "ORCH-3433")
def test_where_cmake_finds_no_cuda_nothing_is_built_for_the_cpu(place, llama_repository):
    place.write(source(llama_repository, "broken"))
    done = place.run("provision")
    assert done.code == FAILED
    assert "cmake cannot build with CUDA, and nothing is built for the CPU" in done.last()
    assert "Could not find nvcc" in done.last()
    assert "sudo pacman -S --needed cuda" in done.last()
    assert "engine_build" not in done.names()


def test_root_builds_as_the_owner_of_the_cache(place, llama_repository, lab_cache):
    if os.geteuid() != 0:
        pytest.skip("for root alone")
    owner = pwd.getpwnam("nobody").pw_uid
    with TemporaryDirectory(prefix="lab-cache-") as name:
        folder = Path(name)
        shutil.copytree(llama_repository, folder / "git")
        (folder / "engines").mkdir()
        for path in (folder, *folder.rglob("*")):
            os.chown(path, owner, owner)
        place.write(source(folder / "git", more=f'source.cache_dir = "{folder}/engines"'))
        # compiler and driver where that user may see them: pytest's folders are closed
        folder.chmod(0o755)
        place.env.update(FakeNvml.create(lab_cache, folder / "nvml").env)
        place.env["PATH"] = f"{stub_nvcc(folder / 'tools')}:{os.environ['PATH']}"
        done = place.run("provision", "--json")
        assert done.code == 0, done.events
        assert Path(json.loads(done.out)["entry"]).stat().st_uid == owner


def test_a_repository_of_another_user_is_read(place, tmp_path):
    if os.geteuid() != 0:
        pytest.skip("for root alone")
    with TemporaryDirectory(prefix="lab-git-") as name:
        theirs = repository(Path(name) / 'a "llama"')
        for path in (theirs, *theirs.rglob("*")):
            os.chown(path, pwd.getpwnam("nobody").pw_uid, 0)
        # git itself would not, whatever the operator's own configuration says
        refused = subprocess.run(
            ["git", "-C", str(theirs), "log"], capture_output=True, check=False
        )
        assert b"dubious ownership" in refused.stderr
        place.write(f'mode = "source"\nsource.git = {{ repo = \'{theirs}\', ref = "b1" }}')
        assert place.run("provision").code == 0


@pytest.mark.req("ORCH-3206", "ORCH-3080")
def test_a_build_downloads_nothing(place, llama_repository):
    """llama.cpp's own would: its page for browsers, from the Hub."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/page"
        place.write(source(llama_repository, more=f'source.build.cmake_flags = ["-DASK={url}"]'))
        done = place.run("provision")
        assert done.code == FAILED
        assert "the download said" in done.last()
        with pytest.raises(BlockingIOError):
            server.accept()


@pytest.mark.parametrize(
    ("said", "ref", "version"),
    [
        ("version: 0.7.0 (build 11669, commit ff45176)\nbuilt with", "b11669", "b11669-ff45176"),
        ("version: 6500 (a1b2c3d)", "b6500", "b6500-a1b2c3d"),
        ("version: 0.7.0 (build 0, commit ff45176)", "v0.7.0", "v0.7.0-ff45176"),
        ("version: 0.7.0 (build 0, commit ff45176)", "a" * 40, "ff45176"),
        ("something else", "v0.7.0", "v0.7.0"),
    ],
)
def test_a_build_is_called_what_it_calls_itself(said, ref, version):
    assert version_of(said, ref, "a" * 40) == version


@pytest.mark.req("ORCH-3803")
def test_without_a_driver_nothing_is_begun(place, llama_repository, fake_nvml):
    fake_nvml.unload_driver()
    place.write(source(llama_repository))
    done = place.run("provision")
    assert done.code == TABLE[Kind.PROVISION_FAILED].exit_code
    assert "sudo pacman -S --needed nvidia-open nvidia-utils" in done.last()
    assert not place.cache.exists()


def test_a_ref_that_is_not_there_says_so(place, llama_repository):
    # a branch is no tag: it would be another program tomorrow
    place.write(source(llama_repository, "main"))
    done = place.run("provision")
    assert done.code == FAILED
    assert "refs/tags/main" in done.last()


@pytest.mark.req("ORCH-3206", "ORCH-3080")
def test_git_asks_the_rules_before_it_asks_anybody(place):
    how = 'mode = "source"\nsource.git.repo = "https://git.example.invalid/llama"'
    place.write(how, more="policy.outbound.enabled = false\n")
    done = place.run("provision")
    assert done.code == TABLE[Kind.OUTBOUND_DENIED].exit_code
    assert "policy.outbound.enabled is false" in done.last()
    assert "outbound_denied" in done.names()


def test_two_at_a_time_build_once(place, llama_repository):
    place.write(source(llama_repository))
    first, second = place.start("provision"), place.start("provision")
    ends = [finished(first), finished(second)]
    assert [end.code for end in ends] == [0, 0]
    assert sum("engine_build" in end.names() for end in ends) == 1
    assert len(place.entries()) == 1


def test_a_stop_ends_the_compiler_too_and_leaves_no_half_engine(place, llama_repository):
    place.write(source(llama_repository, "slow"))
    process = place.start("provision")
    lines = []
    assert process.stderr is not None
    for line in process.stderr:
        lines.append(line)
        if "engine_build" in line:
            break
    time.sleep(0.5)  # the compiler is at work
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert time.monotonic() - began < 10
    assert process.returncode == TABLE[Kind.CANCELED].exit_code
    assert place.entries() == {}
    assert [path.name for path in place.cache.glob("*.part")] == []


@pytest.mark.req("ORCH-3207")
def test_plan_changes_nothing_and_says_the_same_twice(place, llama_repository):
    place.write(source(llama_repository))
    first, second = place.run("plan", "--json"), place.run("plan", "--json")
    assert (first.code, first.out) == (0, second.out)
    said = json.loads(first.out)
    assert [step["step"] for step in said["steps"]] == [
        "clone", "configure", "build", "check_cuda", "register",
    ]  # fmt: skip
    assert said["problems"] == []
    assert "1. clone" in place.run("plan").out
    assert not place.cache.exists()


@pytest.mark.req("ORCH-3207")
def test_the_log_is_an_artifact_where_orchd_answers(place, llama_repository):
    path = place.write(source(llama_repository, "cpu"))
    path.write_text(f'bind_addr = "127.0.0.1:0"\n{path.read_text()}')
    argv = [sys.executable, "-m", "orchd", "--config", str(path), "--log", "json"]
    with (place.folder / "orchd.log").open("wb") as log:
        orchd = subprocess.Popen(argv, env=place.environment(), stdout=log, stderr=log)
    try:
        socket = place.folder / "run/orchd/orchd.sock"
        until = time.monotonic() + 15
        while not socket.exists() and time.monotonic() < until:
            time.sleep(0.05)
        done = place.run("provision")
        assert "provision_log_stored" in done.names(), done.events
        url = "http://orchd/v1/artifacts?tag=provision"
        asked = ["curl", "-s", "--unix-socket", str(socket), url]
        said = json.loads(subprocess.run(asked, capture_output=True, check=True).stdout)
        (artifact,) = said["artifacts"]
        assert (artifact["kind"], artifact["tags"]) == ("trace", ["pool:llama", "provision"])
        assert artifact["metadata"]["engine_catalog_id"].startswith("llamacpp-source-cpu-")
    finally:
        orchd.terminate()
        orchd.wait(30)
