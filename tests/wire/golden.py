"""Reads contracts/golden. Not here: what the frames mean, and how they are made (orchd.wire)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

FOLDER = Path(__file__).resolve().parents[2] / "contracts" / "golden"


def names(folder: str, suffix: str) -> list[str]:
    """The golden files of one folder, sorted."""
    found = sorted(path.name.removesuffix(suffix) for path in (FOLDER / folder).glob(f"*{suffix}"))
    assert found, f"no golden files in {folder}"
    return found


def hex_bytes(name: str) -> bytes:
    """The bytes of link/NAME.hex."""
    lines = (FOLDER / "link" / f"{name}.hex").read_text().splitlines()
    return bytes.fromhex(" ".join(line for line in lines if not line.startswith("#")))


def comment(name: str, pattern: str) -> str:
    """The first group of `pattern` in the comments of link/NAME.hex; empty when it is not there."""
    text = (FOLDER / "link" / f"{name}.hex").read_text()
    match = re.search(rf"^# {pattern}$", text, re.MULTILINE)
    return match[1] if match else ""


def sse_bytes(name: str) -> bytes:
    """The bytes of sse/NAME.sse."""
    return (FOLDER / "sse" / f"{name}.sse").read_bytes()


def load(path: str) -> Any:
    """A JSON file."""
    return json.loads((FOLDER / path).read_text())


def fed_in_every_way(
    make: Callable[[], Callable[[bytes], list[T]]], data: bytes
) -> Iterator[tuple[str, list[T]]]:
    """Feed `data` to fresh decoders: whole, byte by byte, and split in two at every place."""
    yield "whole", make()(data)
    feed = make()
    yield "byte by byte", [item for at in range(len(data)) for item in feed(data[at : at + 1])]
    for at in range(1, len(data), max(1, len(data) // 97)):
        feed = make()
        yield f"split at {at}", [*feed(data[:at]), *feed(data[at:])]
