"""poolmgr's own state folder, and how a small file in it is read and written: whole or not at all.

`$STATE_DIRECTORY` of its unit, else `pools` below state_dir. What the files hold is their users';
none of it is worth not starting for, so what cannot be read or written is told, with what is lost.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

from orchd.config.schema import Settings
from orchd.kit import log
from orchd.wire import codec


def folder(settings: Settings, environ: Mapping[str, str] = os.environ) -> Path:
    """Return the folder; it may not exist yet."""
    own = environ.get("STATE_DIRECTORY", "").partition(":")[0]
    return Path(own) if own else settings.state_dir / "pools"


def read(path: Path, cls: type[codec.T], max_bytes: int, event: str, lost: str) -> codec.T | None:
    """Return what a file holds. None: there is none, or it is of no use, which `event` tells."""
    try:
        with path.open("rb") as file:
            return codec.loads(cls, file.read(max_bytes))
    except FileNotFoundError:
        return None
    except (OSError, codec.ShapeError) as exc:
        log.event(event, f"{path} cannot be read ({exc}): {lost}.", level="warning")
        return None


def keep(path: Path, value: object, event: str, lost: str) -> None:
    """Write a file; when that fails `event` tells it."""
    try:
        write_whole(path, codec.dumps(value))
    except OSError as exc:
        log.event(event, f"{path} cannot be written ({exc.strerror}): {lost}.", level="warning")


def write_whole(path: Path, data: bytes) -> None:
    """Put `data` in the file's place: after a crash it is the old or the new.

    Raises OSError; on a full disk too it leaves nothing but the old file.
    """
    fresh = path.with_name(f"{path.name}.new")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with fresh.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError:
        with contextlib.suppress(OSError):  # the first error is the one to tell
            fresh.unlink(missing_ok=True)
        raise
