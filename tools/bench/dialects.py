"""What reading each engine's stream costs poolmgr, and how soon each real engine is idle again.

The engines are the lab's, with their tiny models. The bytes come from the engine itself; the bare
column takes them off the socket and counts nothing, ours reads them with poolmgr's own client and
the dialect's reader. Both are the CPU time of this process alone, the engine is another.
"""

from __future__ import annotations

import http.client
import socket
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median
from typing import Any, Final

import trio

from orchd.kit.client import Target
from poolmgr.dialects import llama, openai, tgi, triton, triton_grpc
from poolmgr.edge.engine import Engine
from poolmgr.engines.base import Call, Finished, Job, Pieces, Reader, Service
from tests.engines import servers
from tests.lab.llama import LlamaBuild, needs_of
from tests.lab.needs import TRITON, Need, missing
from tests.lab.tiny_gguf import PLAIN, SLOW
from tests.lab.vllm import VLLM
from tools.bench.figures import Figure

READ: Final = "CPU for each token of a real engine's stream (us)"
RATE: Final = "Tokens that one core of poolmgr can read from an engine (a second)"
ALONE: Final = "CPU of reading one recorded frame (us)"
IDLE: Final = "From the closed connection to the idle engine, while it generates (ms)"
FRAMES: Final = 48_000
BATCHES: Final = (1, 16)
TOKENS: Final = 1500
STREAMS: Final = 6
CANCELS: Final = 20
PATIENCE_S: Final = 30.0
ENGINES: Final[dict[str, tuple[str, tuple[Need, ...]]]] = {
    "llama.cpp": ("debian", needs_of(LlamaBuild.DEBIAN)),
    "openai (llama.cpp)": ("openai", needs_of(LlamaBuild.DEBIAN)),
    "triton, HTTP": ("triton", TRITON),
    "triton, gRPC": ("triton-grpc", TRITON),
    "vllm": ("vllm", VLLM),
}


def dialects(runs: int) -> list[Figure]:
    """Measure every engine that can be had here."""
    figures = _alone(runs)
    for who, (name, needs) in ENGINES.items():
        absent = missing(needs)
        if absent:
            reasons = "; ".join(need.reason() for need in absent)
            print(f"{who} left out: {reasons}", file=sys.stderr)
            continue
        figures += _reading(who, name, runs) + _leaving(who, name)
    return sorted(figures, key=lambda figure: (READ, RATE, ALONE, IDLE).index(figure.section))


def _alone(runs: int) -> list[Figure]:
    """Return what the readers cost without any socket."""
    folder = Path(__file__).resolve().parents[2] / "contracts/dialects"
    job = servers.job(max_tokens=1 << 30)
    readers: dict[str, tuple[str, Callable[[], Reader]]] = {
        "llama.cpp": ("llama/limit.debian.txt", lambda: llama.StreamReader(job)),
        "openai (llama.cpp)": ("openai/limit.openai.txt", lambda: openai.StreamReader(job)),
        "vllm": ("vllm/limit.vllm.txt", lambda: openai.StreamReader(job)),
        "tgi": ("tgi/limit.txt", lambda: tgi.StreamReader(job)),
        "triton, HTTP": ("triton/limit.triton.bin", lambda: triton.StreamReader(job)),
        "triton, gRPC": ("triton/limit.triton-grpc.bin", lambda: triton_grpc.GrpcReader(job)),
    }
    figures: list[Figure] = []
    for who, (name, make) in readers.items():
        data = (folder / name).read_bytes()
        if who == "triton, gRPC":
            frame = data[: 5 + int.from_bytes(data[1:5], "big")]
        else:
            frame = data[: data.index(b"\n\n") + 2]
        for batch in BATCHES:
            cost = tuple(_frame_us(make(), frame * batch, batch) for _ in range(runs))
            column = "one in a receive" if batch == 1 else f"{batch} in a receive"
            figures.append(Figure(section=ALONE, what=who, who=column, runs=cost))
    return figures


