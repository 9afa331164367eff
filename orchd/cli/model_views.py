"""`orchctl models list`, `show`, `locate` and `exists`: what the catalog and the caches have.

What changes either is models.py's and fetching.py's.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from urllib.parse import quote

import click
from attrs import frozen

from orchd.cli import names, reach, say
from orchd.fetch.progress import size
from orchd.kit.client import Client
from orchd.wire import modelref
from orchd.wire.catalog import (
    CachedModel,
    CachedModels,
    CatalogModel,
    CatalogModels,
    Located,
    ModelState,
)
from orchd.wire.errors import Kind, OrchError

MODELS: Final = "/v1/catalog/models"
CACHE: Final = "/v1/catalog/cache"
LOCATE: Final = "/v1/catalog/locate"


ID: Final = click.argument("model", metavar="ID", type=names.MODEL)


@frozen(kw_only=True)
class Everything:
    """What `list --json` writes."""

    models: tuple[CatalogModel, ...]
    cached: tuple[CachedModel, ...]


@click.command(name="list")
@reach.JSON
@reach.options
def list_models(as_json: bool, url: str | None, token_file: Path | None) -> None:
    """List the models of the catalog, and what was fetched."""
    found = reach.run(reach.find(url, token_file), _everything)
    if as_json:
        say.json(found)
        return
    strays = [each for each in found.cached if not each.models]
    if not found.models and not strays:
        say.note(
            "The catalog is empty, and nothing was fetched. orchctl models fetch REF fetches and "
            "registers a model, orchctl models add ID FILE registers a file.",
            "",
        )
        return
    sizes = {each.digest: size(each.size_bytes) for each in found.cached}
    table = say.table("model", "state", "verified", ">size", "pools", "digest", "source", "tags")
    for model in found.models:
        table.add_row(
            f"[bold]{say.cell(model.id)}[/]",
            _state(model),
            _verified(model),
            say.cell(sizes.get(model.digest)),
            say.cell(" ".join(model.pools)),
            _short(model.digest),
            say.cell(model.source_url),
            say.cell(" ".join(model.tags)),
        )
    for each in strays:
        table.add_row(
            "-", "not registered", "-", say.cell(size(each.size_bytes)), "-",
            _short(each.digest), say.cell(each.ref), "-",
        )  # fmt: skip
    say.show(table)
    if strays:
        say.note("What was fetched and is not registered: orchctl models fetch SOURCE does it.", "")


@click.command(name="show")
@ID
@reach.JSON
@reach.options
def show_model(model: str, as_json: bool, url: str | None, token_file: Path | None) -> None:
    """Show one model."""
    found = reach.run(reach.find(url, token_file), reach.fetch, CatalogModel, f"{MODELS}/{model}")
    if as_json:
        say.json(found)
        return
    say.show(f"[bold]{say.cell(found.id)}[/]: {_state(found)}, {_verified(found)}")
    say.show(f"  digest   {say.cell(found.digest)}")
    say.show(f"  source   {say.cell(found.source_url)}")
    say.show(f"  pools    {say.cell(' '.join(found.pools))}")
    say.show(f"  tags     {say.cell(' '.join(found.tags))}")
    warn(found)


@click.command(name="locate")
@click.argument("name")
@reach.JSON
@reach.options
def locate_model(name: str, as_json: bool, url: str | None, token_file: Path | None) -> None:
    """Say where a model is: NAME is an id, a digest or a reference. It only looks."""
    found = reach.run(reach.find(url, token_file), locate, name)
    if as_json:
        say.json(found)
    elif found.path is not None:
        say.show(say.cell(found.path))
    if found.path is None:
        raise OrchError(Kind.UNKNOWN_NAME, f"{name} is not on this machine, where orchd may look")


@click.command(name="exists")
@click.argument("name")
@reach.JSON
@reach.options
def model_exists(name: str, as_json: bool, url: str | None, token_file: Path | None) -> None:
    """Say whether NAME (an id, a digest or a reference) is in the catalog or on this machine."""
    found = reach.run(reach.find(url, token_file), locate, name)
    if as_json:
        say.json(found)
    if not found.exists:
        why = f"{name} is neither in the catalog nor on this machine, where orchd may look"
        raise OrchError(Kind.UNKNOWN_NAME, why)
    if not as_json:
        named = f"in the catalog as {', '.join(found.models)}" if found.models else ""
        here = "on this machine" if found.path is not None else ""
        say.note(f"It is {' and '.join(filter(None, (named, here)))}.", "")


async def locate(client: Client, name: str) -> Located:
    """Return what orchd knows of a name, of which no query is sent. Raises OrchError."""
    if modelref.is_remote(name):
        name = modelref.shown(name)
    return await reach.fetch(client, Located, f"{LOCATE}?name={quote(name, safe='')}")


def warn(model: CatalogModel) -> None:
    """Tell what a model's trust policy would like to see."""
    for warning in model.warnings:
        say.note(f"Note: {warning}.", "yellow")


async def _everything(client: Client) -> Everything:
    found: tuple[CatalogModel, ...] = ()
    path: str | None = MODELS
    while path is not None:
        page = await reach.fetch(client, CatalogModels, path)
        found += page.models
        path = None if page.next_cursor is None else f"{MODELS}?cursor={page.next_cursor}"
    cached = await reach.fetch(client, CachedModels, CACHE)
    return Everything(models=found, cached=cached.cached)


def _short(digest: str) -> str:
    return say.cell(f"{digest[:19]}...")


def _state(model: CatalogModel) -> str:
    if model.state is ModelState.RETIRED:
        return "[yellow]Retired[/]"
    if model.retires_at_ms is None:
        return "[green]Active[/]"
    at = datetime.fromtimestamp(model.retires_at_ms / 1000, UTC).astimezone()
    return f"[yellow]Active until {at:%Y-%m-%d %H:%M:%S}[/]"


def _verified(model: CatalogModel) -> str:
    if model.verifying:
        return "is being hashed"
    if model.verification is None:
        return "not verified"
    style = {"ok": "green", "failed": "red"}.get(model.verification.result, "yellow")
    return f"[{style}]{model.verification.reason.value.replace('_', ' ')}[/]"
