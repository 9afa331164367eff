"""Units as plain data, their way to disk, and the last good ones, kept for a file that is refused.

Which units there are is plan.py's. Standard library only: this runs at every daemon-reload.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Final, NamedTuple


class Units(NamedTuple):
    """What the generator writes below its output folder; a key is a path in there."""

    files: dict[str, str]
    """Path -> text."""
    links: dict[str, str]
    """Path -> what the symbolic link leads to."""
    instances: tuple[str, ...]
    """`POOL:MASK` of each."""


NONE: Final = Units({}, {}, ())


class Kept(NamedTuple):
    """Units and what they were made of."""

    key: str
    units: Units


def write(units: Units, out: Path) -> None:
    """Write units below `out`, which systemd has emptied. Raises OSError."""
    for name, text in units.files.items():
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    for name, target in units.links.items():
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(target)


def keep(kept: Kept, path: Path) -> None:
    """Keep the units of a file that was accepted. Raises OSError."""
    beside = path.with_name(path.name + ".new")
    beside.write_text(json.dumps({"key": kept.key, **kept.units._asdict()}), encoding="utf-8")
    beside.replace(path)


def recall(path: Path) -> Kept | None:
    """Return what was kept; None when there is nothing that we wrote."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        if path.stat().st_uid == os.geteuid():
            found = json.loads(path.read_text(encoding="utf-8"))
            units = Units(found["files"], found["links"], tuple(found["instances"]))
            return Kept(found["key"], units)
    return None
