"""Whether predictions can be trusted: what was promised to simulated tasks, and what came of it."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from statistics import median
from typing import Final

from attrs import frozen

from orchd.wire.shapes import Priority
from tools.bench.figures import Figure
from tools.bench.simulation import Record, Simulation
from tools.bench.workloads import LOADS, Load

WARM: Final = 0.1
"""The share of a run that is left out: a pool that knows nothing yet."""
ENOUGH: Final = 100
"""Promises that a tenth needs to be judged: the share of so many is known to 0.05."""
TASKS: Final = 4000
STARTS: Final = "Predicted starts of simulated tasks that had to wait"
TOLD: Final = "on_time_probability at admission: share in time, by the tenth that was told"
TOLD_LATER: Final = "The same, as told later to tasks that wait or run"


@frozen(kw_only=True)
class Decile:
    """The promises of one tenth of the probabilities."""

    promises: int
    promised: float
    """Their mean."""
    kept: float
    """The share of them that was in time."""

    @property
    def gap(self) -> float:
        """How far the two are apart; 0 where there are too few to say."""
        return abs(self.promised - self.kept) if self.promises >= ENOUGH else 0.0

    @property
    def sure_gap(self) -> float:
        """What is left of the gap after two standard errors of the share."""
        noise = 2 * math.sqrt(self.promised * (1 - self.promised) / max(1, self.promises))
        return max(0.0, self.gap - noise)


@frozen(kw_only=True)
class Calibration:
    """One workload's outcome, over all its runs. Tasks that started at once are told apart."""

    tasks: int
    waited: int
    refused: int
    covered: float
    """Share of the tasks that had to wait and started before their p90."""
    covered_batch: float | None
    before_median: float
    """Share that started before predicted_start_ms; 0.5 is unbiased."""
    p90_over_wait: float
    """How long p90 says it takes, over how long it took: medians. The closer to 1 the sharper."""
    unknown: int
    """Tasks that their deadline took before p90: nobody knows when they would have started."""
    told: tuple[Decile, ...]
    """on_time_probability at admission, by tenths."""
    told_later: tuple[Decile, ...]
    """What waiting and running tasks were told later."""

    @property
    def worst(self) -> float:
        """The largest gap of a tenth that is no chance."""
        return max(tenth.sure_gap for tenth in (*self.told, *self.told_later))


def calibrate(load: Load, tasks: int, seeds: Sequence[int]) -> Calibration:
    """Run a workload once for each seed, and compare."""
    records: list[Record] = []
    refused = 0
    for seed in seeds:
        jobs = load.jobs(random.Random(seed), tasks)  # noqa: S311  (a simulation, no secret)
        simulation = Simulation(load.machines, jobs, seed + 1)
        run = simulation.run()
        records += run[int(WARM * len(run)) :]
        refused += simulation.refused
    waited = [r for r in records if r.waited]
    known = [r for r in waited if r.covered is not None]
    batch = [r for r in known if r.job.priority is Priority.BATCH]
    starts = [(r, r.started_at) for r in waited if r.started_at is not None]
    wait = median(at - r.job.at for r, at in starts)
    return Calibration(
        tasks=len(records),
        waited=len(waited),
        refused=refused,
        covered=_share([bool(r.covered) for r in known]),
        covered_batch=_share([bool(r.covered) for r in batch]) if len(batch) >= ENOUGH else None,
        before_median=_share([at <= r.start_at for r, at in starts]),
        p90_over_wait=median(r.p90_at - r.job.at for r, _ in starts) / wait,
        unknown=len(waited) - len(known),
        told=_deciles([(r.chance, r.in_time) for r in records]),
        told_later=_deciles([(chance, r.in_time) for r in records for chance in r.asked]),
    )


def _deciles(promises: Sequence[tuple[float, bool]]) -> tuple[Decile, ...]:
    tenths: list[list[tuple[float, bool]]] = [[] for _ in range(10)]
    for chance, kept in promises:
        tenths[min(9, int(chance * 10))].append((chance, kept))
    return tuple(
        Decile(
            promises=len(found),
            promised=sum(p for p, _ in found) / max(1, len(found)),
            kept=_share([kept for _, kept in found]),
        )
        for found in tenths
    )


def _share(outcomes: Sequence[bool]) -> float:
    return sum(outcomes) / len(outcomes) if outcomes else 0.0


def predictions(runs: int) -> list[Figure]:
    """Simulate every workload, with as many seeds as there are runs."""
    figures: list[Figure] = []
    for load in LOADS:
        found = calibrate(load, TASKS, range(1, runs + 1))
        for who, value in (
            ("start before p90 (%)", 100 * found.covered),
            ("batch: before p90 (%)", 100 * (found.covered_batch or 0.0)),
            ("before predicted_start_ms (%)", 100 * found.before_median),
            ("p90 over wait", found.p90_over_wait),
            ("tasks that waited", found.waited),
            ("taken by their deadline before p90", found.unknown),
        ):
            if value:
                figures.append(Figure(section=STARTS, what=load.name, who=who, runs=(value,)))
        for section, tenths in ((TOLD, found.told), (TOLD_LATER, found.told_later)):
            cells = [
                Figure(section=section, what=load.name, who=f"{i / 10:.1f}", runs=(tenth.kept,))
                for i, tenth in enumerate(tenths)
                if tenth.promises >= ENOUGH and section == TOLD
            ]
            gap = max(tenth.gap for tenth in tenths)
            figures += cells
            figures.append(
                Figure(section=section, what=load.name, who="largest gap", runs=(gap,), goal=0.1)
            )
    return figures
