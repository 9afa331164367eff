"""The slots of a replica: leases, and the measured speed of one. Who runs in them is elsewhere."""

from __future__ import annotations

from typing import Final

SMOOTHING: Final = 0.2
"""What each job takes from the weight of those before it: a change of load shows after about five
jobs."""


class Slots:
    """Leases of `total` slots; never below zero, never above `total` [ORCH-3971]."""

    def __init__(self, total: int) -> None:
        if total < 1:
            raise ValueError("a replica has at least one slot")
        self.total = total
        self.active = 0
        self.tokens_per_s: float | None = None
        """Of one slot while it generates, smoothed [ORCH-3972]."""
        self.first_token_ms: float | None = None
        """From OPEN to the first token, smoothed."""
        self._tokens = self._seconds = 0.0

    def take(self) -> bool:
        """Lease a slot; False when none is free."""
        if self.active >= self.total:
            return False
        self.active += 1
        return True

    def free(self) -> None:
        """Give a leased slot back. Raises ValueError when none is leased."""
        if self.active == 0:
            raise ValueError("a slot was given back that nobody had")
        self.active -= 1

    def measured(self, tokens: int, first_token_s: float, decode_s: float) -> None:
        """Note a job that made `tokens`: `first_token_s` to the first, `decode_s` in all."""
        if tokens < 1:
            return
        self.first_token_ms = _smooth(self.first_token_ms, first_token_s * 1000)
        spent = decode_s - first_token_s
        if tokens > 1 and spent > 0:
            # of sums and not a mean of rates: three tokens in one packet are no 100,000 a second
            self._tokens += tokens - 1 - SMOOTHING * self._tokens
            self._seconds += spent - SMOOTHING * self._seconds
            self.tokens_per_s = self._tokens / self._seconds

    def forget_speed(self) -> None:
        """Another model serves from now on: what was measured is not its speed."""
        self.tokens_per_s = self.first_token_ms = None
        self._tokens = self._seconds = 0.0


def _smooth(old: float | None, new: float) -> float:
    return new if old is None else old + SMOOTHING * (new - old)
