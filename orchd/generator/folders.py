"""Which folders an engine must be able to read, as far as the configuration names them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Final

from orchd.config.pool import Mode, Pool, is_file_ref
from orchd.config.schema import Settings
from orchd.wire.modelref import is_remote

HOMES: Final = ("/home", "/root", "/run/user")
"""What ProtectHome= is about (systemd.exec(5))."""


def of(settings: Settings, pool: Pool) -> tuple[str, ...]:
    """Return the folders of model, program and arguments, and `read_paths`; absolute, each once."""
    found = dict.fromkeys(os.path.normpath(path) for path in _named(settings, pool))
    return tuple(path for path in found if path.startswith("/"))


def fetches(pool: Pool) -> bool:
    """Whether the pool itself may have to fetch its model."""
    return pool.model.fetch and is_file_ref(pool) and is_remote(pool.model.ref)


def in_a_home(path: str) -> bool:
    """Whether other users are usually kept out there."""
    return any(path == home or path.startswith(home + "/") for home in HOMES)


def _named(settings: Settings, pool: Pool) -> Iterator[str]:
    model = settings.model_path(pool)
    if model is not None:
        yield _around(PurePosixPath(model))
    elif pool.model.cache_dir is not None and is_file_ref(pool) and is_remote(pool.model.ref):
        yield pool.model.cache_dir
    if pool.mode is not Mode.EXTERNAL:
        for word in (*pool.command, *pool.engine.args):
            path = PurePosixPath(word.partition("=")[2] if word.startswith("-") else word)
            if path.is_absolute():
                yield _around(path)
    built = pool.provisioning.source.cache_dir
    if built is not None:
        yield built
    yield from pool.read_paths


def _around(path: PurePosixPath) -> str:
    """Return the folder of a file; of one in a Hugging Face cache, that with what it links to.

    There `snapshots/REVISION/FILE` is a link into `blobs` beside `snapshots`.
    """
    for above in path.parents:
        if above.name == "snapshots":
            return str(above.parent)
    return str(path.parent)
