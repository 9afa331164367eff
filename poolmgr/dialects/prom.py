"""Figures out of a Prometheus page, as vLLM, TGI and Triton serve theirs. Bytes in, sums out.

The text format 0.0.4: `name{labels} value [timestamp]`. What a name means is each dialect's.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Final

_LINE: Final = re.compile(
    rb"^([A-Za-z_:][A-Za-z0-9_:]*)(?:\{([^\n]*)\})?[ \t]+([^ \t\n]+)", re.MULTILINE
)


def sums(page: bytes, wanted: Iterable[str]) -> dict[str, float]:
    """Return, for those of `wanted` that the page has, the sum over all their other labels.

    Each is a name, or a name with one label: `name{label="value"}`. What is no finite number is
    left out.
    """
    keys: dict[str, list[tuple[bytes, str]]] = {}
    for one in wanted:
        name, _, said = one.partition("{")
        keys.setdefault(name, []).append((said.rstrip("}").encode(), one))
    found: dict[str, float] = {}
    for match in _LINE.finditer(page):
        for label, key in keys.get(match[1].decode("ascii"), ()):
            if label and label not in (match[2] or b""):
                continue
            try:
                value = float(match[3])
            except ValueError:
                continue
            if math.isfinite(value):
                found[key] = found.get(key, 0.0) + value
    return found
