"""Measurements of admission: what a POST costs, beside what, and what a queued task holds.

The same on the core alone, without daemons, is in other files of this folder.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from tools.bench import proc
from tools.bench.figures import Figure
from tools.bench.house import House, Shape, house
from tools.bench.orders import Mode, Order, Window
from tools.bench.run import load

ADMIT: Final = "Admission (POST /v1/tasks, keep-alive), by how many are queued"
BESIDE: Final = "Admission while 64 streams of 50 tokens/s run, orchd and poolmgr on one core"
EDGES: Final = (10, 1010, 9_000, 10_000, 98_000, 100_000)
STREAMS: Final = 64
PACE: Final = 50
POSTS: Final = 2000
WARM_S: Final = 2.0
STREAMS_S: Final = 15.0
"""The streams run for longer than what is measured beside them."""


def admission(_runs: int) -> list[Figure]:
    """CPU of an admission while the queue grows to 100,000, and the memory of a queued task."""
    with house(Shape(slots=1, queue=EDGES[-1] + 1000, hang=True)) as home:
        order = Order(
            mode=Mode.ADMISSIONS,
            targets=(home.tasks,),
            pids=(home.orchd,),
            streams=8,
            max_tokens=1000,  # more than the engine says before it hangs: the slot stays taken
            windows=EDGES,
        )
        before = proc.pss_kib(home.orchd)
        windows = load(order).windows
        held = proc.pss_kib(home.orchd) - before
    figures = []
    for end, window in zip(EDGES[1::2], windows, strict=True):
        figures += _rates(ADMIT, f"{end - window.tasks:,} to {end:,} queued", window)
    return [
        *figures,
        Figure(
            section="A queued task in orchd, nobody reading its stream, 100,000 queued",
            what="memory of each (KiB, PSS)",
            who="orchd",
            runs=(held / EDGES[-1],),
        ),
    ]


def beside_streams(runs: int) -> list[Figure]:
    """Admissions a second, and the time to a 202, with a relay at work beside them."""
    taken: dict[tuple[str, str], list[float]] = {}
    for _ in range(runs):
        with house(Shape(tokens_per_s=PACE, slots=STREAMS, queue=20_000)) as home:
            for row, column, value in _beside(home):
                taken.setdefault((row, column), []).append(value)
    return [
        Figure(section=BESIDE, what=row, who=column, runs=tuple(values))
        for (row, column), values in taken.items()
    ]


def _beside(home: House) -> Iterator[tuple[str, str, float]]:
    """Yield row, column and value of one run."""
    streams = Order(
        mode=Mode.STREAMS,
        targets=(home.tasks,),
        streams=STREAMS,
        max_tokens=4000,
        warm_s=WARM_S,
        window_s=STREAMS_S,
    )
    one = Order(mode=Mode.ANSWERS, targets=(home.tasks,), tasks=POSTS, max_tokens=1000)
    many = Order(
        mode=Mode.ADMISSIONS,
        targets=(home.tasks,),
        pids=(home.orchd,),
        streams=8,
        max_tokens=1000,
        windows=(1000, 1000 + POSTS),
    )
    with ThreadPoolExecutor(1) as beside:
        relayed = beside.submit(load, streams)
        time.sleep(2 * WARM_S)
        waits = sorted(load(one).samples[0].ms)
        window = load(many).windows[0]
        if relayed.done():
            raise RuntimeError("the streams ended before the admissions beside them did")
        relay = relayed.result().windows[0]
    for share in (50, 99):
        yield f"202 after (ms), p{share}", "one client", waits[len(waits) * share // 100]
    yield "admissions/s", "one client", 1e3 / (sum(waits) / len(waits))
    yield "admissions/s", "8 clients", window.tasks / window.wall_s
    yield f"tokens/s relayed meanwhile, of {STREAMS * PACE}", "relay", relay.tokens / relay.wall_s


def _rates(section: str, what: str, window: Window) -> list[Figure]:
    cost = window.cpu_s[0] / window.tasks * 1e6
    return [
        Figure(section=section, what=what, who=who, runs=(value,))
        for who, value in (
            ("CPU of orchd (us)", cost),
            ("admissions for each second of CPU", 1e6 / cost),
            ("admissions/s by the clock", window.tasks / window.wall_s),
        )
    ]
