"""How fast one identity may send tasks: requests per second with a burst, and tokens per minute.

Two token buckets for each identity, kept as the time at which each will be full again (the virtual
scheduling of GCRA, ITU-T I.371): a bucket needs one number and no refilling. Whoever is not in the
table has full buckets, so an identity leaves it when, and only when, its buckets are full.
"""

from __future__ import annotations

import math
from typing import Final

from attrs import field, frozen

from orchd.core.limits import workloads
from orchd.core.limits.timers import Timers
from orchd.wire.errors import Kind, OrchError
from orchd.wire.policy import THROTTLE
from orchd.wire.shapes import TaskRequest, Workload

IDENTITIES_MAX: Final = 1024
"""Who has sent something lately: more than the users of one machine and its proxy."""
TOKENS_S: Final = 60.0
"""The bucket of tokens holds what may be used in this time."""
CHARS_PER_TOKEN: Final = 4
"""Of a prompt that was not counted: English text has about so many."""
_SLACK_S: Final = 1e-6  # rounding of times must not make a bucket that is full look otherwise


@frozen(kw_only=True)
class Rates:
    """What one identity may send; 0: as much as it likes."""

    requests_per_s: float = 0.0
    burst: int = 10
    """Requests that a full bucket holds."""
    tokens_per_min: int = 0

    @property
    def off(self) -> bool:
        """Whether nothing is throttled."""
        return not self.requests_per_s and not self.tokens_per_min

    def shown(self) -> dict[str, float]:
        """Return what capabilities tell as rate_limits."""
        shown: dict[str, float] = {}
        if self.requests_per_s:
            shown |= {"requests_per_s": self.requests_per_s, "burst": self.burst}
        if self.tokens_per_min:
            shown["tokens_per_min"] = self.tokens_per_min
        return shown


def cost(request: TaskRequest, prompt_tokens: int | None) -> int:
    """Return the tokens that a task takes from the bucket: those of its prompt, and max_tokens.

    Not what it puts out in the end: that is known too late to hold anybody back.
    """
    if prompt_tokens is None:
        prompt_tokens = workloads.read(request, lambda t: math.ceil(len(t) / CHARS_PER_TOKEN))
    puts_out = request.max_tokens if request.workload is Workload.COMPLETION else 0
    return prompt_tokens + puts_out


@frozen
class _Full:
    """When the two buckets of an identity are full again."""

    requests_at: float
    tokens_at: float


@frozen
class Throttle:
    """The buckets of all identities. Off, it costs nothing and keeps nothing."""

    rates: Rates
    identities_max: int = IDENTITIES_MAX
    _full: dict[str, _Full] = field(factory=dict)
    _leave: Timers[str] = field(factory=Timers)

    def __len__(self) -> int:
        return len(self._full)

    def check(
        self, identity: str, request: TaskRequest, prompt_tokens: int | None, now: float
    ) -> None:
        """Raise OrchError(THROTTLED) when the task has to wait. Takes nothing.

        Raises OrchError(INVALID_PARAMS) for a task that no bucket can ever hold.
        """
        rates = self.rates
        if rates.off:
            return
        tokens = cost(request, prompt_tokens)
        if rates.tokens_per_min and tokens > rates.tokens_per_min:
            raise OrchError(
                Kind.INVALID_PARAMS,
                f"$.max_tokens: with its prompt the task counts {tokens} tokens, and one identity "
                f"may send {rates.tokens_per_min} a minute (throttle.tokens_per_min)",
                path="$.max_tokens",
                engine=request.engine,
            )
        wait_s, why = self._wait(identity, tokens, now)
        if wait_s > _SLACK_S:
            raise OrchError(
                Kind.THROTTLED,
                f"{identity or 'the caller'} sends too fast: {why}",
                engine=request.engine,
                retry_after_ms=math.ceil((wait_s - _SLACK_S) * 1000),
                policy_label=THROTTLE,
            )

    def take(
        self, identity: str, request: TaskRequest, prompt_tokens: int | None, now: float
    ) -> None:
        """Take one request and its tokens out of the buckets: the task was admitted."""
        rates = self.rates
        if rates.off:
            return
        had = self._full.get(identity, _Full(now, now))
        requests_at, tokens_at = max(had.requests_at, now), max(had.tokens_at, now)
        if rates.requests_per_s:
            requests_at += 1 / rates.requests_per_s
        if rates.tokens_per_min:
            tokens_at += cost(request, prompt_tokens) * TOKENS_S / rates.tokens_per_min
        self._full[identity] = _Full(requests_at, tokens_at)
        self._leave.set(identity, max(requests_at, tokens_at))

    def _wait(self, identity: str, tokens: int, now: float) -> tuple[float, str]:
        """Return how long the identity has to wait, and which limit says so."""
        while (full := self._leave.pop_due(now)) is not None:
            del self._full[full]
        had, rates = self._full.get(identity), self.rates
        if had is None:
            if len(self._full) < self.identities_max:
                return 0.0, ""
            room_at = self._leave.next()
            assert room_at is not None
            # nobody is put out to make room: that would give them full buckets too early
            return room_at - now, f"{self.identities_max} others send as well"
        waits = [(0.0, "")]
        if rates.requests_per_s:
            room_at = had.requests_at - (rates.burst - 1) / rates.requests_per_s
            limit = f"{rates.requests_per_s:g} requests/s, {rates.burst} at once"
            waits.append((room_at - now, limit))
        if rates.tokens_per_min:
            free_s = (rates.tokens_per_min - tokens) * TOKENS_S / rates.tokens_per_min
            limit = f"{rates.tokens_per_min} tokens/min, and the task counts {tokens}"
            waits.append((had.tokens_at - free_s - now, limit))
        return max(waits)
