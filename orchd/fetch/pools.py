"""The order for a pool's model: for the pool itself, and for whoever fetches beforehand."""

from __future__ import annotations

from collections.abc import Mapping

from orchd.config.folders import models_dir
from orchd.config.pool import LLAMACPP, Pool
from orchd.config.schema import Settings
from orchd.fetch.orders import Order
from orchd.wire.cached import Shape
from orchd.wire.ids import Text


def ordered(settings: Settings, pool: Pool, environ: Mapping[str, str]) -> Order:
    """Return the order. A model that only a reload names is named by no configuration: for that,
    policy.outbound.allow has to have its hosts."""
    named = any(one.model.ref == pool.model.ref for one in settings.pools)
    return Order(
        ref=pool.model.ref,
        folder=Text(pool.model.cache_dir or str(models_dir(environ))),
        shape=Shape.GGUF if pool.engine.id == LLAMACPP else Shape.WHOLE,
        digest=pool.model.digest,
        named_by=Text(f"model.ref of pool {pool.id}") if named else None,
        purpose=Text(f"model of pool {pool.id}"),
        outbound=settings.policy.outbound,
        plugins=settings.policy.plugins,
    )
