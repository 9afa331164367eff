"""`orchctl artifacts`: what agents and jobs left behind, with tags and lineage."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Final
from urllib.parse import urlencode

import click

from orchd.cli import names, reach, say
from orchd.cli.removal import remove
from orchd.wire import codec
from orchd.wire.artifacts import Artifact, ArtifactKind, Artifacts, ArtifactStored

ARTIFACTS: Final = "/v1/artifacts"


ID: Final = click.argument("artifact", metavar="ID", type=names.ARTIFACT)


@click.group(name="artifacts")
def command() -> None:
    """Show, store and delete artifacts: plans, summaries, diffs, traces."""


@command.command(name="list")
@click.option("--tag", help="Only those that have this tag.")
@click.option("--job", metavar="TASK", help="Only what orchd left of this task (artifacts.jobs).")
@click.option("--cursor", help="Older ones: what the page before ended with.")
@reach.JSON
@reach.options
def list_artifacts(
    tag: str | None,
    job: str | None,
    cursor: str | None,
    as_json: bool,
    url: str | None,
    token_file: Path | None,
) -> None:
    """List artifacts, the newest first."""
    if job is not None:
        if tag is not None:
            raise click.UsageError("--job names a tag: give it or --tag")
        tag = f"job:{job}"
    query = {key: text for key, text in (("tag", tag), ("cursor", cursor)) if text is not None}
    path = f"{ARTIFACTS}?{urlencode(query)}" if query else ARTIFACTS
    found = reach.run(reach.find(url, token_file), reach.fetch, Artifacts, path)
    if as_json:
        say.json(found)
        return
    table = say.table("artifact", "kind", "stored", ">bytes", "tags", "parent")
    for each in found.artifacts:
        at = datetime.fromtimestamp(each.created_ms / 1000, UTC).astimezone()
        table.add_row(
            each.id,
            each.kind.value,
            f"{at:%Y-%m-%d %H:%M:%S}",
            str(each.content_bytes),
            say.cell(" ".join(each.tags)),
            say.cell(each.parent),
        )
    say.show(table)
    if found.next_cursor is not None:
        say.note(f"Older ones: --cursor {found.next_cursor}", "")


@command.command(name="show")
@ID
@reach.JSON
@reach.options
def show_artifact(artifact: str, as_json: bool, url: str | None, token_file: Path | None) -> None:
    """Write an artifact's content to stdout, as it is; with --json all that is known of it."""
    found = reach.run(reach.find(url, token_file), reach.fetch, Artifact, f"{ARTIFACTS}/{artifact}")
    if as_json:
        say.json(found)
    else:
        text = say.plain(found.content) if sys.stdout.isatty() else found.content
        sys.stdout.buffer.write(text.encode())
        sys.stdout.flush()


@command.command(name="add")
@click.argument("kind", type=click.Choice([kind.value for kind in ArtifactKind]))
@click.argument("file", type=click.File("rb"))
@click.option("--tag", "tags", multiple=True, help="A word to find it by; may be repeated.")
@click.option("--parent", help="The artifact that this one came from.")
@reach.JSON
@reach.options
def add_artifact(
    kind: str,
    file: IO[bytes],
    tags: tuple[str, ...],
    parent: str | None,
    as_json: bool,
    url: str | None,
    token_file: Path | None,
) -> None:
    """Store FILE (- is stdin) and print the artifact's id."""
    try:
        read = file.read(reach.MAX_TEXT + 1)
    except OSError as exc:
        raise click.BadParameter(f"cannot be read: {exc.strerror}", param_hint="FILE") from None
    if len(read) > reach.MAX_TEXT:
        what = f"has more than {reach.MAX_TEXT} bytes, which orchd does not take"
        raise click.BadParameter(what, param_hint="FILE")
    try:
        content = read.decode()
    except UnicodeDecodeError:
        raise click.BadParameter("is no UTF-8 text", param_hint="FILE") from None
    said = {"kind": kind, "content": content, "tags": tags, "parent": parent}
    body = codec.dumps({key: value for key, value in said.items() if value is not None})
    answer = reach.run(reach.find(url, token_file), reach.ask, "POST", ARTIFACTS, body)
    found = reach.understood(ArtifactStored, answer.body)
    if as_json:
        say.json(found)
    else:
        click.echo(found.id)


@command.command(name="remove")
@ID
@reach.JSON
@reach.options
def remove_artifact(artifact: str, as_json: bool, url: str | None, token_file: Path | None) -> None:
    """Delete an artifact; those that came from it stay."""
    remove(f"{ARTIFACTS}/{artifact}", f"{artifact} is gone.", as_json, url, token_file)