def _frame_us(reader: Reader, data: bytes, batch: int) -> float:
    began = time.process_time()
    for _ in range(FRAMES // batch):
        if not isinstance(reader.feed(data)[0], Pieces):
            raise RuntimeError("a recorded frame is no token")
    return (time.process_time() - began) / FRAMES * 1e6


def _job(seed: int, max_tokens: int) -> Job:
    # seed 10 is the longest that Triton's model makes of one: 410 tokens
    return servers.job("one two three", max_tokens=max_tokens, seed=seed)


def _reading(who: str, name: str, runs: int) -> list[Figure]:
    with tempfile.TemporaryDirectory(prefix="orchd-bench-") as folder:
        model = PLAIN if name == "vllm" else SLOW
        with servers.running(name, Path(folder), ctx=2048, model=model) as server:
            calls = [server.adapter.submit(_job(10, TOKENS)) for _ in range(STREAMS)]
            bare, ours = [], []
            for _ in range(runs):
                ours.append(trio.run(_adapter_us, server))
                bare.append(_bare_us(server, calls, ours[-1][1]))
    mine = tuple(us for us, _ in ours)
    return [
        Figure(section=READ, what=who, who="bare socket", runs=tuple(bare)),
        Figure(section=READ, what=who, who="poolmgr's client and reader", runs=mine),
        Figure(section=RATE, what=who, who="tokens/s", runs=tuple(1e6 / us for us in mine)),
    ]


async def _adapter_us(server: servers.Running) -> tuple[float, int]:
    """Return microseconds of CPU for each token, and how many tokens there were."""
    engine = open_engine(server)
    tokens = 0
    began = time.process_time()
    for _ in range(STREAMS):
        job = _job(10, TOKENS)
        call = server.adapter.submit(job)
        async with engine.client.open(
            call.method, call.path, call.body, headers=dict(call.headers)
        ) as body:
            reader = server.adapter.reader(job, body.status)
            tokens += await _read(body.read_some, reader)
    spent = time.process_time() - began
    engine.close()
    return spent / tokens * 1e6, tokens


async def _read(more: Callable[[], Awaitable[bytes]], reader: Reader) -> int:
    """Read one answer to its end; return its tokens."""
    while True:
        data = await more()
        for event in reader.feed(data) if data else reader.eof():
            if isinstance(event, Finished):
                return event.tokens_out
            if not isinstance(event, Pieces):
                raise RuntimeError(f"the engine answered {event.error.message}")


def open_engine(server: servers.Running) -> Engine:
    """Return the engine as poolmgr asks it."""
    services: dict[Service, Target] = {}
    if server.name == "triton-grpc":
        services["grpc"] = Target.unix(server.socket.with_name("e.sock:2"))
    return Engine(Target.unix(server.socket), server.adapter, 1, services=services)


def _bare_us(server: servers.Running, calls: list[Call], tokens: int) -> float:
    """Return the CPU of taking the same answers off a socket, for each token."""
    if server.name == "triton-grpc":  # the cheapest that speaks gRPC here: the C library's own
        began = time.process_time()
        for call in calls:
            answer = server.begin(call)[1]
            while answer.read1():
                pass
            answer.close()
        return (time.process_time() - began) / tokens * 1e6
    began = time.process_time()
    for call in calls:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(server.socket))
            head = f"{call.method} {call.path} HTTP/1.1\r\nHost: engine\r\nConnection: close\r\n"
            for name, value in call.headers:
                head += f"{name}: {value}\r\n"
            sock.sendall(f"{head}Content-Length: {len(call.body)}\r\n\r\n".encode() + call.body)
            last = b""
            while not last.endswith(b"0\r\n\r\n"):
                data = sock.recv(65536)
                if not data:
                    break
                last = data[-8:] if len(data) >= 8 else last[-8:] + data
    return (time.process_time() - began) / tokens * 1e6


def _leaving(who: str, name: str) -> list[Figure]:
    more: dict[str, Any] = {"ctx": 16384}
    if name in servers.TRITONS:
        more["delay_ms"] = 5
    with tempfile.TemporaryDirectory(prefix="orchd-bench-") as folder:
        with servers.running(name, Path(folder), model=SLOW, **more) as server:
            taken = [_cancel_ms(server) for _ in range(CANCELS)]
    return [
        Figure(section=IDLE, what=who, who="median", runs=(median(taken),)),
        Figure(section=IDLE, what=who, who="longest", runs=(max(taken),)),
    ]


def _cancel_ms(server: servers.Running) -> float:
    connection, answer = server.begin(server.adapter.submit(_job(10, 15000)))
    if not answer.read1(10):
        raise http.client.HTTPException("the engine sent no token")
    time.sleep(0.05)  # into the generation
    began = time.perf_counter()
    answer.close()
    connection.close()
    while server.busy():
        if time.perf_counter() - began > PATIENCE_S:
            raise RuntimeError(f"{server.name} is not idle after {PATIENCE_S:.0f} s")
    return (time.perf_counter() - began) * 1e3
