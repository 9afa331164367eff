"""The key that an engine of others asks for: read where `engine.api_key` says, shown nowhere.

A key in the file itself is refused by configuration. Read when the replica attaches, so that a
changed key needs no more than a restart of the pool.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from orchd.config.pool import Pool
from orchd.kit.redact import add_secret
from orchd.wire.errors import Kind, OrchError

MAX_BYTES: Final = 8 << 10


def read_key(pool: Pool) -> str | None:
    """Return the pool's key; None: it names none. It is redacted from then on.

    Raises OrchError(CONFIG_INVALID) that says where it was looked for.
    """
    said = pool.engine.api_key
    if said is None:
        return None
    kind, _, name = said.partition(":")
    if kind == "env":
        key = os.environ.get(name, "")
    else:
        key = _of_file(_credential(name) if kind == "credential" else Path(name), said)
    key = key.strip()
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise _wrong(said, "there is none, or it is no visible ASCII")
    add_secret(key)
    return key


def _credential(name: str) -> Path:
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    if not folder:
        why = "systemd passed none: LoadCredential= of the pool's unit does"
        raise _wrong(f"credential:{name}", why)
    return Path(folder) / name


def _of_file(path: Path, said: str) -> str:
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES).decode("utf-8", "replace")
    except OSError as exc:
        raise _wrong(said, str(exc.strerror)) from exc


def _wrong(said: str, why: str) -> OrchError:
    return OrchError(Kind.CONFIG_INVALID, f"engine.api_key {said}: {why}")
