"""From what is configured to what the core knows: its bounds, and its pools.

What they mean is said in core/state/world.py and core/state/pool.py.
"""

from __future__ import annotations

from typing import Final

from orchd.catalog import locate
from orchd.config.pool import Pool
from orchd.config.pool import Price as ConfiguredPrice
from orchd.config.schema import Settings
from orchd.core.given.spec import PoolSpec, Slo, Watchdog
from orchd.core.limits.budgets import PICO, Budget, Left, Price
from orchd.core.limits.throttle import Rates
from orchd.core.state.world import Limits
from orchd.kit.message import Headers
from orchd.wire.modelref import shown

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


def spec(pool: Pool, base: str) -> PoolSpec:
    """Return a pool as core knows it. `base`: the folder where relative paths begin."""
    ref = pool.model.ref
    path = locate.path_of(ref, base)
    return PoolSpec(
        pool_id=pool.id,
        engine=pool.engine.id,
        model_ref=ref,
        ctx=pool.ctx,
        max_tokens=pool.max_tokens,
        slots=pool.slots,
        replica_ids=pool.replica_ids,
        queue_interactive=pool.queue.interactive,
        queue_batch=pool.queue.batch,
        batch_after=pool.queue.batch_after,
        full_policy=pool.full_policy,
        watchdog=Watchdog(
            first_token_s=pool.watchdog.first_token_ms / 1000,
            idle_s=pool.watchdog.idle_ms / 1000,
            wall_s=pool.watchdog.wall_ms / 1000,
            enforce_deadline=pool.watchdog.enforce_deadline,
        ),
        slo=Slo(
            first_token_s=pool.slo.first_token_ms / 1000,
            breach_s=pool.slo.breach_ms / 1000,
            shed_s=pool.slo.shed_ms / 1000,
        ),
        sampler_profile_version=pool.engine.sampler_profile_version,
        price=price(pool.price),
        model_names=tuple(dict.fromkeys((ref, shown(ref) if path is None else f"file:{path}"))),
        model_digest=pool.model.digest,
    )
