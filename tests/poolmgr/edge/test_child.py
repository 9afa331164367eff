"""The engine as a child: environment, output, exit words, and that nothing of it stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import trio

from orchd.kit import log
from orchd.wire.errors import Kind, OrchError
from poolmgr.edge import child as module
from poolmgr.edge.cgroup import engine_cgroup
from poolmgr.edge.child import Child, ending, start


def sh(script: str, **env: str) -> Child:
    return start(["/bin/sh", "-c", script], env)


def gone(pid: int, deadline_s: float = 5.0) -> bool:
    """Whether a process is gone (or a zombie that only waits for init)."""
    until = time.monotonic() + deadline_s
    while time.monotonic() < until:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.01)
    return False


async def heard(child: Child) -> list[str]:
    await child.listen()
    return list(child.last_lines)


async def test_its_output_is_logged_and_its_exit_is_told() -> None:
    with log.capture() as events:
        child = sh('echo one; echo "$X" >&2; exit 3', X="two")
        with trio.fail_after(5):
            assert await heard(child) == ["one", "two"]
            assert await child.wait() == "exited with code 3"
        await child.stop()
    told = [event["human"] for event in events if event["event"] == "engine_output"]
    assert told == ["one", "two"]


async def test_what_is_ours_alone_is_not_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NOTIFY_SOCKET", "LISTEN_FDS", "ORCHD_AUTH_TOKEN", "CREDENTIALS_DIRECTORY"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/cuda")
    child = start(["env"], {"CUDA_VISIBLE_DEVICES": "GPU-1"})
    with trio.fail_after(5):
        lines = await heard(child)
        await child.stop()
    assert not [line for line in lines if "secret" in line]
    assert "CUDA_VISIBLE_DEVICES=GPU-1" in lines
    assert "LD_LIBRARY_PATH=/opt/cuda" in lines


async def test_output_is_bounded_in_length_and_in_rate() -> None:
    many = module.BURST_LINES + 300
    with log.capture() as events:
        child = sh(f"head -c 50000 /dev/zero | tr '\\0' x; echo; seq {many}")
        with trio.fail_after(5):
            lines = await heard(child)
            await child.stop()
    told = [event for event in events if event["event"] == "engine_output"]
    assert max(len(event["human"]) for event in told) <= module.LINE_BYTES
    assert module.BURST_LINES <= len(told) < many
    assert lines[-1] == str(many)
    assert len(lines) == module.LINES_KEPT


async def test_a_stop_is_sigterm_first() -> None:
    child = sh('trap "echo bye; exit 0" TERM; echo up; while :; do sleep 0.01; done')
    async with trio.open_nursery() as nursery:
        nursery.start_soon(child.listen)
        with trio.fail_after(5):
            while not child.last_lines:
                await trio.sleep(0.005)
            assert await child.stop() == "exited with code 0"
    assert "bye" in child.last_lines


@pytest.mark.req("ORCH-3001")
async def test_one_that_will_not_go_is_killed_with_all_it_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "TERM_GRACE_S", 0.05)
    child = sh('trap "" TERM; sleep 60 & echo $!; while :; do sleep 0.01; done')
    async with trio.open_nursery() as nursery:
        nursery.start_soon(child.listen)
        with trio.fail_after(5):
            while not child.last_lines:
                await trio.sleep(0.005)
            assert "killed by SIGKILL" in await child.stop()
        nursery.cancel_scope.cancel()
    assert gone(int(child.last_lines[0]))


@pytest.mark.req("ORCH-3001")
async def test_processes_in_groups_of_their_own_are_killed_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As those of TGI's launcher are."""
    monkeypatch.setattr(module, "TERM_GRACE_S", 0.05)
    child = sh('trap "" TERM; setsid sleep 60 & echo $!; while :; do sleep 0.01; done')
    async with trio.open_nursery() as nursery:
        nursery.start_soon(child.listen)
        with trio.fail_after(5):
            while not child.last_lines:
                await trio.sleep(0.005)
            await child.stop()
        nursery.cancel_scope.cancel()
    assert gone(int(child.last_lines[0]))


