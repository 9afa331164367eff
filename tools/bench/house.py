"""The real suite for a measurement: orchd, one poolmgr and its mock engine, in a temporary folder.

The two programs are started as `orchctl up` and systemd do, with passed listening sockets for
orchd; so their pids are known. What is measured is in measures.py.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from attrs import frozen

from orchd.kit import fds
from tools.bench import proc
from tools.bench.orders import Api, Target
from tools.bench.requests import CTX, MODEL, POOL

READY_S: Final = 60.0
_TOML: Final = """\
bind_addr = "127.0.0.1:0"
state_dir = "{folder}/state"
run_dir = "{folder}/run"
[devices]
backend = "simulated"
simulated = [{{ name = "Simulated 24 GB", vram_mb = 24576 }}]
[[pools]]
id = "{pool}"
engine = {{ id = "mock", tokens_per_s = {tokens_per_s:g}, vram_mb = 1024, faults = {faults} }}
model = {{ ref = "{model}" }}
devices = [0]
provisioning = {{ command = ["{python}", "-m", "tools.bench.engine"] }}
ctx = {ctx}
slots = {slots}
queue = {{ interactive = {queue}, batch = 1 }}
"""


@frozen(kw_only=True)
class Shape:
    """How the one pool is built."""

    tokens_per_s: float = 0.0
    """Of one slot; 0: as fast as possible."""
    slots: int = 16
    queue: int = 1024
    hang: bool = False
    """The engine says one token and then nothing more."""


@frozen(kw_only=True)
class House:
    """A running suite."""

    folder: Path
    port: int
    orchd: int
    poolmgr: int
    engine: int

    @property
    def tasks(self) -> Target:
        """The suite's public API."""
        return Target(name="orchd + poolmgr", api=Api.TASKS, address=f"127.0.0.1:{self.port}")

    @property
    def bare(self) -> Target:
        """The same mock engine, asked directly."""
        return Target(name="bare engine", api=Api.COMPLETION, address=self.engine_socket)

    @property
    def engine_socket(self) -> str:
        """The engine's unix socket."""
        return str(self.folder / f"run/poolmgr/{POOL}:0.engine.sock")

    @property
    def daemons(self) -> tuple[int, int]:
        """The pids that are measured: orchd, poolmgr."""
        return self.orchd, self.poolmgr


@contextmanager
def house(shape: Shape) -> Iterator[House]:
    """Run a suite, ready to serve; daemons on one core, engine on the other."""
    with tempfile.TemporaryDirectory(prefix="orchd-bench-") as name:
        folder = Path(name)
        with daemons(folder, write_config(folder, shape)) as (port, orchd, poolmgr):
            engine = _engine_of(poolmgr)
            proc.pin(engine, proc.cores()[1])
            yield House(folder=folder, port=port, orchd=orchd, poolmgr=poolmgr, engine=engine)


@contextmanager
def daemons(
    folder: Path, config: Path, env: Mapping[str, str] = {}
) -> Iterator[tuple[int, int, int]]:
    """Run orchd and the poolmgr of the one replica. Yields orchd's port and the two pids."""
    environment = {"ORCHD_LOG": "json", "LISTEN_FDNAMES": "orchd.tcp:orchd.unix", **env}
    log = folder / "log"
    with ExitStack() as stack:
        tcp = stack.enter_context(fds.bind_tcp("127.0.0.1", 0))
        unix = stack.enter_context(fds.bind_unix(folder / "run/orchd/orchd.sock"))
        orchd = stack.enter_context(
            proc.running(orchd_argv(config), log=log, listeners=(tcp, unix), env=environment)
        )
        argv = [sys.executable, "-m", "poolmgr", f"{POOL}:0", "--config", str(config)]
        poolmgr = stack.enter_context(proc.running(argv, log=log, env=environment))
        port = int(tcp.getsockname()[1])
        _wait_ready(f"127.0.0.1:{port}", (orchd, poolmgr), log)
        for pid in (orchd, poolmgr):
            proc.pin(pid, proc.cores()[0])
        yield port, orchd, poolmgr


def orchd_argv(config: Path) -> list[str]:
    """Return the command line of orchd."""
    return [sys.executable, "-m", "orchd", "--config", str(config)]


def write_config(folder: Path, shape: Shape) -> Path:
    """Write the configuration of a suite that lives in `folder`; return its path."""
    config = folder / "orchd.toml"
    text = _TOML.format(
        folder=folder,
        python=sys.executable,
        pool=POOL,
        model=MODEL,
        ctx=CTX,
        tokens_per_s=shape.tokens_per_s,
        slots=shape.slots,
        queue=shape.queue,
        faults="{ hang_after_tokens = 1 }" if shape.hang else "{}",
    )
    config.write_text(text)
    return config


def _wait_ready(address: str, pids: tuple[int, ...], log: Path) -> None:
    deadline = time.monotonic() + READY_S
    answer = b""
    while time.monotonic() < deadline:
        answer = get(address, "/readyz")
        if answer.startswith(b"HTTP/1.1 200"):
            return
        for pid in pids:
            proc.check_alive(pid, log)
        time.sleep(0.05)
    said = answer.partition(b"\r\n\r\n")[2].decode(errors="replace")
    raise RuntimeError(f"the suite is not ready after {READY_S:.0f} s: {said}\n{proc.tail(log)}")


def get(address: str, path: str) -> bytes:
    """Return the whole answer to a GET."""
    with proc.connect(address) as sock:
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: orchd\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while data := sock.recv(65536):
            answer += data
    return answer


def _engine_of(poolmgr: int) -> int:
    """Return the pid of the engine: poolmgr may have helpers beside it."""
    for pid in proc.children(poolmgr):
        if b"tools.bench.engine" in Path(f"/proc/{pid}/cmdline").read_bytes():
            return pid
    raise RuntimeError("poolmgr has no engine among its children")
