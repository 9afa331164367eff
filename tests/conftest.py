"""What holds for every test: Hypothesis' profile, who may run what, and the closing lines.

Fixtures of one room live in that room's conftest; the lab's real parts in tests/lab.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import settings

from orchd.kit import run
from tests.bdd.words import WORDS

pytest_plugins = ("tests.lab.fixtures", "tests.bdd.heard", "tests.bdd.strict", *WORDS)

# The same examples on every run, and no verdict that hangs on a busy machine's speed.
settings.register_profile("orchd", derandomize=True, deadline=None, database=None)
settings.load_profile("orchd")

NEEDS_A_GPU = (
    "NVML names the real devices, their VRAM and the engine's process on exactly the masked GPUs",
    "VRAM is back after an engine was stopped or killed",
    "an engine built with CUDA decodes the same bytes on every replica of a set",
    "Xid and ECC events of a real driver make a pool unready",
    "NVML counts GPUs that DeviceAllow= closes to a pool, so indices stay, as its manual says",
    "DeviceAllow= on real /dev/nvidia* nodes (proven with a fake node where root boots systemd)",
)


@pytest.fixture(autouse=True)
def core_dumps_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon's main() turns them off in its process for good: only root could undo that."""
    monkeypatch.setattr(run, "_leave_no_core_dump", lambda: None)


def has_gpu() -> bool:
    """An NVIDIA device node and the driver's library are both there."""
    if not Path("/dev/nvidia0").exists():
        return False
    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return False
    return True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """An ordinary user cannot boot a machine: say so instead of failing."""
    if os.geteuid() != 0:
        skip = pytest.mark.skip(reason="needs root: run sudo make test")
        for item in items:
            if item.get_closest_marker("system"):
                item.add_marker(skip)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """After a run of the whole: what was skipped and why, and what no test here can show."""
    if terminalreporter.config.args_source is not pytest.Config.ArgsSource.TESTPATHS:
        return
    write = terminalreporter.write_line
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = Counter(_reason(report) for report in skipped)
    write("")
    write(f"skipped: {len(skipped)}" + (", by reason:" if skipped else ""))
    for reason, count in reasons.most_common():
        write(f"  {count:4d}  {reason}")
    for name, line in _measured(terminalreporter):
        write(f"{name}: {line}")
    if not has_gpu():
        write("not proven here: no GPU:")
        for sentence in NEEDS_A_GPU:
            write(f"  - {sentence}")


def _measured(terminalreporter: pytest.TerminalReporter) -> list[tuple[str, object]]:
    """What tests that passed have recorded of themselves (`record_property`)."""
    passed = terminalreporter.stats.get("passed", [])
    return [found for report in passed for found in report.user_properties]


def _reason(report: pytest.TestReport) -> str:
    """The sentence of pytest.skip(), without its place."""
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return re.sub(r"^Skipped: ", "", text)
