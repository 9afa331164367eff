"""Reading the heads of a model's files, and never more of them than a bound. Blocks: use a thread.

What the bytes mean is core/gguf.py's and core/safetensors.py's. What cannot be read stays unknown,
with the reason; the engine may still be able to.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeVar

from poolmgr.core import gguf, safetensors
from poolmgr.core.gguf import Malformed, Short, Value
from poolmgr.core.modelfile import Head

FIRST_BYTES: Final = 1 << 20
MAX_BYTES: Final = 64 << 20
"""Of one file. A vocabulary of 250,000 tokens with its merges takes some 10 MB."""
MAX_CONFIG: Final = 1 << 20
"""Of a config.json; usual ones have some 2 KiB."""
MAX_TENSORS: Final = 1 << 18
"""Over all files of one model."""

T = TypeVar("T")


def read_head(files: Sequence[Path]) -> Head:
    """Return what the heads of these files say together; the first one's keys count."""
    keys: dict[str, Value] = {}
    tensors: dict[str, int] = {}
    weights = 0
    for path in files:
        try:
            if path.suffix == ".safetensors":
                weights += _read(path, safetensors.weights_bytes)
                continue
            one = _read(path, gguf.parse)
        except (Malformed, OSError) as exc:
            return Head(why=f"{path.name} cannot be read: {exc}")
        keys = keys or dict(one.keys)
        tensors |= one.tensors
        weights += sum(one.tensors.values())
        if len(tensors) > MAX_TENSORS:
            return Head(why=f"{path.name} cannot be read: its files have too many tensors")
    return Head(keys=keys, tensors=tensors or None, weights_bytes=weights)


def read_config(folder: Path) -> Mapping[str, object]:
    """Return a model's config.json, as Hugging Face has it; empty where there is none to read."""
    try:
        with (folder / "config.json").open("rb") as file:
            said = json.loads(file.read(MAX_CONFIG))
    except (OSError, ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def _read(path: Path, parse: Callable[[bytes, int], T]) -> T:
    """Parse the file's first bytes, with more of them as long as they are short."""
    with path.open("rb") as file:
        size = path.stat().st_size
        count = FIRST_BYTES
        while True:
            file.seek(0)
            data = file.read(min(count, MAX_BYTES))
            try:
                return parse(data, size)
            except Short:
                if len(data) == size:
                    raise Malformed("it is cut short, or its header claims too much") from None
                if count >= MAX_BYTES:
                    bound = f"its header is larger than {MAX_BYTES >> 20} MiB"
                    raise Malformed(bound) from None
                count *= 4
