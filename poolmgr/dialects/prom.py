"""Figures out of a Prometheus page, as vLLM, TGI and Triton serve theirs. Bytes in, sums out.

The text format 0.0.4: `name{labels} value [timestamp]`. What a name means is each dialect's.
"""

from __future__ import annotations

import math
import re
from collections.abc import Container
from typing import Final

_LINE: Final = re.compile(
    rb"^([A-Za-z_:][A-Za-z0-9_:]*)(?:\{[^\n]*\})?[ \t]+([^ \t\n]+)", re.MULTILINE
)


def sums(page: bytes, names: Container[str]) -> dict[str, float]:
    """Return, for those of `names` that the page has, the sum over all their labels.

    What is no finite number is left out.
    """
    found: dict[str, float] = {}
    for match in _LINE.finditer(page):
        name = match[1].decode("ascii")
        if name not in names:
            continue
        try:
            value = float(match[2])
        except ValueError:
            continue
        if math.isfinite(value):
            found[name] = found.get(name, 0.0) + value
    return found
