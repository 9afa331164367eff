"""A cgroup of its own for the engine, where systemd has delegated ours to us.

The unit says Delegate=yes and DelegateSubgroup=supervisor: this process is in .../supervisor and
may make .../engine beside it. One write to cgroup.kill then ends every process that the engine
ever started, however it forked. Without delegation there is no cgroup, and child.py falls back to
a process group.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from attrs import frozen

SUPERVISOR: Final = "supervisor"
"""DelegateSubgroup= of units/poolmgr@.service."""
ENGINE: Final = "engine"
MOUNT: Final = Path("/sys/fs/cgroup")


@frozen
class Cgroup:
    """The engine's cgroup."""

    path: Path

    @property
    def procs(self) -> Path:
        """The file that a process writes 0 to in order to move in."""
        return self.path / "cgroup.procs"

    @property
    def unit(self) -> Path:
        """The unit's own, above the engine's: its counts include the engine's, and outlive it."""
        return self.path.parent

    def pids(self) -> frozenset[int]:
        """Return the processes in it."""
        try:
            return frozenset(int(pid) for pid in self.procs.read_text().split())
        except OSError:
            return frozenset()

    def kill(self) -> None:
        """Kill every process in it, now."""
        (self.path / "cgroup.kill").write_text("1")

    def remove(self) -> None:
        """Remove it; it must be empty. A cgroup that is still busy stays and is reused."""
        try:
            self.path.rmdir()
        except OSError:
            pass


def _unit(own: str | None, mount: Path) -> Path | None:
    """Return the cgroup of our unit, where it has been delegated to us."""
    try:
        text = Path("/proc/self/cgroup").read_text() if own is None else own
    except OSError:
        return None
    unified = [line[3:] for line in text.splitlines() if line.startswith("0::/")]
    if not unified or Path(unified[0]).name != SUPERVISOR:
        return None
    return mount / Path(unified[0]).parent.relative_to("/")


def left_over(names: Iterable[str], own: str | None = None, mount: Path = MOUNT) -> frozenset[int]:
    """Return the processes in engines' cgroups of these names, before we have started any."""
    unit = _unit(own, mount)
    if unit is None:
        return frozenset()
    return frozenset().union(*(Cgroup(unit / name).pids() for name in names))


def engine_cgroup(own: str | None = None, mount: Path = MOUNT, name: str = ENGINE) -> Cgroup | None:
    """Return a fresh cgroup for the engine, None where none has been delegated to us.

    `own` is the text of /proc/self/cgroup. Two engines at a time have a `name` each.
    """
    parent = _unit(own, mount)
    if parent is None:
        return None
    # moving a process needs write access to cgroup.procs of the common ancestor
    if not os.access(parent / "cgroup.procs", os.W_OK):
        return None
    cgroup = Cgroup(parent / name)
    try:
        cgroup.path.mkdir(exist_ok=True)
    except OSError:
        return None
    if not (cgroup.path / "cgroup.kill").exists():  # before Linux 5.14
        cgroup.remove()
        return None
    return cgroup
