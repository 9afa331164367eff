"""The drawings under specs/machines are those of the tables."""

import runpy
from pathlib import Path

from orchd.core.state.task import TABLE

MACHINES = Path(__file__).parents[2] / "specs" / "machines"


def test_the_drawings_regenerate_without_a_difference() -> None:
    pages = runpy.run_path(str(MACHINES / "generate.py"))["PAGES"]
    assert {path.name for path in MACHINES.glob("*.md")} == set(pages)
    for name, draw in pages.items():
        assert (MACHINES / name).read_text() == draw(), (
            "run PYTHONPATH=. python specs/machines/generate.py"
        )


def test_the_drawing_has_every_step() -> None:
    drawn = (MACHINES / "task.md").read_text()
    arrows = [line.strip().split(": ") for line in drawn.splitlines() if ": " in line]
    steps = {(arrow, step) for arrow, *said in arrows for step in "".join(said).split(", ")}
    for (state, step), after in TABLE.items():
        assert (f"{state} --> {after}", step) in steps
