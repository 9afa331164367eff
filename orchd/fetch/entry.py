"""A model's place in the cache: whole, or on its way; and the lock of who brings it. Blocks.

    NAME/model.json, NAME/files/...     whole and verified: it came here by one rename
    NAME.part/journal.json, .../files   on its way; a kill at any instant leaves it usable
    NAME.lock                           held, by the kernel, as long as somebody fetches it

`NAME` is wire/modelref.py's entry_name. Removing NAME forgets the model; nothing else knows of it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from attrs import frozen

from orchd.fetch.orders import Done, Progress
from orchd.fetch.parts import Partial
from orchd.kit import cached
from orchd.wire import codec, modelref
from orchd.wire.cached import Record, Shape
from orchd.wire.ids import Text

T = TypeVar("T")


@frozen(kw_only=True)
class Journal:
    """`journal.json`: the files on their way, by name."""

    files: Mapping[str, Partial]


class Entry:
    """One model in one cache folder."""

    def __init__(self, folder: Path, ref: str, shape: Shape) -> None:
        name = modelref.entry_name(ref)
        if shape is Shape.WHOLE:
            name += "-whole"  # llama.cpp and vLLM want different files of one repository
        self.folder = folder
        self.path = folder / name
        self.part = folder / f"{name}.part"
        self._lock = folder / f"{name}.lock"

    # looking, which writes nothing [CAT-LOCATE]

    def locate(self) -> Done | None:
        """Return the model if it is here, whole; None: it is not, or may not be seen."""
        found = cached.entry(self.path)
        if found is None:
            return None
        return Done(
            path=found.path,
            files=found.files,
            size_bytes=found.size_bytes,
            digest=Text(found.digest),
        )

    def told(self) -> Progress | None:
        """Return what the one who fetches it last said of it."""
        return _read(self.part / "progress.json", Progress)

    # making

    @contextlib.contextmanager
    def locked(self) -> Iterator[bool]:
        """Enter with True when the lock is ours until we leave; False: somebody else fetches.

        Raises OSError where the cache cannot be made or written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(
            self._lock, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644
        )
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(descriptor)

    def begun(self) -> dict[str, Partial]:
        """Return what of it is on its way; make the folder where nothing is."""
        (self.part / cached.FILES).mkdir(parents=True, exist_ok=True)
        journal = _read(self.part / "journal.json", Journal)
        return {} if journal is None else dict(journal.files)

    def file(self, name: str) -> Path:
        """Return where a file is while it is on its way; its folder is made."""
        path = self.part / cached.FILES / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def keep(self, files: Mapping[str, Partial]) -> None:
        """Write the journal, whole or not at all. What it counts must have been synced."""
        _write(self.part / "journal.json", codec.dumps(Journal(files=files)))

    def tell(self, progress: Progress) -> None:
        """Leave word for others who wait for the model."""
        _write(self.part / "progress.json", codec.dumps(progress), sync=False)

    def commit(self, record: Record) -> Done:
        """Make it whole by one rename [ORCH-3436]. Raises OSError."""
        files = self.part / cached.FILES
        named = {kept.name for kept in record.files}
        for path in sorted(files.rglob("*")):
            if path.is_file() and str(path.relative_to(files)) not in named:
                path.unlink()  # of an earlier listing
        for folder in (files, *(path for path in files.rglob("*") if path.is_dir())):
            _sync(folder)
        _write(self.part / cached.RECORD, codec.dumps(record))
        for name in ("journal.json", "progress.json"):
            (self.part / name).unlink(missing_ok=True)
        if self.path.exists():  # a record that could not be read, or files that have gone
            shutil.rmtree(self.path)
        self.part.rename(self.path)
        _sync(self.folder)
        done = self.locate()
        assert done is not None, "what was just written is there"
        return done

    def drop(self) -> None:
        """Forget what is on its way."""
        shutil.rmtree(self.part, ignore_errors=True)


def _read(path: Path, shape: type[T]) -> T | None:
    try:
        with path.open("rb") as file:
            return codec.loads(shape, file.read(cached.MAX_RECORD))
    except (OSError, codec.ShapeError):
        return None


def _write(path: Path, data: bytes, *, sync: bool = True) -> None:
    fresh = path.with_name(f"{path.name}.new")
    with fresh.open("wb") as file:
        file.write(data)
        file.flush()
        if sync:
            os.fsync(file.fileno())
    fresh.replace(path)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
