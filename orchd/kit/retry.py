"""Asking again: when a failure may pass, how often, how long to wait in between [ORCH-3612].

For whole answers to calls that change nothing; who may be asked again is client.py's to know. A
stream is never begun anew here. The pauses are drawn ("full jitter", AWS Architecture Blog,
Exponential Backoff And Jitter), so that those who failed together do not come back together.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from orchd.kit.incoming import Answer, PeerError

ATTEMPTS: Final = 3
"""Where a caller has no number of its own: more would hide a server that is not well."""
FIRST_S: Final = 0.1
MAX_S: Final = 2.0
PASSING: Final = frozenset({429, 502, 503, 504})
"""What a busy or restarting server, or a proxy before one, answers for a while."""


def pause_s(failures: int, told: str | None, draw: float) -> float:
    """Return how long to wait after so many failures (from 1), in seconds, at most MAX_S.

    `told` is the answer's Retry-After (whole seconds; a date counts as nothing said), which is the
    least; `draw` is from 0 to 1.
    """
    grown = min(MAX_S, FIRST_S * 2.0 ** (failures - 1))
    least = float(told) if told is not None and told.isascii() and told.isdigit() else 0.0
    return min(MAX_S, max(least, grown * draw))


async def persist(
    once: Callable[[], Awaitable[Answer]],
    attempts: int,
    draw: Callable[[], float] = random.random,
) -> Answer:
    """Return the first answer that is not PASSING, or the last of `attempts`. The deadline is the
    caller's. Raises PeerError of the last."""
    for failures in range(1, attempts):
        told: str | None = None
        try:
            answer = await once()
        except PeerError:
            pass
        else:
            if answer.status not in PASSING:
                return answer
            told = answer.headers.get("retry-after")
        await trio.sleep(pause_s(failures, told, draw()))
    return await once()
