"""How often each identity may have something fetched: a bucket each, and a bound on the buckets.

As core/limits/throttle.py: a bucket is the time at which it will be full again (GCRA). Pure; time
is an argument, in seconds.
"""

from __future__ import annotations

from typing import Final

IDENTITIES_MAX: Final = 1024
WINDOW_S: Final = 60.0


class Buckets:
    """A bucket for each identity holds what it may ask for in a minute, and fills as fast."""

    def __init__(self, per_minute: int, identities_max: int = IDENTITIES_MAX) -> None:
        self._each_s = WINDOW_S / per_minute
        self._max = identities_max
        self._full_at: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, identity: str, now: float) -> float:
        """Take one, and return 0; or take nothing, and return how long to wait."""
        if identity not in self._full_at and len(self._full_at) >= self._max:
            self._full_at = {name: at for name, at in self._full_at.items() if at > now}
            if len(self._full_at) >= self._max:
                # nobody is put out to make room: that would give them full buckets too early
                return min(self._full_at.values()) - now
        full_at = max(self._full_at.get(identity, now), now) + self._each_s
        wait_s = full_at - now - WINDOW_S
        if wait_s > 1e-6:  # rounding of times must not refuse the last of a minute
            return wait_s
        self._full_at[identity] = full_at
        return 0.0
