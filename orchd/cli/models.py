"""`orchctl models`: the catalog, and what is done to a model of it."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import click

from orchd.cli import reach, say
from orchd.cli.fetching import fetch_model
from orchd.cli.removal import remove
from orchd.kit.client import Client
from orchd.wire import codec
from orchd.wire.catalog import CatalogModel, CatalogModels, StateAccepted, VerifyStarted
from orchd.wire.ids import MODEL_ID

MODELS: Final = "/v1/catalog/models"
_CHUNK: Final = 1 << 20


class _ModelId(click.ParamType[str]):
    name = "id"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not MODEL_ID.fullmatch(value):
            self.fail("a model id is letters, digits, . _ and -, at most 128", param, ctx)
        return value


ID: Final = click.argument("model", metavar="ID", type=_ModelId())


@click.group(name="models")
def command() -> None:
    """Show and change the catalog: which models tasks may name, and which are Retired."""


command.add_command(fetch_model)


@command.command(name="list")
@reach.JSON
@reach.options
def list_models(as_json: bool, url: str | None, token_file: Path | None) -> None:
    """List all models."""
    found = CatalogModels(models=reach.run(reach.find(url, token_file), _all))
    if as_json:
        say.json(found)
        return
    if not found.models:
        say.note("The catalog is empty. Register one: orchctl models add ID FILE.", "")
        return
    table = say.table("model", "state", "verified", "digest", "source", "tags")
    for model in found.models:
        table.add_row(
            f"[bold]{say.cell(model.id)}[/]",
            _state(model),
            _verified(model),
            say.cell(model.digest[:19] + "..."),
            say.cell(model.source_url),
            say.cell(" ".join(model.tags)),
        )
    say.show(table)


@command.command(name="show")
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
    say.show(f"  tags     {say.cell(' '.join(found.tags))}")
    _warn(found)


@command.command(name="add")
@ID
@click.argument("source")
@click.option("--digest", help="sha256:<hex>. Without it SOURCE is a file here, and is hashed now.")
@click.option("--tag", "tags", multiple=True, help="A word to find it by; may be repeated.")
@click.option("--signature", "signatures", multiple=True, help="Its signature, or where that is.")
@click.option("--sbom", help="Its bill of materials: a URL or a digest.")
@click.option("--strict", is_flag=True, help="Have it refused without a signature.")
@reach.JSON
@reach.options
def add_model(
    model: str,
    source: str,
    digest: str | None,
    tags: tuple[str, ...],
    signatures: tuple[str, ...],
    sbom: str | None,
    strict: bool,
    as_json: bool,
    url: str | None,
    token_file: Path | None,
) -> None:
    """Register a model: SOURCE is a file, or what a pool's model.ref says (hf:..., https://...)."""
    if digest is None:
        digest, source = _hashed(source)
    said = {
        "id": model, "digest": digest, "source_url": source, "tags": tags,
        "signatures": signatures, "sbom": sbom,
        "trust_policy": {"mode": "strict"} if strict else None,
    }  # fmt: skip
    body = codec.dumps({key: value for key, value in said.items() if value is not None})
    answer = reach.run(reach.find(url, token_file), reach.ask, "POST", MODELS, body)
    found = reach.understood(CatalogModel, answer.body)
    if as_json:
        say.json(found)
        return
    say.note(f"The catalog has {found.id}: a task may name it by this id or its digest.", "")
    _warn(found)


@command.command(name="verify")
@ID
@reach.JSON
@reach.options
def verify_model(model: str, as_json: bool, url: str | None, token_file: Path | None) -> None:
    """Have orchd hash the model's file again; `show` tells what came of it."""
    where = reach.find(url, token_file)
    answer = reach.run(where, reach.ask, "POST", f"{MODELS}/{model}/verify")
    if as_json:
        say.json(reach.understood(VerifyStarted, answer.body))
    else:
        say.note(f"Begun. What came of it: orchctl models show {model}", "")


@command.command(name="retire")
@ID
@click.option(
    "--after", "after_s", type=click.FloatRange(min=0.001), metavar="SECONDS",
    help="Take new tasks for so long still.",
)  # fmt: skip
@reach.JSON
@reach.options
def retire_model(
    model: str, after_s: float | None, as_json: bool, url: str | None, token_file: Path | None
) -> None:
    """Take no new tasks for a model."""
    change: dict[str, object] = {"state": "Retired"}
    if after_s is not None:
        change["deadline_ms"] = max(1, round(after_s * 1000))
    _change(model, change, as_json, url, token_file)


@command.command(name="activate")
@ID
@reach.JSON
@reach.options
def activate_model(model: str, as_json: bool, url: str | None, token_file: Path | None) -> None:
    """Take tasks for a Retired model again."""
    _change(model, {"state": "Active"}, as_json, url, token_file)


@command.command(name="remove")
@ID
@reach.JSON
@reach.options
def remove_model(model: str, as_json: bool, url: str | None, token_file: Path | None) -> None:
    """Forget a model; its file stays."""
    human = f"The catalog has no {model} any more."
    remove(f"{MODELS}/{model}", human, as_json, url, token_file)


def _change(
    model: str,
    change: dict[str, object],
    as_json: bool,
    url: str | None,
    token_file: Path | None,
) -> None:
    path, body = f"{MODELS}/{model}/state", codec.dumps(change)
    answer = reach.run(reach.find(url, token_file), reach.ask, "POST", path, body)
    if as_json:
        say.json(reach.understood(StateAccepted, answer.body))
    elif "deadline_ms" in change:
        say.note(f"{model} takes new tasks for {change['deadline_ms']} ms still.", "")
    else:
        say.note(f"{model} is {change['state']} from now on.", "")


async def _all(client: Client) -> tuple[CatalogModel, ...]:
    found: tuple[CatalogModel, ...] = ()
    path: str | None = MODELS
    while path is not None:
        page = await reach.fetch(client, CatalogModels, path)
        found += page.models
        path = None if page.next_cursor is None else f"{MODELS}?cursor={page.next_cursor}"
    return found


def _hashed(source: str) -> tuple[str, str]:
    """Return digest and reference of a file here."""
    path = Path(source.removeprefix("file:")).absolute()
    hashed = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                hashed.update(chunk)
    except OSError as exc:
        why = f"{path}: {exc.strerror}; --digest is needed for what is no file here"
        raise click.BadParameter(why, param_hint="SOURCE") from None
    return f"sha256:{hashed.hexdigest()}", f"file:{path}"


def _state(model: CatalogModel) -> str:
    if model.state == "Retired":
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


def _warn(model: CatalogModel) -> None:
    for warning in model.warnings:
        say.note(f"Note: {warning}.", "yellow")
