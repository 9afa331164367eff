"""Trying again: how often, after what pause, and what is told when it is no use.

Only what asks for content is repeated: GET changes nothing at the source.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import trio

from orchd.kit.incoming import PeerError
from orchd.kit.redact import redact
from orchd.policy.web import Got
from orchd.wire.errors import Kind, OrchError

ATTEMPTS: Final = 6
"""Failures in a row, without a byte between them, before it is given up: with the pauses, and the
time limits of a request, a line that is dead is told after some three minutes at most."""
BACKOFF_S: Final = 0.5
BACKOFF_MAX_S: Final = 15.0
RETRY_AFTER_MAX_S: Final = 60.0
AGAIN: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
T = TypeVar("T")
_chance = random.SystemRandom()


class LaterError(Exception):
    """The source says that it may answer later; `after_s` where it says when."""

    def __init__(self, why: str, after_s: float | None) -> None:
        super().__init__(why)
        self.after_s = after_s


async def persist(deed: Callable[[], Awaitable[T]], at: Callable[[], int] = lambda: 0) -> T:
    """Do it until it is done, and return what it returns.

    `at` tells how far it has come: what gets further may go on. Raises OrchError(FETCH_FAILED)
    after ATTEMPTS in vain, and whatever the deed raises beside PeerError and LaterError.
    """
    failures, best = 0, at()
    while True:
        try:
            return await deed()
        except (PeerError, LaterError) as exc:
            if at() > best:
                failures, best = 0, at()
            failures += 1
            if failures >= ATTEMPTS:
                why = f"{redact(str(exc))}; given up after {ATTEMPTS} attempts"
                raise OrchError(Kind.FETCH_FAILED, why) from exc
            pause = min(BACKOFF_MAX_S, BACKOFF_S * 2 ** (failures - 1))
            pause *= _chance.uniform(0.5, 1.0)
            if isinstance(exc, LaterError) and exc.after_s is not None:
                pause = max(pause, min(exc.after_s, RETRY_AFTER_MAX_S))
        await trio.sleep(pause)


def retry_after(got: Got) -> float | None:
    """Return the seconds of a Retry-After header; None: it says none, or a date."""
    text = got.headers.get("retry-after", "")
    return float(text) if text.isdecimal() and len(text) < 8 else None


def check(got: Got, name: str, good: frozenset[int], refusal: Callable[[int], str]) -> None:
    """Return for a status that is good. Raises LaterError, OrchError(FETCH_FAILED)."""
    if got.status in good:
        return
    where = f"{got.address.origin} answers {got.status} for {name}"
    if got.status in AGAIN:
        raise LaterError(where, retry_after(got))
    raise OrchError(Kind.FETCH_FAILED, f"{where}: {refusal(got.status)}")
