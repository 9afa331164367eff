"""orchctl up with the real daemons, the mock engine and two simulated GPUs."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson
import pytest

from orchd.cli.main import main
from orchd.kit import fds

ROOT = Path(__file__).parents[2]
WAIT_S = 30.0
CONFIG = """
bind_addr = "127.0.0.1:0"
[devices]
backend = "simulated"
simulated = [{ name = "Simulated A", vram_mb = 24576 }, { name = "Simulated B", vram_mb = 12288 }]
[[pools]]
id = "demo"
engine = { id = "mock", tokens_per_s = 20 }
model = { ref = "mock:lorem" }
replicas = [[0], [1]]
ctx = 4096
queue = { interactive = 1, batch = 1 }
"""


class Up:
    """A running `orchctl up`: its log, and orchctl against it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "c.toml").write_text(CONFIG)
        self.environ = os.environ | {
            "ORCHD_RUN_DIR": str(folder / "r"),
            "ORCHD_STATE_DIR": str(folder / "s"),
            "PYTHONPATH": str(ROOT),
        }
        self.started: list[subprocess.Popen[bytes]] = []
        self.log = (folder / "log").open("wb+")
        self.popen = self.start("up", "--config", "c.toml", "--log", "json", stderr=self.log)
        self.url = str(self.event("suite_ready")["url"])

    def start(self, *arguments: str, **options: object) -> subprocess.Popen[bytes]:
        started: subprocess.Popen[bytes] = subprocess.Popen(  # type: ignore[call-overload]
            [sys.executable, "-m", "orchd.cli.main", *arguments],
            env=self.environ,
            cwd=self.folder,
            **options,
        )
        self.started.append(started)
        return started

    def ctl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "orchd.cli.main", *arguments, "--url", self.url],
            env=self.environ,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            check=False,
        )

    def events(self) -> list[dict[str, object]]:
        lines = (self.folder / "log").read_bytes().splitlines()
        return [orjson.loads(line) for line in lines if line.endswith(b"}")]

    def event(self, name: str, count: int = 1, **fields: object) -> dict[str, object]:
        """Wait for the `count`-th event of this name with these fields."""

        def found() -> dict[str, object] | None:
            every = [
                each
                for each in self.events()
                if each["event"] == name and fields.items() <= each.items()
            ]
            return every[count - 1] if len(every) >= count else None

        return wait_for(found)

    def processes(self) -> list[str]:
        """Return the command lines that name this folder, but for our own."""
        every = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                line = path.read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            own = f"{self.folder}/" in line or "c.toml" in line
            if own and Path(f"/proc/{path.parent.name}/cwd").resolve() == self.folder:
                every.append(line)
        return every

    def end(self) -> None:
        """Stop it hard, if it still runs."""
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGINT)
            self.popen.send_signal(signal.SIGINT)
            self.popen.wait(WAIT_S)
        for each in self.started:
            each.kill()
            each.communicate()
        self.log.close()

    def left(self) -> list[Path]:
        return [path for path in (self.folder / "r").rglob("*") if not path.is_dir()]


