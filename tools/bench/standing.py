"""Measurements of whole tasks, of streams that wait, and of the daemons at their start.

CPU time comes before wall time: on a shared machine it is what can be trusted.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Final

from orchd.kit import fds
from tools.bench import proc
from tools.bench.figures import SUITE, Figure
from tools.bench.house import Shape, house, orchd_argv, write_config
from tools.bench.orders import Mode, Order
from tools.bench.run import load

WHOLE: Final = "Whole tasks (POST, stream of one token), 16 at a time, both daemons on one core"
HELD: Final = "Streams that wait: memory of each (KiB, PSS)"
START: Final = "Start and rest"
STARTS: Final = 10


def whole_tasks(runs: int) -> list[Figure]:
    """Tasks a second."""
    with house(Shape(slots=16)) as home:
        order = Order(
            mode=Mode.STREAMS,
            targets=(home.tasks,),
            pids=home.daemons,
            streams=16,
            max_tokens=1,
            again=True,
            window_s=3.0,
        )
        windows = [load(order).windows[0] for _ in range(runs)]
    rates = tuple(w.tasks / sum(w.cpu_s) for w in windows)
    clock = tuple(w.tasks / w.wall_s for w in windows)
    figures = [
        Figure(
            section=WHOLE,
            what="tasks for each second of CPU",
            who=SUITE,
            runs=rates,
            goal=1500,
            at_least=True,
        ),
        Figure(section=WHOLE, what="tasks/s by the clock", who=SUITE, runs=clock),
    ]
    for index, who in enumerate(("orchd", "poolmgr")):
        cost = tuple(w.cpu_s[index] / w.tasks * 1e6 for w in windows)
        figures.append(Figure(section=WHOLE, what="CPU of a task (us)", who=who, runs=cost))
    total = tuple(sum(w.cpu_s) / w.tasks * 1e6 for w in windows)
    figures.append(Figure(section=WHOLE, what="CPU of a task (us)", who=SUITE, runs=total))
    return figures


def idle_streams(_runs: int) -> list[Figure]:
    """Memory of streams that wait in the queue, and of jobs whose engine says nothing more."""
    figures: list[Figure] = []
    for streams, slots, what in (
        (1000, 1, "1,000 waiting in the queue"),
        (5000, 1, "5,000 waiting in the queue"),
        (1000, 1000, "1,000 running, engine silent"),
    ):
        with house(Shape(slots=slots, queue=6000, hang=True)) as home:
            order = Order(
                mode=Mode.HOLD,
                targets=(home.tasks,),
                pids=home.daemons,
                streams=streams,
                max_tokens=1000,
            )
            held = load(order).held
        assert held is not None, "HOLD answers what it held"
        grown = [b - a for a, b in zip(held.before_kib, held.after_kib, strict=True)]
        each = [kib / held.streams for kib in grown]
        busy = 100 * sum(held.settle.cpu_s) / held.settle.wall_s
        for who, value, goal in (
            ("orchd", each[0], None),
            ("poolmgr", each[1], None),
            (SUITE, sum(each), 16.0 if slots == 1 else None),
            ("CPU of both meanwhile (% of a core)", busy, None),
            ("held", held.streams, None),
        ):
            figures.append(Figure(section=HELD, what=what, who=who, runs=(value,), goal=goal))
    return figures


def start(_runs: int) -> list[Figure]:
    """From exec to the first answer on a passed socket, and the memory of idle daemons."""
    with tempfile.TemporaryDirectory(prefix="orchd-bench-") as name:
        config = write_config(Path(name), Shape())
        starts = [_first_answer_ms(config) for _ in range(STARTS)]
    with house(Shape()) as home:
        time.sleep(1.0)
        resident = {
            "orchd": proc.rss_kib(home.orchd) / 1024,
            "poolmgr": proc.rss_kib(home.poolmgr) / 1024,
        }
    ready = "exec to first answer on a passed socket (ms)"
    figures = [
        Figure(section=START, what=ready, who="orchd", runs=tuple(wall for wall, _ in starts)),
        Figure(section=START, what="CPU of it (ms)", who="orchd", runs=tuple(c for _, c in starts)),
    ]
    for who, mib in resident.items():
        figures.append(Figure(section=START, what="resident, idle (MiB)", who=who, runs=(mib,)))
    return figures


def _first_answer_ms(config: Path) -> tuple[float, float]:
    """Start orchd as socket activation does: the request waits in the socket already.

    Returns milliseconds by the clock, and of CPU.
    """
    with fds.bind_tcp("127.0.0.1", 0) as listener:
        host, port = listener.getsockname()
        with proc.connect(f"{host}:{port}") as client:
            client.sendall(b"GET /health HTTP/1.1\r\nHost: orchd\r\n\r\n")
            began = time.perf_counter()
            with proc.running(
                orchd_argv(config), log=config.with_name("log"), listeners=(listener,)
            ) as pid:
                answer = client.recv(4096)
                taken = time.perf_counter() - began
                cpu = proc.cpu_s(pid)
            if not answer.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(f"orchd answered {answer[:200]!r}")
            return taken * 1e3, cpu * 1e3
