"""Starts an engine as poolmgr would (the adapter's own launch arguments) and talks to it.

Here: the servers of the conformance cases, a plain blocking HTTP client on a unix socket.
Not here: the cases. The client is Python's own, so that nothing of the product helps the product.
`openai` is the real llama-server once more, asked as any OpenAI-compatible server of others is;
`tgi` is a stand-in (tests/lab/fake_tgi.py) behind the real bridge: no real one can be had here.
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
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import orjson
from attrs import evolve, frozen

from orchd.config.pool import Api, Engine, Mode, Model, Pool, Provisioning
from orchd.wire.ids import DeviceMask, EngineId, PoolId, Positive, TaskId, Text
from orchd.wire.shapes import Workload
from poolmgr.edge import procs
from poolmgr.engines.base import Adapter, Broken, Call, Finished, Job, Load, Pieces, Props, Reply
from poolmgr.engines.registry import adapter
from poolmgr.provision.starting.bridged import here
from tests.engines.grpc_client import GrpcAnswer
from tests.lab.llama import LlamaBuild, llama_server_command, needs_of, tiny_model
from tests.lab.needs import TRITON, require
from tests.lab.tgi import install_tgi
from tests.lab.tiny_gguf import PLAIN, TinyModel
from tests.lab.triton import MODEL, repository, triton_command
from tests.lab.vllm import VLLM, tiny_hf, vllm_command

REAL = tuple(str(build) for build in LlamaBuild)
ALL = ("mock", *REAL)
OPENAI = ("openai", "chat")
TRITONS = ("triton", "triton-grpc")
EVERY = (*ALL, *OPENAI, *TRITONS, "tgi", "vllm")
ENGINES = {name: name.partition("-")[0] for name in ("mock", "tgi", "vllm", *TRITONS)}
# What the wheel's main() does not know; it has no GPU backend and no web UI either.
UNKNOWN_TO_WHEEL = {"--n-gpu-layers": 2, "--no-webui": 1}
START_S = 40.0  # a loaded machine; alone 2 s for the slowest
START_VLLM_S = 110.0  # 20 to 30 s alone
FOR_VLLM = ("--enforce-eager", "--dtype", "float32")


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("engine", timeout=30)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30)
        self.sock.connect(str(self._path))


class Closing(Protocol):
    """What ends a call when it is closed."""

    def close(self) -> None: ...


class Answer(Closing, Protocol):
    """An answer as http.client has it."""

    @property
    def status(self) -> int: ...
    def read1(self, _size: int = -1) -> bytes: ...
    def read(self) -> bytes: ...


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
    key: str = ""

    @property
    def headers(self) -> dict[str, str]:
        """What goes with every request."""
        bearer = {"authorization": f"Bearer {self.key}"} if self.key else {}
        return {"content-type": "application/json", **bearer}

    def ask_call(self, call: Call) -> tuple[int, bytes]:
        """The whole answer to a call, wherever it goes."""
        if call.service == "grpc":
            answer = self.begin(call)[1]
            try:
                return answer.status, answer.read()
            finally:
                answer.close()
        return self.ask(call.method, call.path, call.body)

    def ask(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        connection = UnixConnection(self.socket)
        try:
            connection.request(method, path, body or None, self.headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def open(self, body: bytes) -> tuple[Closing, Answer]:
        return self.begin(Call(method="POST", path="/completion", body=body))

    def begin(self, call: Call) -> tuple[Closing, Answer]:
        """Begin a call; return what to close, and its answer to be read as it comes."""
        if call.service == "grpc":
            answer = GrpcAnswer(self.socket.with_name(f"{self.socket.name}:2"), call)
            return answer, answer
        connection = UnixConnection(self.socket)
        connection.request(call.method, call.path, call.body, self.headers)
        return connection, connection.getresponse()

    def whole(self, job: Job) -> tuple[str, int, int]:
        """What the engine says of the same job when it is not streamed: text, tokens in and out."""
        if self.name in TRITONS:
            return letters(job, 0)
        if self.name == "tgi":
            return letters(job, 1)
        call = self.adapter.submit(job)
        asked = orjson.loads(call.body) | {"stream": False}
        asked.pop("stream_options", None)
        status, body = self.ask(call.method, call.path, orjson.dumps(asked))
        assert status == 200, body
        said = orjson.loads(body)
        if "choices" not in said:
            return said["content"], said["tokens_evaluated"], said["tokens_predicted"]
        choice, usage = said["choices"][0], said["usage"]
        text = choice["text"] if "text" in choice else choice["message"]["content"]
        return text, usage["prompt_tokens"], usage["completion_tokens"]

    def run(self, job: Job) -> Outcome:
        status, body = self.ask_call(self.adapter.submit(job))
        return read(self.adapter, job, status, body)

    def props(self) -> Props:
        calls = self.adapter.props()
        return self.adapter.read_props([Reply(*self.ask_call(call)) for call in calls])

    def busy(self) -> bool:
        """Whether the engine itself says that it generates."""
        if self.name in TRITONS:  # its own metrics count what waits, not what runs
            return (self.socket.parent / "live").read_text() != "0"
        call = self.adapter.usage()
        if call is None:  # llama-server, asked as a server of others
            return any(slot["is_processing"] for slot in orjson.loads(self.ask("GET", "/slots")[1]))
        return self.adapter.read_usage(self.ask(call.method, call.path)[1]).slots_active > 0

    def load_state(self) -> Load | None:
        """None while nobody listens."""
        call = self.adapter.health()
        try:
            status, body = self.ask(call.method, call.path)
        except (OSError, http.client.HTTPException):
            return None
        return self.adapter.load_state(status, body)[0]


def letters(job: Job, begin_tokens: int) -> tuple[str, int, int]:
    """What lab/triton_model.py and lab/fake_tgi.py make of a job, said once more."""
    prompt, seed = job.prompt or "", job.seed or 0
    count = min(job.max_tokens, 40 + seed * 37 % 400)
    begin = sum(prompt.encode()) + seed
    text = "".join(chr((begin + at * 7) % 26 + 97) for at in range(count))
    return text, len(prompt.split()) + begin_tokens, count


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
    return ENGINES.get(server, "llamacpp")


def of_others(server: str, made: Pool, sock: Path) -> Pool:
    """The same server as somebody else's, asked over OpenAI's routes."""
    api = Api.CHAT if server == "chat" else Api.COMPLETIONS
    return evolve(
        made,
        engine=Engine(id=EngineId("openai"), api=api),
        provisioning=Provisioning(mode=Mode.EXTERNAL, url=f"unix:{sock}"),
    )


@contextmanager
def running(
    name: str, folder: Path, *, model: TinyModel = PLAIN, wait: bool = True, **more: Any
) -> Iterator[Running]:
    """Start a server by its adapter's launch, and kill it in the end.

    `more` is what pool() takes; `ref` only for the mock; `key` for a llama-server that wants one.
    """
    key = more.pop("key", "")
    if key:
        more["args"] = ("--api-key", key)
    sock = folder / "e.sock"
    if name == "mock":
        extra: dict[str, str] = {}
        command, file = [sys.executable, "-m", "poolmgr.mockengine"], None
        made = pool(name, tokens_per_s=more.pop("tokens_per_s", 0.0), **more)
    elif name in TRITONS:
        require(TRITON)
        command, extra = triton_command()
        extra |= {"TINY_LIVE": str(folder / "live"), "TINY_CTX": str(more.get("ctx", 2048))}
        extra |= {"TINY_DELAY_MS": str(more.pop("delay_ms", 0))}
        file = repository()
        api = Api.GRPC if name == "triton-grpc" else Api.HTTP
        made = pool(name, served_name=Text(MODEL), api=api, **more)
    elif name == "tgi":
        command = [str(install_tgi(folder / "tgi"))]
        extra = {"TINY_DELAY_MS": str(more.pop("delay_ms", 0))}
        file = tiny_hf()
        made = pool(name, **more)
    elif name == "vllm":
        require(VLLM)
        command, extra = vllm_command()
        file = tiny_hf(model, classifier=more.get("workloads") == (Workload.RERANK,))
        made = pool(name, args=(*FOR_VLLM, *more.pop("args", ())), **more)
    else:
        build = "debian" if name in OPENAI else name
        require(needs_of(LlamaBuild(build)))
        command, extra = llama_server_command(build)
        file = tiny_model(model)
        made = pool(name, args=("--threads", "1", *more.pop("args", ())), **more)
    chosen = adapter(made)
    launch = chosen.launch(made, file, sock, ("GPU-none",))
    argv = [*command, *fitting(name, launch.argv)]
    if launch.bridge is not None:
        argv = list(here(launch.bridge, tuple(command), launch.argv, sock, made.slots))
    with (folder / "engine.log").open("wb") as log:
        environment = {**os.environ, **launch.env, **extra}
        child = subprocess.Popen(
            argv, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            if name in OPENAI:
                chosen = adapter(of_others(name, made, sock))
            server = Running(name, chosen, sock, child.pid, made.ctx, key)
            if wait:
                wait_serving(server, child, folder / "engine.log")
                server.props()  # an adapter learns from it
            yield server
        finally:
            kill(child.pid)
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
    deadline = time.monotonic() + (START_VLLM_S if server.name == "vllm" else START_S)
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


def kill(pid: int) -> None:
    """End it as a crash would, with its helpers, whatever groups they have."""
    for each in procs.tree(pid):
        with suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)
