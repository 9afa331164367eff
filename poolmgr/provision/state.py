"""poolmgr's own state folder, and how a small file in it is written: whole or not at all.

`$STATE_DIRECTORY` of its unit, else `pools` below state_dir. What the files hold is their users'.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

from orchd.config.schema import Settings


def folder(settings: Settings, environ: Mapping[str, str] = os.environ) -> Path:
    """Return the folder; it may not exist yet."""
    own = environ.get("STATE_DIRECTORY", "").partition(":")[0]
    return Path(own) if own else settings.state_dir / "pools"


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
