"""Where the daemons read the wall clock: only for what people read, or what outlives a restart.

A deadline by the wall clock would fire, or never, when somebody sets it; the jump itself is
tests/system/test_chaos.py's.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WALL_CLOCK = {
    "time": {"time", "time_ns", "localtime", "gmtime", "ctime", "strftime"},
    "datetime": {"now", "utcnow", "today"},
    "date": {"today"},
}
ALLOWED = {
    "orchd/edge/artifacts.py": "created_ms of a record",
    "orchd/edge/jobs.py": "created_ms of a record",
    "orchd/edge/catalog.py": "created_ms, at_ms, and the retirement of a model, kept over restarts",
    "orchd/kit/heads.py": "the Date header",
    "orchd/policy/gate.py": "the time of day in a question to a policy plugin",
    "orchd/kit/log.py": "the timestamp of a line",
    "poolmgr/edge/trial.py": "the timestamp of a report",
    "poolmgr/provision/models/digests.py": "a file's age, against its mtime",
    "poolmgr/provisioner.py": "created_ms of an engine, and the name of its log",
}


def wall_clock_reads(source: str) -> Iterator[int]:
    """Lines that call the wall clock, by whatever name its module was imported."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            if isinstance(node.value, ast.Name | ast.Attribute):
                owner = node.value.id if isinstance(node.value, ast.Name) else node.value.attr
                if node.attr in WALL_CLOCK.get(owner, ()):
                    yield node.lineno
            if node.attr in ("CLOCK_REALTIME", "CLOCK_REALTIME_COARSE", "CLOCK_TAI"):
                yield node.lineno
        if (
            isinstance(node, ast.ImportFrom)
            and node.module == "time"
            and {each.name for each in node.names} & WALL_CLOCK["time"]
        ):
            yield node.lineno


@pytest.mark.req("ORCH-3051")
def test_the_daemons_read_the_wall_clock_for_people_only() -> None:
    found = {
        str(path.relative_to(ROOT)): lines
        for room in ("orchd", "poolmgr")
        for path in sorted((ROOT / room).rglob("*.py"))
        if "orchd/cli" not in str(path) and (lines := list(wall_clock_reads(path.read_text())))
    }
    assert set(found) == set(ALLOWED), found


def test_each_way_to_the_wall_clock_is_seen() -> None:
    ways = (
        "import time\ntime.time()",
        "import time\nf = time.time_ns",
        "from time import time",
        "import datetime as dt\ndt.datetime.now()",
        "from datetime import date\ndate.today()",
        "import time\ntime.clock_gettime(time.CLOCK_REALTIME)",
    )
    for way in ways:
        assert list(wall_clock_reads(way)), way
    assert not list(wall_clock_reads("import time\ntime.monotonic()\ntrio.current_time()"))
