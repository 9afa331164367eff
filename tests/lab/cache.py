"""The one folder where expensive test material is kept, and how it is built exactly once.

Here: where the folder is, the lock, and the rule that an entry exists only once it is complete.
Not here: what is built (rootfs, venvs, engines, models): those modules bring their recipes.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from attrs import frozen

# An entry that nothing asked for in two weeks belongs to an old recipe or a branch long merged.
STALE_AFTER_S = 14 * 24 * 3600.0

Inputs = Mapping[str, object]
Recipe = Callable[[Path], None]


def default_root() -> Path:
    """`$ORCHD_TEST_CACHE`, else `orchd-tests` under the user's XDG cache folder."""
    chosen = os.environ.get("ORCHD_TEST_CACHE")
    if chosen:
        return Path(chosen).absolute()
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification: a relative value is to be ignored.
    base = Path(xdg) if xdg.startswith("/") else Path.home() / ".cache"
    return base / "orchd-tests"


def digest(inputs: Inputs) -> str:
    """Twelve hex digits that change whenever anything that goes into a recipe changes."""
    text = json.dumps(inputs, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def file_digest(path: Path) -> str:
    """SHA-256 of a file, for recipes whose input is a file of this repository."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


@frozen
class Cache:
    """Entries are folders `NAME-DIGEST`; the stamp `NAME-DIGEST.json` says that one is complete.

    An entry is built in its final place (patched programs carry absolute paths), under a lock
    that other processes wait for. Whatever has no stamp is rubbish of a build that was cut short,
    and is built anew.
    """

    root: Path

    @classmethod
    def default(cls) -> Cache:
        """The cache that the environment chooses."""
        return cls(default_root())

    def path_of(self, name: str, inputs: Inputs) -> Path:
        """Where the entry is, or will be."""
        return self.root / f"{name}-{digest(inputs)}"

    def has(self, name: str, inputs: Inputs) -> bool:
        """True when asking for the entry costs nothing."""
        entry = self.path_of(name, inputs)
        return stamp_of(entry).is_file() and entry.is_dir()

    def build(self, name: str, inputs: Inputs, recipe: Recipe) -> Path:
        """The folder of the entry, built by `recipe(folder)` unless it is there already.

        `recipe` gets an existing, empty folder. What it raises comes out here and leaves no entry.
        """
        entry = self.path_of(name, inputs)
        stamp = stamp_of(entry)
        if self.has(name, inputs):
            mark_used(stamp)
            return entry
        with self.lock(entry.name):
            if not self.has(name, inputs):  # else another process built it while we waited
                stamp.unlink(missing_ok=True)
                remove_tree(entry)
                entry.mkdir(parents=True)
                began = time.monotonic()
                try:
                    recipe(entry)
                except BaseException:
                    remove_tree(entry)
                    raise
                write_stamp(stamp, inputs, time.monotonic() - began)
        self.forget_stale(name)
        return entry

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold the exclusive lock of that name; the kernel frees it if we are killed."""
        folder = self.root / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / name).open("a") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    def forget_stale(self, name: str) -> None:
        """Remove entries of `name`, made from other inputs, that nobody used for a while."""
        for stamp in self.root.glob(f"{name}-{'?' * 12}.json"):
            if is_stale(stamp):
                with self.lock(stamp.stem):
                    if is_stale(stamp):  # nobody asked for it while we waited
                        stamp.unlink()
                        remove_tree(stamp.with_suffix(""))


def stamp_of(entry: Path) -> Path:
    """The file beside an entry that vouches for it."""
    return entry.with_name(entry.name + ".json")


def write_stamp(stamp: Path, inputs: Inputs, seconds: float) -> None:
    """Write the stamp atomically, last of all; its text is for whoever wonders what this is."""
    facts = {"inputs": dict(inputs), "built_in_s": round(seconds, 2)}
    fresh = stamp.with_suffix(".json.new")
    fresh.write_text(json.dumps(facts, indent=1, default=str) + "\n")
    fresh.rename(stamp)


def is_stale(stamp: Path) -> bool:
    """Whether the entry was last asked for long ago (and is still there)."""
    try:
        return time.time() - stamp.stat().st_mtime > STALE_AFTER_S
    except FileNotFoundError:
        return False


def mark_used(stamp: Path) -> None:
    """Remember that the entry was wanted (an entry owned by somebody else is left alone)."""
    try:
        os.utime(stamp)
    except PermissionError:
        return


def remove_tree(path: Path) -> None:
    """Remove a folder that may not exist; rootfs folders hold files of every mode."""
    if path.exists():
        shutil.rmtree(path)
