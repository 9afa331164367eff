"""How many processes the kernel has killed for memory: of a cgroup, and of the whole machine.

Taken when an engine starts and when it has ended; what the difference means is core/ending.py's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from attrs import frozen

VMSTAT: Final = Path("/proc/vmstat")


@frozen
class OomKills:
    """Counts of one moment. None: there is no such count."""

    own: int | None
    machine: int | None

    def since(self, before: OomKills) -> tuple[int | None, int]:
        """Return how many were added, of our own and of the machine's."""
        own = None if self.own is None or before.own is None else self.own - before.own
        return own, (self.machine or 0) - (before.machine or 0)


def oom_kills(cgroup: Path | None, vmstat: Path = VMSTAT) -> OomKills:
    """Return the counts of now. `cgroup` is the folder of the unit that holds the engine."""
    own = None if cgroup is None else _count(cgroup / "memory.events")
    return OomKills(own, _count(vmstat))


def _count(path: Path) -> int | None:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        name, _, count = line.partition(" ")
        if name == "oom_kill" and count.isdigit():
            return int(count)
    return None
