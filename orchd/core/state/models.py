"""What the catalog means for tasks: which pool serves a cataloged model, and which takes no more.

The table of models is cards.py's. A task that names a pool's own model_ref costs a few dictionary
look-ups here, and nothing while the catalog is empty.
"""

from __future__ import annotations

from collections.abc import Iterable

from attrs import evolve

from orchd.core.given.cards import ModelCard, Models, what
from orchd.core.given.spec import PoolSpec
from orchd.core.state.pool import Pool
from orchd.core.state.world import World
from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import Text
from orchd.wire.shapes import TaskRequest


def resolved(world: World, request: TaskRequest, now: float) -> TaskRequest:
    """Return the request with the model_ref of a pool in the place of a catalog id or a digest.

    Raises OrchError: MODEL_DEPRECATED for a model that is Retired, UNTRUSTED_ARTIFACT for one whose
    file has another digest than the catalog says. A name that no pool serves stays: admission
    refuses it.
    """
    models, model_ref = world.models, request.model_ref
    if not models.cards:
        return request
    cards = models.named(model_ref)
    if not cards:
        pools = world.serving.get((request.engine, model_ref), ())
        if pools and all(models.closed(pool.spec, now) for pool in pools):
            raise _deprecated(model_ref)
        return request
    # one digest may have several ids: any that is open and good will do
    open_cards = [card for card in cards if not card.closed(now)]
    if not open_cards:
        raise _deprecated(model_ref)
    good = [card for card in open_cards if card.untrusted is None]
    if not good:
        raise _untrusted(model_ref, open_cards[0].untrusted or "")
    mine = [pool for pool in world.pools.values() if pool.spec.engine == request.engine]
    served = _served(models, good[0], mine)
    return request if served is None else evolve(request, model_ref=Text(served))


def reference(world: World, model_ref: str) -> str:
    """Return the model_ref of a pool that serves this catalog id or digest; else what was given."""
    cards = world.models.named(model_ref)
    served = _served(world.models, cards[0], world.pools.values()) if cards else None
    return served or model_ref


def served_by(world: World, model_id: str) -> tuple[PoolSpec, ...]:
    """Return the pools that serve a model of the catalog, by their ids."""
    card = world.models.cards.get(model_id)
    specs = [pool.spec for pool in world.pools.values()]
    return tuple(spec for spec in specs if card is not None and card in world.models.of(spec))


def _served(models: Models, card: ModelCard, pools: Iterable[Pool]) -> str | None:
    """Return the reference under which one of these pools serves the model, the first by pool id.

    Raises OrchError(UNTRUSTED_ARTIFACT) when the only pools that have its source were configured
    with another digest.
    """
    contradicted: PoolSpec | None = None
    for pool in pools:
        spec = pool.spec
        if any(each.digest == card.digest for each in models.of(spec)):
            return spec.model_ref
        names, digest = what(spec)
        if digest is not None and card.source in names:
            contradicted = contradicted or spec
    if contradicted is None:
        return None
    why = f"pool {contradicted.pool_id} has it with digest {contradicted.model_digest}"
    raise _untrusted(card.model_id, f"{why}, and the catalog says {card.digest}")


def _deprecated(model_ref: str) -> OrchError:
    why = f"$.model_ref: {model_ref} is Retired: it takes no new tasks"
    return OrchError(Kind.MODEL_DEPRECATED, why, path="$.model_ref")


def _untrusted(model_ref: str, why: str) -> OrchError:
    return OrchError(
        Kind.UNTRUSTED_ARTIFACT, f"$.model_ref: {model_ref}: {why}", path="$.model_ref"
    )
