"""The small file that keeps what running out of VRAM has taught a replica, over restarts and boots.

It lies in poolmgr's own state folder, `POOL:MASK.capacity`: `$STATE_DIRECTORY` of its unit, else
`pools` below state_dir. Removing it forgets everything. What a lesson means is core/capacity.py's.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from orchd.config.pool import Pool
from orchd.config.schema import Settings
from orchd.wire.ids import DeviceMask, Positive, ReplicaId, Text
from poolmgr.core.capacity import MAX_LESSONS, Key, Lessons
from poolmgr.provision import state
from poolmgr.provision.models.models import Staged

MAX_BYTES: Final = MAX_LESSONS * (16 << 10)


def file_of(
    settings: Settings, replica_id: ReplicaId, environ: Mapping[str, str] = os.environ
) -> Path:
    """Return where this replica's lessons are."""
    return state.folder(settings, environ) / f"{replica_id}.capacity"


def key_of(pool: Pool, mask: DeviceMask, model: Staged, program: str) -> Key:
    """Return what a lesson would be about. Another build of the engine is another engine."""
    model_words = pool.model.digest or _identity(model.path, model.name)
    found = Path(shutil.which(program) or program)
    arguments = hashlib.sha256("\0".join(pool.engine.args).encode()).hexdigest()[:16]
    pin = pool.engine.version or "unpinned"
    return Key(
        model=Text(model_words),
        engine=Text(f"{pool.engine.id} {pin} {_identity(found, program)} {arguments}"),
        ctx=pool.ctx,
        slots=Positive(pool.slots),
        mask=Text(str(mask)),
    )


def _identity(path: Path | None, name: str) -> str:
    try:
        if path is not None:
            said = path.stat()
            return f"{path.name} {said.st_size} {said.st_mtime_ns}"
    except OSError:
        pass
    return name


def load(path: Path) -> Lessons:
    """Return what is remembered; nothing where the file is missing or cannot be read."""
    lost = "what running out of VRAM has taught is forgotten"
    return state.read(path, Lessons, MAX_BYTES, "capacity_forgotten", lost) or Lessons()


def save(path: Path, lessons: Lessons) -> None:
    """Write the file. What cannot be written is learnt again."""
    lost = "after a restart the model is tried again with as little VRAM as before"
    state.keep(path, lessons, "capacity_not_kept", lost)