def alive(pid: int) -> bool:
    """Whether the process runs; one that nobody has waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(found: Callable[[], dict[str, object] | None]) -> dict[str, object]:
    deadline = time.monotonic() + WAIT_S
    while (value := found()) is None:
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
    return value


@pytest.fixture
def up(folder: Path) -> Iterator[Up]:
    running = Up(folder)
    try:
        yield running
    finally:
        running.end()


@pytest.mark.slow
def test_the_suite_in_the_foreground(up):
    """Ready, used, refused with 429, a pool killed and back, Ctrl-C while a task runs."""
    statuses = [str(each["human"]) for each in up.events() if each["event"] == "unit_status"]
    assert any(line.startswith("demo:0: Loading mock:lorem") for line in statuses)
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", up.url)

    ran = up.ctl("run", "--max-tokens", "3", "Hello")
    assert (ran.returncode, len(ran.stdout.split())) == (0, 3)

    busy = [
        up.start("run", "--url", up.url, "--max-tokens", "60", "x", stdout=-1, stderr=-1)
        for _ in range(3)  # two slots and one place to wait
    ]
    wait_for(lambda: {} if '"queue_depth":{"interactive":1' in up.ctl("pools", "--json").stdout
             else None)  # fmt: skip
    ran = up.ctl("run", "--max-tokens", "60", "one too many")
    assert ran.returncode == 75
    assert "ADMISSION_REJECT (reject)" in ran.stderr
    assert "Retry in " in ran.stderr

    pid = orjson.loads(up.ctl("pools", "--json").stdout)["pools"][0]["replicas"][0]["snapshot"][
        "engine_pid"
    ]
    poolmgr = int(Path(f"/proc/{pid}/stat").read_text().split()[3])
    os.kill(poolmgr, signal.SIGKILL)
    died = up.event("unit_died", unit="demo:0")
    assert died["human"] == "demo:0 was ended by SIGKILL; starting it again in 0.2 s"
    up.event("suite_ready", 2)
    assert not alive(pid)  # the engine went with its poolmgr

    for each in busy:
        each.send_signal(signal.SIGINT)
        _, told = each.communicate(timeout=WAIT_S)
        # ended, on the killed one, by Ctrl-C, or hit by it when Python had gone home already
        assert each.returncode in (0, 75, 130, -signal.SIGINT), told
    begun = sum(event["event"] == "task_started" for event in up.events())
    long = up.start("run", "--url", up.url, "--max-tokens", "20", "x", stdout=-1, stderr=-1)
    up.event("task_started", begun + 1)
    up.popen.send_signal(signal.SIGINT)
    assert up.popen.wait(WAIT_S) == 130
    text, told = long.communicate(timeout=WAIT_S)
    assert (long.returncode, len(text.split())) == (0, 20), told  # it was let finish
    assert up.left() == []
    assert up.processes() == []


@pytest.mark.slow
def test_two_ctrl_c_and_kill_leave_no_process_behind(up):
    long = up.start("run", "--url", up.url, "--max-tokens", "3000", "x", stdout=-1, stderr=-1)
    wait_for(lambda: {} if '"slots_active":1' in up.ctl("pools", "--json").stdout else None)
    up.popen.send_signal(signal.SIGINT)
    up.event("suite_stopping")
    up.popen.send_signal(signal.SIGINT)
    begun = time.monotonic()
    assert up.popen.wait(WAIT_S) == 130
    assert time.monotonic() - begun < 10
    assert up.left() == []
    long.send_signal(signal.SIGINT)
    long.communicate(timeout=WAIT_S)
    assert up.processes() == []

    again = Up(up.folder)
    try:
        again.popen.kill()
        again.popen.wait()
        wait_for(lambda: None if again.processes() else {})
    finally:
        again.end()
    third = Up(up.folder)  # the socket files of the one that was killed are no hindrance
    third.popen.send_signal(signal.SIGTERM)
    assert third.popen.wait(WAIT_S) == 0
    third.end()
    assert up.left() == []


def test_a_socket_that_is_taken_is_said_and_nothing_is_started(orchctl, folder):
    (folder / "c.toml").write_text(CONFIG)
    with fds.bind_unix(folder / "run" / "poolmgr" / "demo:1.sock"):
        ran = orchctl("up", "--config", str(folder / "c.toml"))
        assert ran.code == 78
        assert "poolmgr/demo:1.sock: another process does" in ran.err
        assert "Next: If orchd runs already, use it or stop it" in ran.err
        left = [path.name for path in (folder / "run").rglob("*.sock")]
        assert left == ["demo:1.sock"]  # the other's; ours are gone again


def test_a_bad_configuration_starts_nothing(orchctl, folder):
    (folder / "c.toml").write_text("nonsense = 1")
    ran = orchctl("up", "--config", str(folder / "c.toml"))
    assert ran.code == 78
    assert "c.toml:1: $.nonsense: is not a known key" in ran.err
    assert main(["up", "--log", "loud"]) == 2
