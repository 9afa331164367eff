"""kill -9 at every step of every change: what is opened afterwards is the old state or the new."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from orchd.catalog.artifacts import Store
from tests.catalog.killer import SCENARIOS, models

State = tuple[frozenset[tuple[str, int]], frozenset[str]]


def opened(folder: Path) -> State:
    """Open both stores, as orchd does at its start, and return all that they hold."""
    found, spoiled = models(str(folder)).load()
    records, spoiled_too = Store.at(f"{folder}/artifacts").load()
    assert spoiled + spoiled_too == []
    store = Store.at(f"{folder}/artifacts")
    for record in records:
        assert store.content(record)  # whole, and what its digest says
    left = {path.name for path in folder.rglob("*") if path.is_file()}
    kept = {f"{each}.json" for each in found} | {f"{record.id}.json" for record in records}
    kept |= {record.digest.removeprefix("sha256:") for record in records}
    assert {name for name in left if not name.endswith(".bad")} == kept, "nothing is left over"
    return (
        frozenset((each, record.created_ms) for each, record in found.items()),
        frozenset(record.id for record in records),
    )


@pytest.mark.req("ORCH-3037", "ORCH-3436")
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_kill_at_any_step_leaves_the_old_state_or_the_new(scenario: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.catalog.killer", str(tmp_path), scenario],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    steps = json.loads(done.stdout)
    called = [name for name, _ in steps[:-1]]
    assert steps[-1] == ["", True]  # the last one got through
    new = opened(tmp_path / str(len(called)))
    before = tmp_path / "old"
    before.mkdir()
    SCENARIOS[scenario][0](str(before))
    old = opened(before)
    for step, (_, told) in enumerate(steps):
        state = opened(tmp_path / str(step))
        assert state in (old, new), f"killed before {called[step]} (step {step})"
        assert state == new or not told
    if "open" not in scenario and "aside" not in scenario:
        assert old != new
        # on disk before its name, and the name before it is told
        assert called[-3:-1] == ["open", "fsync"] or called[-2:] == ["fsync", "close"]
        if "less" not in scenario:
            assert called.count("write") > 3, "kills fall inside of files too"
            at = called.index("rename")
            assert called[at - 2 : at + 4] == ["fsync", "close", "rename", "open", "fsync", "close"]
