"""A pytest plugin: which kinds of event the scenarios heard, of all that the daemons can tell.

The closing line of a run is the figure of narration coverage [ORCH-3307]. Events for people have a
sentence (`human`); what the daemons can tell is read out of their sources.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

ROOT: Final = Path(__file__).parents[2]
DAEMONS: Final = ("orchd/core", "orchd/edge", "orchd/kit", "orchd/daemon.py", "poolmgr")
TELLERS: Final = {"event", "report", "Note", "_of_task", "_of_replica"}
"""What events are told by: log.event, exchange.report, core's notes."""
NAME: Final = re.compile(r"[a-z]+(?:_[a-z]+)*")
HEARD: Final = pytest.StashKey[set[str]]()


def tellable(root: Path = ROOT) -> set[str]:
    """Return the names of all events for people in the daemons' sources."""
    found: set[str] = set()
    for part in DAEMONS:
        path = root / part
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            found.update(told_in(file.read_text()))
    return found


def told_in(source: str) -> Iterator[str]:
    """Yield the names of events that a source tells, but for those of level debug."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or _name(node.func) not in TELLERS:
            continue
        texts = [a.value for a in node.args if isinstance(a, ast.Constant)]
        names = [text for text in texts if isinstance(text, str) and NAME.fullmatch(text)]
        levels = [k.value for k in node.keywords if k.arg == "level"]
        debug = any(isinstance(v, ast.Constant) and v.value == "debug" for v in levels)
        if names and not debug:
            yield names[0]


def _name(func: ast.expr) -> str:
    return getattr(func, "attr", "") or getattr(func, "id", "")


def figure(heard: Iterable[str], known: set[str]) -> list[str]:
    """Return the closing lines: how many kinds were heard, and which were not."""
    hit, missed = known & set(heard), sorted(known - set(heard))
    share = 100 * len(hit) / len(known)
    told = (
        f"narration: the scenarios heard {len(hit)} of {len(known)} kinds of event ({share:.0f} %)"
    )
    return [told, f"  not heard: {', '.join(missed)}"] if missed else [told]


def keep(config: pytest.Config, events: Iterable[dict[str, Any]]) -> None:
    """Remember what a suite has told; a worker of xdist hands it to its controller."""
    heard = config.stash.setdefault(HEARD, set())
    heard.update(event["event"] for event in events)
    output = getattr(config, "workeroutput", None)
    if output is not None:
        output["heard"] = sorted(heard)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what a worker of xdist heard."""
    heard = node.config.stash.setdefault(HEARD, set())
    heard.update(getattr(node, "workeroutput", {}).get("heard", ()))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Write the figure, where scenarios ran."""
    heard = terminalreporter.config.stash.get(HEARD, set())
    if heard:
        for line in figure(heard, tellable()):
            terminalreporter.write_line(line)
