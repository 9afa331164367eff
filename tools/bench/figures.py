"""Figures, and how people read them: one Markdown table for each section. JSON comes from attrs.

Where they come from is measures.py's; what they mean is written in specs/benchmarks.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from attrs import frozen

SUITE = "orchd + poolmgr"


@frozen(kw_only=True)
class Figure:
    """One cell: what was measured of whom, once for each run."""

    section: str
    what: str
    """The row, with its unit."""
    who: str
    """The column."""
    runs: tuple[float, ...]
    goal: float | None = None
    at_least: bool = False
    """The goal is a floor; else a ceiling."""

    @property
    def value(self) -> float:
        """The median over the runs."""
        return median(self.runs)

    @property
    def met(self) -> bool:
        """Whether the median is on the right side of the goal, if there is one."""
        if self.goal is None:
            return True
        return self.value >= self.goal if self.at_least else self.value <= self.goal


def markdown(figures: Sequence[Figure]) -> str:
    """Return the tables. A cell is the median, with the range when there were several runs."""
    sections = dict.fromkeys(figure.section for figure in figures)
    return "\n".join(_table([f for f in figures if f.section == section]) for section in sections)


def _table(figures: Sequence[Figure]) -> str:
    columns = list(dict.fromkeys(figure.who for figure in figures))
    lines = [
        f"### {figures[0].section}",
        "",
        "| | " + " | ".join(columns) + " | goal |",
        "|---" * (len(columns) + 2) + "|",
    ]
    for what in dict.fromkeys(figure.what for figure in figures):
        row = {figure.who: figure for figure in figures if figure.what == what}
        cells = [_cell(row[who]) if who in row else "" for who in columns]
        lines.append(f"| {what} | " + " | ".join(cells) + f" | {_goal(list(row.values()))} |")
    return "\n".join([*lines, ""])


def _cell(figure: Figure) -> str:
    text = _short(figure.value)
    if len(figure.runs) > 1:
        text += f" ({_short(min(figure.runs))} to {_short(max(figure.runs))})"
    return f"**{text}**" if figure.goal is not None else text


def _goal(row: Sequence[Figure]) -> str:
    for figure in row:
        if figure.goal is not None:
            sign = "at least" if figure.at_least else "at most"
            return f"{sign} {_short(figure.goal)}: {'met' if figure.met else '**not met**'}"
    return ""


def _short(value: float) -> str:
    """Return three digits, or whole thousands with a comma."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"
