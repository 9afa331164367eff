"""From a cancel, or a client that leaves, to the free slot of a real llama.cpp server.

The daemons are the real ones, the server is the lab's, attached as an external engine; a stub
library shows a GPU that is not there. The slot is looked at in the server itself.
"""

from __future__ import annotations

import socket
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Final

from tests.engines import servers
from tests.lab.cache import Cache
from tests.lab.llama import LlamaBuild, needs_of
from tests.lab.needs import missing
from tests.lab.nvml import FakeNvml
from tests.lab.tiny_gguf import SLOW
from tools.bench import proc, requests
from tools.bench.figures import Figure
from tools.bench.house import daemons

SECTION: Final = "Freeing the slot of a real llama.cpp server, while it generates (ms)"
TIMES: Final = 20
CTX: Final = 16384
MAX_TOKENS: Final = 16000
DECODING_S: Final = 0.05  # into the generation, past the prompt
GOAL_MS: Final = 100.0
PATIENCE_S: Final = 10.0
_TOML: Final = """\
bind_addr = "127.0.0.1:0"
state_dir = "{folder}/state"
run_dir = "{folder}/run"
[[pools]]
id = "{pool}"
engine = {{ id = "llamacpp" }}
model = {{ ref = "{model}" }}
provisioning = {{ mode = "external", url = "unix:{socket}", gpu_attested = true }}
devices = [0]
ctx = {ctx}
"""


def freed(_runs: int) -> list[Figure]:
    """Measure both ways; nothing where the server cannot be had here."""
    absent = missing(needs_of(LlamaBuild.DEBIAN))
    if absent:
        print(f"left out: {'; '.join(need.reason() for need in absent)}", file=sys.stderr)
        return []
    with tempfile.TemporaryDirectory(prefix="orchd-bench-") as name:
        folder = Path(name)
        fake = FakeNvml.create(Cache.default(), folder / "nvml")
        with servers.running("debian", folder, model=SLOW, ctx=CTX) as engine:
            config = folder / "orchd.toml"
            config.write_text(
                _TOML.format(
                    folder=folder,
                    pool=requests.POOL,
                    model=requests.MODEL,
                    socket=engine.socket,
                    ctx=CTX,
                )
            )
            with daemons(folder, config, fake.env) as (port, _, _):
                address = f"127.0.0.1:{port}"
                answers = [_cancel(address, engine.busy) for _ in range(TIMES)]
                leaving = [_leave(address, engine.busy) for _ in range(TIMES)]
    figures: list[Figure] = []
    for what, taken, goal in (
        ("cancel to its 204", [answer for answer, _ in answers], None),
        ("cancel to the free slot", [free for _, free in answers], GOAL_MS),
        ("client hangs up to the free slot", leaving, GOAL_MS),
    ):
        figures += [
            Figure(section=SECTION, what=what, who="median", runs=(median(taken),)),
            Figure(section=SECTION, what=what, who="longest", runs=(max(taken),), goal=goal),
        ]
    return figures


def _cancel(address: str, busy: Callable[[], bool]) -> tuple[float, float]:
    """Return milliseconds from a cancel to its 204, and to the free slot."""
    sock, task = _generating(address)
    with sock, proc.connect(address) as other:
        began = time.perf_counter()
        other.sendall(
            b"POST /v1/tasks/%b/cancel HTTP/1.1\r\nHost: orchd\r\nContent-Length: 0\r\n\r\n" % task
        )
        answer = other.recv(4096)
        answered = time.perf_counter() - began
        if not answer.startswith(b"HTTP/1.1 204"):
            raise RuntimeError(f"cancel was answered {answer[:200]!r}")
        return answered * 1e3, _free_ms(began, busy)


def _leave(address: str, busy: Callable[[], bool]) -> float:
    """Return milliseconds from the reader's hanging up to the free slot."""
    sock, _ = _generating(address)
    began = time.perf_counter()
    sock.close()
    return _free_ms(began, busy)


def _generating(address: str) -> tuple[socket.socket, bytes]:
    """Return a stream in the middle of its tokens, and its task."""
    task = requests.task_id()
    sock = proc.connect(address)
    sock.sendall(requests.post_task(task, MAX_TOKENS, engine=b"llamacpp", ctx=CTX))
    answer = b""
    while requests.answer_size(answer) is None:
        answer += sock.recv(65536)
    if not answer.startswith(b"HTTP/1.1 202"):
        raise RuntimeError(f"a task was answered {answer[:400]!r}")
    sock.sendall(requests.get_stream(task))
    stream, until = b"", float("inf")
    while time.perf_counter() < until:
        stream += sock.recv(65536)
        if until == float("inf") and b"event: token" in stream:
            until = time.perf_counter() + DECODING_S
    if b"event: end" in stream:
        raise RuntimeError("the model ended before it could be cancelled")
    return sock, task


def _free_ms(began: float, busy: Callable[[], bool]) -> float:
    while busy():
        if time.perf_counter() - began > PATIENCE_S:
            raise RuntimeError(f"the slot is not free after {PATIENCE_S:.0f} s")
    return (time.perf_counter() - began) * 1e3
