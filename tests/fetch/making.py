"""Orders, contents and the fetch itself, as the tests want them."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from orchd.config.policy import Outbound
from orchd.fetch.fetch import fetch
from orchd.fetch.orders import Done, Order, Progress
from orchd.wire.errors import OrchError
from orchd.wire.ids import Text


def content(size: int, seed: int = 1) -> bytes:
    """Bytes that repeat nowhere."""
    return random.Random(seed).randbytes(size)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def read(path: str) -> bytes:
    return Path(path).read_bytes()


def below(folder: str) -> set[str]:
    """Return the files below a folder."""
    found = Path(folder).rglob("*")
    return {str(path.relative_to(folder)) for path in found if path.is_file()}


def order(ref: str, folder: Path, **more: Any) -> Order:
    outbound = Outbound(**more.pop("outbound", {}))
    return Order(
        ref=Text(ref),
        folder=Text(str(folder / "cache")),
        named_by=Text("pools[0].model.ref"),
        purpose=Text("model test"),
        outbound=outbound,
        **more,
    )


async def bring(
    ref: str, folder: Path, say: Callable[[Progress], None] = lambda _: None, **more: Any
) -> Done:
    return await fetch(order(ref, folder, **more), say, os.environ)


async def refused(ref: str, folder: Path, **more: Any) -> OrchError:
    """Return what a fetch that must fail says."""
    try:
        done = await bring(ref, folder, **more)
    except OrchError as exc:
        return exc
    raise AssertionError(f"it was fetched: {done}")
