"""`orchctl models`: the catalog, and what is done to a model of it."""

from __future__ import annotations

import errno
import hashlib
import stat
from pathlib import Path
from typing import Final

import click

from orchd.cli import reach, say
from orchd.cli.fetching import fetch_model
from orchd.cli.model_views import (
    ID,
    MODELS,
    list_models,
    locate,
    locate_model,
    model_exists,
    show_model,
    warn,
)
from orchd.cli.removal import remove
from orchd.wire import codec, modelref
from orchd.wire.catalog import CatalogModel, StateAccepted, VerifyStarted

_CHUNK: Final = 1 << 20


@click.group(name="models")
def command() -> None:
    """Show and change the catalog: which models tasks may name, and which are Retired."""


for _verb in (list_models, show_model, locate_model, model_exists, fetch_model):
    command.add_command(_verb)


@command.command(name="add")
@ID
@click.argument("source")
@click.option("--digest", help="sha256:<hex>. Without it SOURCE is hashed now, or was fetched.")
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
    where = reach.find(url, token_file)
    if modelref.is_remote(source):
        source = modelref.shown(source)  # a presigned URL has its secret in the query
    if digest is None and modelref.is_remote(source):
        digest = reach.run(where, locate, source).digest
        if digest is None:
            why = f"{source} was not fetched: --digest is needed, or orchctl models fetch"
            raise click.BadParameter(why, param_hint="SOURCE")
    elif digest is None:
        digest, source = _hashed(source)
    said = {
        "id": model, "digest": digest, "source_url": source, "tags": tags,
        "signatures": signatures, "sbom": sbom,
        "trust_policy": {"mode": "strict"} if strict else None,
    }  # fmt: skip
    body = codec.dumps({key: value for key, value in said.items() if value is not None})
    answer = reach.run(where, reach.ask, "POST", MODELS, body)
    found = reach.understood(CatalogModel, answer.body)
    if as_json:
        say.json(found)
        return
    say.note(f"The catalog has {found.id}: a task may name it by this id or its digest.", "")
    warn(found)


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


def _hashed(source: str) -> tuple[str, str]:
    """Return digest and reference of a file here."""
    path = Path(source.removeprefix("file:")).absolute()
    hashed = hashlib.sha256()
    try:
        for name in modelref.shards(path.name):
            part = path.with_name(name)
            if stat.S_ISCHR(part.stat().st_mode) or part.is_fifo():  # they have no end
                raise OSError(errno.EINVAL, "it is no file")
            with part.open("rb") as file:
                while chunk := file.read(_CHUNK):
                    hashed.update(chunk)
    except OSError as exc:
        why = f"{path}: {exc.strerror}; --digest is needed for what is no file here"
        raise click.BadParameter(why, param_hint="SOURCE") from None
    return f"sha256:{hashed.hexdigest()}", f"file:{path}"
