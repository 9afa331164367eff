"""What the configuration says of a pool, as far as the core asks.

Data only. What becomes of it is pool.py's; how the limits of a job are held, watchdog.py's.
"""

from __future__ import annotations

from attrs import frozen

from orchd.core.limits.budgets import FREE, Price
from orchd.wire.ids import EngineId, PoolId, ReplicaId
from orchd.wire.policy import FullPolicy


@frozen(kw_only=True)
class Watchdog:
    """The limits of a pool, in seconds. The defaults end nothing that still works."""

    first_token_s: float = 600.0
    """From OPEN to the first token: 100,000 tokens of prompt at 170/s. An embedding puts out no
    token, so it is the bound of the whole job."""
    idle_s: float = 60.0
    """From a token to the next: at the slowest useful pace (1 token/s) 60 would have come."""
    wall_s: float = 86_400.0
    """From OPEN to the end: 131,072 tokens at 2/s end before."""
    enforce_deadline: bool = True
    """End a job when the task's deadline passes; else it goes on, late."""


@frozen(kw_only=True)
class Slo:
    """What a pool promises, and what happens when it does not hold it."""

    first_token_s: float = 0.0
    """From admission to the first token; 0: nothing is promised, and nothing shed."""
    breach_s: float = 30.0
    """So long most first tokens must come too late before load is shed."""
    shed_s: float = 10.0
    """And so long it is shed before the first test."""

    @property
    def off(self) -> bool:
        """Whether nothing is promised."""
        return not self.first_token_s


@frozen(kw_only=True)
class PoolSpec:
    """What the configuration says of a pool."""

    pool_id: PoolId
    engine: EngineId
    model_ref: str
    ctx: int
    """Tokens of context that one task may ask for."""
    max_tokens: int
    slots: int
    """Of each replica, as configured; what a replica really has is in its snapshot."""
    replica_ids: tuple[ReplicaId, ...]
    queue_interactive: int
    """Tasks that may wait."""
    queue_batch: int
    sampler_profile_version: str
    model_names: tuple[str, ...] = ()
    """All that the model's place is called: for the catalog, which may have it in another form."""
    model_digest: str | None = None
    """`sha256:<hex>` that the model's file must have, where that is configured."""
    reload_digest: str | None = None
    """The same, where the reload that brought `model_ref` said it."""
    price: Price = FREE
    full_policy: FullPolicy = FullPolicy.REJECT
    batch_after: int = 16
    """Interactive starts after which the oldest batch task is next."""
    watchdog: Watchdog = Watchdog()
    slo: Slo = Slo()
