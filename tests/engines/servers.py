"""Starts an engine as poolmgr would (the adapter's own launch arguments) and talks to it.

Here: the three servers of the conformance cases, a plain blocking HTTP client on a unix socket.
Not here: the cases. The client is Python's own, so that nothing of the product helps the product.
"""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
from attrs import frozen

from orchd.config.pool import Engine, Model, Pool
from orchd.wire.ids import DeviceMask, PoolId, Positive, TaskId, Text
from orchd.wire.shapes import Workload
from poolmgr.engines.base import Adapter, Broken, Finished, Job, Load, Pieces
from poolmgr.engines.registry import adapter
from tests.lab.llama import LlamaBuild, llama_server_command, needs_of, tiny_model
from tests.lab.needs import require
from tests.lab.tiny_gguf import PLAIN, TinyModel

REAL = tuple(str(build) for build in LlamaBuild)
ALL = ("mock", *REAL)
# What the wheel's main() does not know; it has no GPU backend and no web UI either.
UNKNOWN_TO_WHEEL = {"--n-gpu-layers": 2, "--no-webui": 1}
START_S = 20.0


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("engine", timeout=30)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30)
        self.sock.connect(str(self._path))


@frozen
class Outcome:
    """What the adapter's reader made of one answer."""

    texts: tuple[str, ...]
    end: Finished | Broken

    @property
    def text(self) -> str:
        return "".join(self.texts)


@frozen
class Running:
    """A server that was started."""

    name: str
    adapter: Adapter
    socket: Path
    pid: int
    ctx: int

    def ask(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        connection = UnixConnection(self.socket)
        try:
            connection.request(method, path, body or None, {"content-type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def open(self, body: bytes) -> tuple[UnixConnection, http.client.HTTPResponse]:
        connection = UnixConnection(self.socket)
        connection.request("POST", "/completion", body, {"content-type": "application/json"})
        return connection, connection.getresponse()

    def run(self, job: Job) -> Outcome:
        call = self.adapter.submit(job)
        status, body = self.ask(call.method, call.path, call.body)
        return read(self.adapter, job, status, body)

    def busy(self) -> bool:
        _, body = self.ask("GET", "/slots")
        return any(slot["is_processing"] for slot in orjson.loads(body))

    def load_state(self) -> Load | None:
        """None while nobody listens."""
        call = self.adapter.health()
        try:
            status, body = self.ask(call.method, call.path)
        except (OSError, http.client.HTTPException):
            return None
        return self.adapter.load_state(status, body)[0]


def read(adapter: Adapter, job: Job, status: int, body: bytes) -> Outcome:
    reader = adapter.reader(job, status)
    events = [*reader.feed(body), *reader.eof()]
    texts = tuple(text for event in events if isinstance(event, Pieces) for text in event.texts)
    end = events[-1]
    assert isinstance(end, Finished | Broken)
    return Outcome(texts, end)


def job(prompt: str = "Hello there", max_tokens: int = 24, **more: Any) -> Job:
    task_id = TaskId("00000000-0000-4000-8000-000000000001")
    return Job(task_id=task_id, prompt=prompt, max_tokens=max_tokens, **more)


def pool(
    engine: str,
    *,
    ctx: int = 2048,
    slots: int = 1,
    ref: str = "mock:lorem",
    workloads: tuple[Workload, ...] = (Workload.COMPLETION,),
    **more: Any,
) -> Pool:
    return Pool(
        id=PoolId("p"),
        engine=Engine(id=adapter_id(engine), **more),
        model=Model(ref=Text(ref)),
        replicas=(DeviceMask((0,)),),
        ctx=Positive(ctx),
        slots=Positive(slots),
        workloads=workloads,
    )


def adapter_id(server: str) -> Any:
    return "mock" if server == "mock" else "llamacpp"


@contextmanager
def running(
    name: str, folder: Path, *, model: TinyModel = PLAIN, wait: bool = True, **more: Any
) -> Iterator[Running]:
    """Start a server by its adapter's launch, and kill it in the end.

    `more` is what pool() takes; `ref` only for the mock.
    """
    sock = folder / "e.sock"
    chosen = adapter(adapter_id(name))
    if name == "mock":
        extra: dict[str, str] = {}
        command, file = [sys.executable, "-m", "poolmgr.mockengine"], None
        made = pool(name, tokens_per_s=more.pop("tokens_per_s", 0.0), **more)
    else:
        require(needs_of(LlamaBuild(name)))
        command, extra = llama_server_command(name)
        file = tiny_model(model)
        made = pool(name, args=("--threads", "1", *more.pop("args", ())), **more)
    launch = chosen.launch(made, file, sock, ("GPU-none",))
    argv = [*command, *fitting(name, launch.argv)]
    with (folder / "engine.log").open("wb") as log:
        environment = {**os.environ, **launch.env, **extra}
        child = subprocess.Popen(argv, env=environment, stdout=log, stderr=log)
        try:
            server = Running(name, chosen, sock, child.pid, made.ctx)
            if wait:
                wait_serving(server, child, folder / "engine.log")
            yield server
        finally:
            child.send_signal(signal.SIGKILL)
            child.wait()


def fitting(name: str, argv: tuple[str, ...]) -> list[str]:
    """The launch arguments, without those that the wheel's stand-in for main() lacks."""
    if name != "wheel":
        return list(argv)
    left, rest = [], list(argv)
    while rest:
        skip = UNKNOWN_TO_WHEEL.get(rest[0], 0)
        if not skip:
            left.append(rest[0])
        del rest[: skip or 1]
    return left


def wait_serving(server: Running, child: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while server.load_state() is not Load.SERVING:
        assert child.poll() is None, f"{server.name} ended:\n{log.read_text()[-2000:]}"
        assert time.monotonic() < deadline, f"{server.name} does not serve within {START_S} s"
        time.sleep(0.005)


def until(condition: Any, within_s: float) -> float:
    """Wait for a condition; return how long it took in seconds. Fails when it takes longer."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < within_s, f"not within {within_s} s"
        time.sleep(0.001)
    return time.monotonic() - began


def kill(server: Running) -> None:
    """End it as a crash would."""
    os.kill(server.pid, signal.SIGKILL)
