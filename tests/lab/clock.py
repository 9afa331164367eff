"""A wall clock that jumps: the preloaded library (fakeclock.c) and the offset that a test sets.

Here: the files and binds that put it into a machine, and the line that a unit needs. Not here:
what a daemon makes of it. The monotonic clock stays as it is, as with an operator's `date -s`.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from attrs import frozen

from tests.lab.cache import Cache
from tests.lab.cc import shared_library

SOURCE = Path(__file__).with_name("fakeclock.c")
LIBRARY = "libfakeclock.so"
INSIDE = Path("/opt/fakeclock")
DROP_IN = f"[Service]\nEnvironment=LD_PRELOAD={INSIDE / LIBRARY}\n"


@frozen
class FakeClock:
    """One for all units of a machine that have DROP_IN."""

    folder: Path

    @classmethod
    def create(cls, cache: Cache, folder: Path) -> FakeClock:
        """A clock of its own in `folder` (made if missing), which is right at first."""
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)  # service users inside a machine read it
        shutil.copy2(shared_library(cache, SOURCE, LIBRARY), folder / LIBRARY)
        return cls(folder)

    @property
    def binds(self) -> dict[Path, Path]:
        """Host path to inside path: what a Machine needs."""
        return {self.folder: INSIDE}

    def jump(self, seconds: int) -> None:
        """From now on the wall clock is so far ahead (less than 0: behind) of the true one."""
        fresh = self.folder / "offset.new"
        fresh.write_text(f"{seconds}\n")
        fresh.chmod(0o644)
        fresh.rename(self.folder / "offset")
