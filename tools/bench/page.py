"""Where figures are written down (tables between two marks of a page), and what they depend on."""

from __future__ import annotations

import datetime as dt
import os
import platform
from pathlib import Path
from typing import Final

END: Final = "<!-- end -->"


def machine() -> str:
    """Return what the figures depend on beside the code."""
    today = dt.datetime.now(dt.UTC).date()
    load_1, _, load_15 = os.getloadavg()
    return (
        f"{today}, {os.cpu_count()} cores ({_cpu()}), Linux {platform.release()}, "
        f"Python {platform.python_version()}; load average {load_1:.1f} (15 min: {load_15:.1f})."
    )


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def write(path: Path, program: str, tables: str) -> None:
    """Replace the tables that `program` wrote before. Raises SystemExit without their marks."""
    begin = f"<!-- python -m {program} --write: begin -->"
    head, found, rest = path.read_text().partition(begin)
    _, end, tail = rest.partition(END)
    if not found or not end:
        raise SystemExit(f"{path} lacks the lines {begin} and {END}")
    path.write_text(f"{head}{begin}\n{tables}\n{END}{tail}")
