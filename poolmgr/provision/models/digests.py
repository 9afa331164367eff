"""SHA-256 of model files, remembered: what has not changed since is not read again.

A file is the same while its path, device, inode, size, mtime and ctime are. The hashes lie in
`digests` of poolmgr's state folder, for all its replicas; removing the file forgets them. What a
hash has to be is `model.digest`, compared in models.py.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from attrs import frozen

from orchd.wire.ids import Text
from poolmgr.provision import state

NAME: Final = "digests"
CHUNK_BYTES: Final = 4 << 20
MAX_KNOWN: Final = 64
"""Models; a workstation serves a few."""
MAX_FILES: Final = 128  # of one model: as many as a file of this size can hold
MAX_BYTES: Final = 4 << 20
SETTLED_S: Final = 1.0
"""A file that was written within this time may change once more under the same mtime: the kernel's
clock for it ticks every 4 ms. Such a hash is not kept."""


@frozen(kw_only=True)
class Known:
    """One model's files and their hash."""

    files: tuple[Text, ...]
    """The mark of each: device, inode, size, mtime, ctime and path."""
    sha256: str


@frozen(kw_only=True)
class Digests:
    """The file's content, the oldest first."""

    known: tuple[Known, ...] = ()


def sha256(files: Sequence[Path], memory: Path) -> str:
    """Return the hex digest of these files, one after the other: that of `cat FILES`. Blocks.

    `memory` is the file with the hashes of before. Raises OSError for what cannot be read.
    """
    marks = tuple(map(_mark, files))
    digests = _load(memory)
    for one in digests.known:
        if one.files == marks:
            return one.sha256
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
    found = digest.hexdigest()
    settled = all(time.time() - path.stat().st_mtime > SETTLED_S for path in files)
    if settled and len(marks) <= MAX_FILES and tuple(map(_mark, files)) == marks:
        _keep(memory, digests, Known(files=marks, sha256=found))
    return found


def _mark(path: Path) -> Text:
    said = path.stat()
    numbers = (said.st_dev, said.st_ino, said.st_size, said.st_mtime_ns, said.st_ctime_ns)
    return Text(f"{' '.join(map(str, numbers))} {path.absolute()}")


def _path(mark: str) -> str:
    return mark.split(" ", 5)[-1]


def _load(memory: Path) -> Digests:
    lost = "models are hashed again"
    return state.read(memory, Digests, MAX_BYTES, "digests_forgotten", lost) or Digests()


def _keep(memory: Path, digests: Digests, new: Known) -> None:
    paths = [_path(mark) for mark in new.files]
    others = [one for one in digests.known if [_path(mark) for mark in one.files] != paths]
    kept = Digests(known=(*others[1 - MAX_KNOWN :], new))
    state.keep(memory, kept, "digests_not_kept", "the model is hashed at every start")
