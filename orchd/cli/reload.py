"""`orchctl reload POOL [MODEL]`: give a pool another model, and say how that went."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click
import trio

from orchd.cli import names, reach, say
from orchd.cli.model_views import MODELS
from orchd.kit.client import Client
from orchd.wire import codec
from orchd.wire.catalog import CatalogModel, ModelState
from orchd.wire.control import PoolControl, PoolHealth, ReloadRequest
from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import DIGEST, MODEL_ID, Digest, PoolId, Text
from orchd.wire.snapshot import Outcome

POLL_S: Final = 0.3


@click.command(name="reload")
@click.argument("pool", type=names.POOL)
@click.argument("model", required=False)
@click.option("--digest", help="sha256:<hex> that MODEL must have, else the old model serves on.")
@click.option("--no-wait", is_flag=True, help="Return once it has begun.")
@reach.JSON
@reach.options
def command(
    pool: PoolId,
    model: str | None,
    digest: str | None,
    no_wait: bool,
    as_json: bool,
    url: str | None,
    token_file: Path | None,
) -> None:
    """Load MODEL into POOL (its own model anew, without MODEL), and wait until it serves.

    MODEL is an id of the catalog, or a reference as the configuration has it.

    If that fails the pool stays on the model that it has. It ends a drain. To keep a model beyond
    the next reboot, write it into the configuration.
    """
    if digest is not None and not DIGEST.fullmatch(digest):
        raise click.BadParameter("must be sha256:<64 hex digits>", param_hint="--digest")
    known = None if digest is None else Digest(digest)
    where = reach.find(url, token_file)
    health, model = reach.run(where, _reload, pool, model, known, not no_wait)
    if as_json:
        say.json(health or PoolControl(pool_id=pool, status="reloading"))
    elif health is None:
        say.note(f"Pool {pool} is being reloaded with {model}; see orchctl pools {pool}.", "")
    else:
        say.note(f"Pool {pool} serves {model}.", "")


async def _reload(
    client: Client, pool: PoolId, model: str | None, digest: Digest | None, wait: bool
) -> tuple[PoolHealth | None, str]:
    path = f"/v1/pools/{pool}"
    if model is None:
        model = (await reach.fetch(client, PoolHealth, f"{path}/health")).model_ref
    else:
        model, digest = await _cataloged(client, model, digest)
    body = codec.dumps(ReloadRequest(new_model_ref=Text(model), digest=digest))
    await reach.ask(client, "POST", f"{path}/reload", body)
    if not wait:
        return None, model
    gap = False
    while True:  # orchd bounds it: every stage of a reload has its end
        await trio.sleep(POLL_S)
        health = await reach.fetch(client, PoolHealth, f"{path}/health")
        if not gap and _has_gap(health, model):
            gap = True
            words = f"No room for both: {pool} serves nothing where {model} is loaded, until then."
            say.note(words, "")
        if health.reloading is None:
            break
    if health.model_ref != model or _failed(health, model):
        cause = health.last_error
        raise reach.ToldError(
            Kind(cause.kind) if cause else Kind.POOL_UNREADY,
            f"pool {pool} keeps {health.model_ref}; {model} failed: "
            f"{cause.message if cause else 'see its journal'}",
            cause.advice if cause else None,
        )
    return health, model


async def _cataloged(
    client: Client, model: str, digest: Digest | None
) -> tuple[str, Digest | None]:
    """Return where a model of the catalog is, and its digest, for its id; what was given for any
    other reference. Raises OrchError."""
    if MODEL_ID.fullmatch(model) is None:
        return model, digest
    answer = await reach.ask(client, "GET", f"{MODELS}/{model}", good=frozenset({404}))
    if answer.status == 404:
        return model, digest
    found = reach.understood(CatalogModel, answer.body)
    if found.state is ModelState.RETIRED:
        raise OrchError(
            Kind.MODEL_DEPRECATED,
            f"model {model} is retired; orchctl models activate {model} takes that back",
        )
    if found.source_url is None:
        raise OrchError(Kind.INVALID_PARAMS, f"the catalog does not say where model {model} is")
    if digest not in (None, found.digest):
        raise OrchError(Kind.INVALID_PARAMS, f"the catalog says that {model} has {found.digest}")
    return found.source_url, found.digest


def _has_gap(health: PoolHealth, model: str) -> bool:
    """Whether a replica had to stop the old model first."""
    reloads = [each.snapshot.reload for each in health.replicas if each.snapshot]
    return any(r and r.model_ref == model and r.gap for r in reloads)


def _failed(health: PoolHealth, model: str) -> bool:
    """Whether a replica failed to load it: the model's name tells nothing if it is the old one."""
    reloads = [each.snapshot.reload for each in health.replicas if each.snapshot]
    return any(r and r.model_ref == model and r.outcome is Outcome.FAILED for r in reloads)
