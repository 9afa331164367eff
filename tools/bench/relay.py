"""Measurements of the relay: time to the first token, and CPU for each token, beside others.

CPU time comes before wall time: on a shared machine it is what can be trusted. Each run asks every
program in turn, so that all see the same minutes of the machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Final

from attrs import evolve

from tools.bench import proc
from tools.bench.baselines import Baseline, baselines
from tools.bench.figures import SUITE, Figure
from tools.bench.house import House, Shape, house
from tools.bench.orders import Mode, Order, Window
from tools.bench.run import load

STARLETTE: Final = "Starlette + httpx"
SILENCE_S: Final = 0.01
TASK_TOKENS: Final = 4000
FLAT_GOAL: Final = 250_000
"""Tokens a second that both daemons carry with one core."""


def first_token(runs: int) -> list[Figure]:
    """Time to the first token, and what each adds to the bare engine's. No process is pinned.

    One stream at a time: the next is asked for when the last has ended, or, in a table without a
    goal, after SILENCE_S, in which a machine lets its caches go cold and its cores sleep.
    """
    with house(Shape(slots=4)) as home, baselines(home) as others:
        proc.roam((home.orchd, home.poolmgr, home.engine, *(other.pid for other in others)))
        targets = (home.bare, home.tasks, *(other.target for other in others))
        order = Order(mode=Mode.FIRST, targets=targets, tasks=400, in_a_row=50, max_tokens=4)
        rare = evolve(order, tasks=100, in_a_row=1, gap_s=SILENCE_S)
        silence = f"each after {SILENCE_S * 1000:.0f} ms of silence"
        return [
            *_firsts("", home.bare.name, order, runs, {"added at p50": 1.0, "added at p99": 4.0}),
            *_firsts(f", {silence}", home.bare.name, rare, runs, {}),
        ]


def _firsts(
    which: str, bare: str, order: Order, runs: int, goals: dict[str, float]
) -> list[Figure]:
    taken: dict[tuple[str, str], list[float]] = {}
    for _ in range(runs):
        ordered = {s.name: sorted(s.ms) for s in load(order, roams=True).samples}
        for share in (50, 99):
            base = _quantile(ordered[bare], share)
            for who, samples in ordered.items():
                at = _quantile(samples, share)
                taken.setdefault((f"p{share}", who), []).append(at)
                if who != bare:
                    taken.setdefault((f"added at p{share}", who), []).append(at - base)
    return [
        Figure(
            section=f"Time to first token, one stream at a time{which} (ms)",
            what=what,
            who=who,
            runs=tuple(values),
            goal=goals.get(what) if who == SUITE else None,
        )
        for (what, who), values in taken.items()
    ]


def paced(runs: int) -> list[Figure]:
    """CPU for each token at 50 tokens/s of each stream."""
    figures: list[Figure] = []
    with house(Shape(tokens_per_s=50, slots=256)) as home, baselines(home) as others:
        for streams in (64, 256):
            order = Order(
                mode=Mode.STREAMS, targets=(home.tasks,), streams=streams, max_tokens=TASK_TOKENS
            )
            cost = _costs(_windows(home, others, order, runs))
            # the rule of the first issue: two hops of ours below one of Starlette's
            goal = median(cost[STARLETTE]) if streams == 64 else None
            figures += _rows(cost, f"{streams} streams x 50 tokens/s", goal)
    return figures


def flat(runs: int) -> list[Figure]:
    """CPU for each token, and tokens/s on one core, when the engine never waits."""
    with house(Shape(slots=16)) as home, baselines(home) as others:
        order = Order(
            mode=Mode.STREAMS, targets=(home.tasks,), streams=16, max_tokens=TASK_TOKENS, again=True
        )
        windows = _windows(home, others, order, runs)
        bare = evolve(order, targets=(home.bare,), pids=(home.engine,))
        windows["bare engine"] = [load(bare).windows[0] for _ in range(runs)]
    cost = _costs({who: taken for who, taken in windows.items() if who != "bare engine"})
    figures = _rows(cost, "16 streams flat out", 1e6 / FLAT_GOAL)
    for who, taken in windows.items():
        clock = [w.tokens / w.wall_s for w in taken]
        busy = [100 * w.load_cpu_s / w.wall_s for w in taken]
        ours = FLAT_GOAL if who == SUITE else None
        figures += [
            _rate("for each second of CPU", who, [w.tokens / sum(w.cpu_s) for w in taken], ours),
            _rate("by the clock, measured programs sharing one core", who, clock),
            _rate("CPU of the load generator meanwhile (% of a core)", who, busy),
        ]
    return figures


def _windows(
    home: House, others: Sequence[Baseline], order: Order, runs: int
) -> dict[str, list[Window]]:
    """Return a window of each program for each run."""
    taken: dict[str, list[Window]] = {SUITE: []}
    for _ in range(runs):
        ours = evolve(order, targets=(home.tasks,), pids=home.daemons)
        taken[SUITE] += load(ours).windows
        for other in others:
            theirs = evolve(order, targets=(other.target,), pids=(other.pid,))
            taken.setdefault(other.target.name, []).extend(load(theirs).windows)
    return taken


def _costs(windows: dict[str, list[Window]]) -> dict[str, list[float]]:
    """Return microseconds of CPU for each token, one value for each run; ours also apart."""
    costs: dict[str, list[float]] = {}
    for who, taken in windows.items():
        if who == SUITE:
            for index, daemon in enumerate(("orchd", "poolmgr")):
                costs[daemon] = [w.cpu_s[index] / w.tokens * 1e6 for w in taken]
        costs[who] = [sum(w.cpu_s) / w.tokens * 1e6 for w in taken]
    return costs


def _rows(costs: dict[str, list[float]], what: str, goal: float | None) -> list[Figure]:
    return [
        Figure(
            section="CPU for each relayed token (us)",
            what=what,
            who=who,
            runs=tuple(values),
            goal=goal if who == SUITE else None,
        )
        for who, values in costs.items()
    ]


def _rate(what: str, who: str, runs: list[float], goal: float | None = None) -> Figure:
    section = "Tokens a second, 16 streams flat out"
    return Figure(section=section, what=what, who=who, runs=tuple(runs), goal=goal, at_least=True)


def _quantile(ordered: Sequence[float], share: int) -> float:
    """Return the value that `share` percent of `ordered` do not exceed."""
    return ordered[min(len(ordered) - 1, len(ordered) * share // 100)]
