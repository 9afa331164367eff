"""Looking into a cache of models, which writes nothing and asks nobody. Calls block.

What is in an entry is wire/cached.py's, how one comes to be orchd/fetch's. The cache belongs to
whoever fetches; who looks here may be another user, and believes no name that leads elsewhere.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from orchd.wire import codec, modelref
from orchd.wire.cached import Cached, Record
from orchd.wire.ids import DIGEST, Count, Digest, Text

RECORD: Final = "model.json"
FILES: Final = "files"
MAX_RECORD: Final = 8 << 20
MAX_ENTRIES: Final = 1024
"""Of one cache that are looked at; the catalog holds as many models."""
_OPEN: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def entry(path: Path) -> Cached | None:
    """Return the model of one entry, if it is whole [CAT-LOCATE]; None: it is not, or may not be
    seen."""
    try:
        record, written_ms = _record(path / RECORD)
        files = path / FILES
        names = [record.path, *record.model, *(kept.name for kept in record.files)]
        safe = all(name == "." or modelref.safe_name(name) for name in names)
        if not safe or not DIGEST.fullmatch(record.digest):
            return None
        if any((files / kept.name).stat().st_size != kept.size for kept in record.files):
            return None
    except (OSError, codec.ShapeError):
        return None
    return Cached(
        ref=record.ref,
        path=Text(os.path.normpath(files / record.path)),
        files=tuple(Text(str(files / name)) for name in record.model),
        size_bytes=Count(sum(kept.size for kept in record.files)),
        digest=Digest(record.digest),
        verified_ms=Count(written_ms),
    )


def entries(folders: Iterable[Path]) -> tuple[Cached, ...]:
    """Return the models of these caches, by reference and path; of a folder that is not there, or
    may not be seen, none."""
    found: dict[str, Cached] = {}
    for folder in folders:
        try:
            paths = sorted(folder.iterdir())
        except OSError:
            continue
        whole = [path for path in paths if not path.name.endswith((".part", ".lock"))]
        for path in whole[:MAX_ENTRIES]:
            cached = entry(path)
            if cached is not None:
                found[cached.path] = cached
    return tuple(sorted(found.values(), key=lambda cached: (cached.ref, cached.path)))


def _record(path: Path) -> tuple[Record, int]:
    """Return a record, and when it was written in Unix milliseconds. Raises OSError, ShapeError."""
    with os.fdopen(os.open(path, _OPEN), "rb") as file:
        said = os.fstat(file.fileno())
        if not stat.S_ISREG(said.st_mode):
            raise OSError("it is no plain file")
        return codec.loads(Record, file.read(MAX_RECORD)), said.st_mtime_ns // 1_000_000
