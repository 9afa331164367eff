"""The whole suite as `orchctl up` starts it: real processes, real sockets, one temporary folder.

Not here: systemd (tests/system) and what the tests expect.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from orchd.config.load import load
from orchd.kit.client import Client, Target

READY_S = 30.0
STOP_S = 30.0
ORCHCTL = (sys.executable, "-m", "orchd.cli.main")

SIMULATED = """
[devices]
backend = "simulated"
simulated = [
  { name = "Simulated 24 GB", vram_mb = 24576 },
  { name = "Simulated 12 GB", vram_mb = 12288 },
]
"""


def mock_pool(
    *, engine: str = "tokens_per_s = 200", replicas: str = "[[0]]", queue: str = "", slots: int = 1
) -> str:
    return f"""
[[pools]]
id = "demo"
engine = {{ id = "mock", {engine} }}
model = {{ ref = "mock:lorem" }}
replicas = {replicas}
ctx = 8192
slots = {slots}
{queue}
"""


class Suite:
    """Started by `with`; every process of it is gone afterwards, or the test fails."""

    def __init__(self, folder: Path, config: str, env: dict[str, str] | None = None) -> None:
        self.folder = folder
        self.port = _free_port()
        self.config = folder / "orchd.toml"
        self.config.write_text(f'bind_addr = "127.0.0.1:{self.port}"\n{config}')
        self.env = os.environ | {
            "ORCHD_RUN_DIR": str(folder / "run"),
            "ORCHD_STATE_DIR": str(folder / "state"),
            **(env or {}),
        }
        self.events: list[dict[str, Any]] = []
        self._changed = threading.Condition()
        self.process: subprocess.Popen[str]

    def __enter__(self) -> Suite:
        self.process = subprocess.Popen(
            [*ORCHCTL, "up", "--config", str(self.config), "--log", "json"],
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(STOP_S)
        finally:
            left = self.processes()
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            self._reader.join(5)
            assert self.process.stdout is not None
            self.process.stdout.close()
        assert left == [], "the suite left processes behind"

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            try:
                event = json.loads(line)
            except ValueError:
                event = {"event": "text", "human": line.rstrip()}
            with self._changed:
                self.events.append(event)
                self._changed.notify_all()

    def wait_event(self, name: str, after: int = 0, **fields: object) -> dict[str, Any]:
        """The first such event from index `after` on."""
        deadline = time.monotonic() + READY_S
        with self._changed:
            while True:
                for event in self.events[after:]:
                    if event["event"] == name and fields.items() <= event.items():
                        return event
                left = deadline - time.monotonic()
                assert left > 0, f"no event {name} {fields}; seen: {self.events[-20:]}"
                assert self.process.poll() is None, f"the suite ended: {self.events[-20:]}"
                self._changed.wait(left)

    def wait_ready(self) -> None:
        """Every poolmgr has said READY=1, and orchd has heard of every replica."""
        self.wait_event("suite_ready")
        for pool in load(self.config, environ=self.env).pools:
            for replica_id in pool.replica_ids:
                self.wait_event("replica_ready", replica_id=replica_id)

    @property
    def front_socket(self) -> Path:
        return self.folder / "run" / "orchd" / "orchd.sock"

    def client(self) -> Client:
        return Client(Target.unix(self.front_socket))

    def orchctl(self, *arguments: str, timeout_s: float = 30.0) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*ORCHCTL, *arguments],
            env=self.env,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def processes(self) -> list[int]:
        """Pids whose command line names this suite's folder, but for `orchctl up` itself."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) not in {self.process.pid, os.getpid()}:
                try:
                    command = (entry / "cmdline").read_bytes()
                except OSError:
                    continue
                if str(self.folder).encode() in command:
                    found.append(int(entry.name))
        return found

    @property
    def orchd_pid(self) -> int:
        """The pid of orchd, of which only `-m orchd` tells it from the others."""
        found = [
            pid
            for pid in self.processes()
            if b"\0orchd\0" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]
        assert len(found) == 1, found
        return found[0]

    def pid_of(self, *words: str) -> int:
        """The one process whose command line has all these words."""
        found = []
        for pid in self.processes():
            command = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
            if all(any(word in part for part in command) for word in words):
                found.append(pid)
        assert len(found) == 1, f"{words}: {found}"
        return found[0]


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        assert isinstance(port, int)
        return port
