"""Is the engine the one that was configured? What it says of itself against the pool. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchd.wire.errors import Kind, OrchError
from poolmgr.dialects.exchange import Props

if TYPE_CHECKING:
    from orchd.config.pool import Pool


def check_identity(pool: Pool, props: Props) -> None:
    """Compare what the engine says with the configuration. Raises OrchError.

    CONFIG_INVALID for slots and ctx that the engine does not have, ENGINE_PROTOCOL for another
    version or model than was pinned.
    """
    if props.slots is not None and props.slots < pool.slots:
        raise OrchError(
            Kind.CONFIG_INVALID,
            f"the engine has {props.slots} slots, and pools[].slots is {pool.slots}",
        )
    if props.ctx_max is not None and props.ctx_max < pool.ctx:
        raise OrchError(
            Kind.CONFIG_INVALID,
            f"the engine's slots hold {props.ctx_max} tokens, and pools[].ctx is {pool.ctx}",
        )
    pin = pool.engine.version
    if pin is not None and props.engine_version != pin:
        raise OrchError(
            Kind.ENGINE_PROTOCOL,
            f"the engine is version {props.engine_version}, and engine.version pins {pin}",
        )
    wanted, said = pool.model.digest, props.model_digest
    # only of one kind: TGI tells the commit of a repository, which is no hash of its files
    if wanted is not None and said is not None and said != wanted and _kind(said) == _kind(wanted):
        raise OrchError(
            Kind.ENGINE_PROTOCOL,
            f"the engine serves model {said}, and model.digest is {wanted}",
        )


def _kind(digest: str) -> str:
    return digest.partition(":")[0]