async def test_a_stop_that_is_cancelled_kills_at_once() -> None:
    child = sh('trap "" TERM; sleep 60 & echo $!; while :; do sleep 0.01; done')
    async with trio.open_nursery() as nursery:
        nursery.start_soon(child.listen)
        with trio.fail_after(5):
            while not child.last_lines:
                await trio.sleep(0.005)
        began = trio.current_time()
        with trio.move_on_after(0.05):
            await child.stop()
        assert trio.current_time() - began < module.TERM_GRACE_S / 2
        assert gone(child.pid, 1.0)
        assert gone(int(child.last_lines[0]), 1.0)
        assert "killed by SIGKILL" in await child.stop()
        nursery.cancel_scope.cancel()


@pytest.mark.req("ORCH-3001")
async def test_what_the_engine_left_behind_goes_with_it() -> None:
    child = sh("sleep 60 & echo $!; exit 1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(child.listen)
        with trio.fail_after(5):
            assert await child.wait() == "exited with code 1"
            while not child.last_lines:
                await trio.sleep(0.005)
            assert await child.stop() == "exited with code 1"
        nursery.cancel_scope.cancel()
    assert gone(int(child.last_lines[0]))


@pytest.mark.slow
@pytest.mark.req("ORCH-3001")
def test_it_dies_with_us_even_on_kill_9_and_so_does_what_it_started() -> None:
    script = (
        "import os, time\n"
        "from poolmgr.edge.child import start\n"
        "child = start(['/bin/sh', '-c', 'sleep 60 & echo $!; wait'], {})\n"
        "print(child.pid, os.read(child._output, 99).decode(), flush=True)\n"
        "time.sleep(60)\n"
    )
    ours = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert ours.stdout is not None
    pids = [int(pid) for pid in ours.stdout.readline().split()]
    assert len(pids) == 2
    assert all(Path(f"/proc/{pid}").exists() for pid in pids)
    os.kill(ours.pid, signal.SIGKILL)
    ours.wait(5)
    ours.stdout.close()
    assert all(gone(pid) for pid in pids)


async def test_without_setpriv_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(OrchError) as caught:
        start(["x"], {})
    assert caught.value.kind is Kind.ENGINE_MISSING
    assert "util-linux" in caught.value.message


@pytest.mark.parametrize("failing", ["/bin/sh", "setpriv"])
async def test_a_machine_without_room_for_a_process_is_told(
    failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = subprocess.Popen
    guards: list[subprocess.Popen[bytes]] = []

    def popen(argv: list[str], **more: Any) -> subprocess.Popen[bytes]:
        if argv[0] == failing:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        guards.append(real(argv, **more))
        return guards[-1]

    monkeypatch.setattr(subprocess, "Popen", popen)
    with pytest.raises(OrchError) as caught:
        start(["engine"], {})
    assert caught.value.kind is Kind.ENGINE_START_FAILED
    assert "cannot start engine: " in caught.value.message
    assert all(guard.returncode is not None for guard in guards)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, "exited with code 0"),
        (-11, "was killed by SIGSEGV"),
        (-9, "was killed by SIGKILL"),
        (-40, "was killed by signal 40"),
    ],
)
def test_exit_codes_and_signals_are_told_apart(code: int, words: str) -> None:
    assert ending(code) == words


@pytest.mark.parametrize(
    "own",
    [
        "",
        "1:name=systemd:/x\n",
        "0::/\n",
        "0::/system.slice/poolmgr@demo:0.service\n",
        "0::/nowhere/poolmgr@demo:0.service/supervisor\n",
    ],
)
def test_without_delegation_there_is_no_cgroup(own: str, tmp_path: Path) -> None:
    assert engine_cgroup(own, tmp_path) is None


def test_a_delegated_cgroup_is_made_beside_ours(tmp_path: Path) -> None:
    unit = tmp_path / "pools.slice" / "poolmgr@demo:0.service"
    (unit / "supervisor").mkdir(parents=True)
    (unit / "cgroup.procs").touch()
    engine = unit / "engine"
    engine.mkdir()  # a real one has these files from the kernel
    (engine / "cgroup.kill").touch()
    (engine / "cgroup.procs").write_text("12\n13\n")
    found = engine_cgroup("0::/pools.slice/poolmgr@demo:0.service/supervisor\n", tmp_path)
    assert found is not None
    assert found.path == engine
    assert found.pids() == {12, 13}
    found.kill()
    assert (engine / "cgroup.kill").read_text() == "1"
