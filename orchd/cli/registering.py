"""After a fetch: the model into the catalog of the orchd that looks into the same cache.

The fetch stands whatever becomes of this: there may be no orchd, or one that keeps other caches.
"""

from __future__ import annotations

from pathlib import Path

from orchd.cli import reach, say
from orchd.cli.model_views import CACHE, MODELS
from orchd.config.schema import Settings
from orchd.fetch.orders import Done, Order
from orchd.kit.client import Client
from orchd.wire import codec, modelref
from orchd.wire.catalog import CachedModels, CatalogModel
from orchd.wire.errors import TABLE, Kind, OrchError
from orchd.wire.ids import ModelId

TAKEN = TABLE[Kind.MODEL_EXISTS].status


def registered(
    order: Order, done: Done, settings: Settings, url: str | None, token_file: Path | None
) -> ModelId | None:
    """Return the id under which the catalog has what was fetched; None: it does not have it, and
    stderr says why."""
    try:
        where = reach.find(url, token_file, settings=settings)
        return reach.run(where, _register, order.ref, done)
    except OrchError as exc:
        say.note(
            f"It is not registered in the catalog: {exc.message}. Pools use it all the same; to "
            "register it, run this again where orchd answers.",
            "yellow",
        )
        return None


async def _register(client: Client, ref: str, done: Done) -> ModelId:
    found = await reach.fetch(client, CachedModels, CACHE)
    held = next((each for each in found.cached if each.path == done.path), None)
    if held is None:
        raise OrchError(Kind.INVALID_PARAMS, f"this orchd does not see {done.path}")
    if held.models:
        return held.models[0]
    for model_id in modelref.model_ids(ref, done.digest):
        said = {"id": model_id, "digest": done.digest, "source_url": modelref.shown(ref)}
        good = frozenset({TAKEN})
        answer = await reach.ask(client, "POST", MODELS, codec.dumps(said), good=good)
        if answer.status != TAKEN:
            return reach.understood(CatalogModel, answer.body).id
    raise OrchError(Kind.MODEL_EXISTS, f"the catalog has another model {model_id}")
