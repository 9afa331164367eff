"""A shelf: records of one kind, each in a JSON file that has its id as name. Generic over the kind.

It holds nothing in memory; whoever opened it keeps what `load` found. Calls block (files.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Generic, TypeVar

from attrs import frozen

from orchd.catalog.files import Folder
from orchd.wire import codec

R = TypeVar("R")
SUFFIX: Final = ".json"


@frozen
class Spoiled:
    """A file that could not be used, and where it is now."""

    path: str
    why: str


@frozen
class Shelf(Generic[R]):
    """The records of one folder."""

    folder: Folder
    kind: type[R]
    id_of: Callable[[R], str]

    def load(self) -> tuple[dict[str, R], list[Spoiled]]:
        """Open the folder; return every record by its id, and what was set aside.

        A file that is cut off, edited by hand or misnamed never stops the others. Raises OSError
        when the folder itself cannot be used.
        """
        self.folder.open()
        found: dict[str, R] = {}
        spoiled: list[Spoiled] = []
        for name in self.folder.names():
            record = self._read(name, spoiled)
            if record is not None:
                found[self.id_of(record)] = record
        return found, spoiled

    def write(self, record: R) -> None:
        """Keep a record, in the place of the one of its id. Raises OSError."""
        self.folder.write(self.id_of(record) + SUFFIX, codec.dumps(record))

    def remove(self, record_id: str) -> None:
        """Forget a record. Raises OSError."""
        self.folder.remove(record_id + SUFFIX)

    def _read(self, name: str, spoiled: list[Spoiled]) -> R | None:
        try:
            record = codec.loads_known(self.kind, self.folder.read(name))
            if self.id_of(record) + SUFFIX == name:
                return record
            why = f"it holds {self.id_of(record)}, which is not its name"
        except (codec.ShapeError, OSError) as exc:
            why = str(exc)
        spoiled.append(aside(self.folder, name, why))
        return None


def aside(folder: Folder, name: str, why: str) -> Spoiled:
    """Set a file aside that cannot be used; where that fails it stays and is passed over."""
    try:
        return Spoiled(folder.set_aside(name), why)
    except OSError as exc:
        return Spoiled(f"{folder.path}/{name}", f"{why}; it could not be set aside: {exc}")
