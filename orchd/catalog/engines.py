"""The catalog of engines: one record for each that was brought here, in an index of its own.

Its folder is `catalog` in the cache of engines, beside what the records speak of: who removes the
cache forgets both. One program writes at a time; a pool reads single records and changes nothing.
"""

from __future__ import annotations

from orchd.catalog.files import Folder
from orchd.catalog.shelf import SUFFIX, Shelf
from orchd.wire import codec
from orchd.wire.engines import EngineEntry

FOLDER = "catalog"


def shelf(cache: str) -> Shelf[EngineEntry]:
    """Return the index of the cache of engines at this path."""
    return Shelf(Folder(f"{cache}/{FOLDER}"), EngineEntry, record_id)


def record_id(entry: EngineEntry) -> str:
    """Return what names a record."""
    return entry.id


def find(cache: str, entry_id: str) -> EngineEntry | None:
    """Return one record; None: there is none that can be used. Writes nothing. Blocks."""
    folder = Folder(f"{cache}/{FOLDER}")
    try:
        return codec.loads(EngineEntry, folder.read(entry_id + SUFFIX))
    except (OSError, codec.ShapeError):
        return None
