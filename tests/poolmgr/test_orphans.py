"""What a poolmgr that was killed leaves running is found by the next one, and nothing else is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from orchd.kit.client import Target
from poolmgr.core.orphans import MARK, Mark
from poolmgr.edge import procs
from tests.lab.cache import Cache
from tests.lab.nvml import FakeNvml
from tests.poolmgr.runs import poolmgr
from tests.poolmgr.test_gpus import HEAD as NVML_HEAD

pytestmark = [pytest.mark.engine, pytest.mark.slow]

FORKS = """
[[pools]]
id = "demo"
engine = {{ id = "mock", vram_mb = 2048{more} }}
model = {{ ref = "mock:lorem" }}
devices = [0]
ctx = 8192
provisioning = {{ mode = "binary", command = ["/bin/sh", "-c", '{script}', "sh"] }}
"""
SCRIPT = 'setsid sleep 600 & echo $! >{0}/helper; exec {1} -m poolmgr.mockengine "$@"'


def forking(folder: Path, more: str = "") -> str:
    """A pool whose engine starts a helper in a session of its own, out of reach of its group."""
    return FORKS.format(script=SCRIPT.format(folder, sys.executable), more=more)


def helper_of(folder: Path) -> int:
    return int((folder / "helper").read_text())


def alive(pid: int) -> bool:
    return procs.started(pid) is not None


def sleeper(environ: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sleep", "600"], env={"PATH": os.environ["PATH"], **environ})


def markless(socket: Path) -> subprocess.Popen[bytes]:
    """An engine of somebody who marks none."""
    argv = [sys.executable, "-m", "poolmgr.mockengine", "--socket", str(socket)]
    return subprocess.Popen(argv, stdout=subprocess.DEVNULL)


async def gone(pid: int) -> None:
    with trio.fail_after(10):
        while alive(pid):
            await trio.sleep(0.01)


@pytest.mark.req("OC-POOL-3012")
async def test_what_a_killed_poolmgr_left_is_reaped_by_name_and_nobody_else_is(
    tmp_path: Path,
) -> None:
    async with poolmgr(tmp_path, "demo:0", forking(tmp_path)) as run:
        engine = (await run.until(200))["engine_pid"]
        helper = helper_of(tmp_path)
        run.process.send_signal(signal.SIGKILL)
        await gone(engine)
    assert alive(helper)
    (tmp_path / "notify").unlink()
    ours, me = str(tmp_path / "poolmgr" / "demo:0.engine.sock"), os.getpid()
    living = Mark(ours, me, procs.started(me) or 0)
    others = [
        sleeper({}),
        sleeper({MARK: str(Mark(ours.replace("demo:0", "demo:1"), 1 << 22, 5))}),
        sleeper({MARK: str(living)}),
    ]
    try:
        async with poolmgr(tmp_path, "demo:0", forking(tmp_path)) as run:
            await run.until(200)
            reaped = [e for e in run.log if e["event"] == "orphan_reaped"]
            assert [(e["orphan_pid"], e["orphan_name"]) for e in reaped] == [(helper, "sleep")]
            assert f"Process {helper} (sleep) of an earlier life of demo:0" in reaped[0]["human"]
            assert not alive(helper)
            assert all(alive(other.pid) for other in others)
            second = helper_of(tmp_path)
            run.stop()
            assert await run.exit_code() == 0
        os.kill(second, signal.SIGKILL)  # out of its group, as before
    finally:
        for other in others:
            other.kill()
            other.wait()


@pytest.mark.req("OC-POOL-3012")
async def test_an_engine_without_a_mark_is_told_by_our_socket(tmp_path: Path) -> None:
    folder = tmp_path / "poolmgr"
    folder.mkdir()
    left = markless(folder / "demo:0.engine.sock")
    try:
        with trio.fail_after(10):
            while procs.server_pid(Target.unix(folder / "demo:0.engine.sock")) is None:
                await trio.sleep(0.02)
        async with poolmgr(tmp_path, "demo:0", forking(tmp_path)) as run:
            await run.until(200)
            (entry,) = [e for e in run.log if e["event"] == "orphan_reaped"]
            assert (entry["orphan_pid"], "it answers at" in entry["human"]) == (left.pid, True)
            os.kill(helper_of(tmp_path), signal.SIGKILL)
    finally:
        left.kill()
        assert left.wait() == -signal.SIGKILL


@pytest.mark.req("OC-POOL-3012")
async def test_the_memory_of_an_orphan_is_waited_for(tmp_path: Path) -> None:
    fake = FakeNvml.create(Cache.default(), tmp_path / "nvml")
    left = sleeper({MARK: str(Mark(str(tmp_path / "poolmgr" / "demo:0.engine.sock"), 1 << 22, 5))})
    fake.follow_process(0, left.pid, 24_000)  # the model would not fit beside it
    try:
        pools = forking(tmp_path, ", faults = { load_ms = 700 }")
        async with poolmgr(tmp_path, "demo:0", pools, head=NVML_HEAD, env=fake.env) as run:
            while "engine_pid" not in (state := await run.until(503)):
                left.poll()
            fake.follow_process(0, state["engine_pid"], 2048)
            assert (await run.until(200))["gpu_proof"] == "verified"
            os.kill(helper_of(tmp_path), signal.SIGKILL)
    finally:
        left.kill()
        left.wait()
