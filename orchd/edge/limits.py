"""From what is configured to the bounds of the core. What they mean is said in core/world.py."""

from __future__ import annotations

from typing import Final

from orchd.config.pool import Price as ConfiguredPrice
from orchd.config.schema import Settings
from orchd.core.budgets import PICO, Budget, Left, Price
from orchd.core.throttle import Rates
from orchd.core.world import Limits
from orchd.kit.message import Headers

_PLACES: Final = 6
"""Decimals of a cost in a header: a millionth of the operator's unit."""


def limits(settings: Settings) -> Limits:
    """Return the limits that these settings ask for."""
    sessions = settings.sessions
    cost = sessions.budget.cost
    return Limits(
        queued_bytes=settings.queued_prompts_mb << 20,
        rates=Rates(
            requests_per_s=settings.throttle.requests_per_s,
            burst=settings.throttle.burst,
            tokens_per_min=settings.throttle.tokens_per_min,
        ),
        session_ttl_s=sessions.ttl_ms / 1000,
        affinity_s=sessions.ttl_ms / 1000,  # a place is of a session
        session_turns=sessions.max_turns,
        sessions_idle_max=sessions.max_idle,
        budget=Budget(
            tokens=sessions.budget.tokens,
            time_ms=sessions.budget.time_ms,
            cost=None if cost is None else round(cost * PICO),
        ),
    )


def price(configured: ConfiguredPrice) -> Price:
    """Return the price of a pool's tokens as core counts it."""
    return Price.per_thousand(configured.tokens_in, configured.tokens_out)


def budget_headers(left: Left) -> Headers:
    """Return the headers of a 202 that say what is left; none for what has no bound."""
    cost = None if left.cost is None else f"{left.cost:.{_PLACES}f}".rstrip("0").rstrip(".")
    named = (
        ("X-Budget-Tokens-Remaining", left.tokens),
        ("X-Budget-Time-Remaining-Ms", left.time_ms),
        ("X-Budget-Cost-Remaining", cost),
    )
    return tuple((name, str(value)) for name, value in named if value is not None)
