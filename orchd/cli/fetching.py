"""`orchctl models fetch`: bring models into the cache, as a pool would.

It runs here; orchd is only told of what came (registering.py). The cache is that of whoever runs
it; as root it is the system's, and the fetching program then runs as the cache's owner, so that
nothing in it is root's.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

import click
import trio
from attrs import asdict, frozen

from orchd.cli import reach, say
from orchd.cli.registering import registered
from orchd.config.folders import models_dir
from orchd.config.load import load
from orchd.config.pool import is_file_ref
from orchd.config.schema import Settings
from orchd.fetch.child import Owner, fetched
from orchd.fetch.orders import Done, Order, Progress
from orchd.fetch.pools import ordered
from orchd.fetch.progress import size, words
from orchd.kit.groups import orch_error
from orchd.wire import modelref
from orchd.wire.cached import Shape
from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import DIGEST, ModelId, Text

JOURNAL: Final = Path("/run/systemd/journal/socket")
LINE_S: Final = 10.0
"""How often a line is written where there is no terminal to write over the last one."""


@frozen(kw_only=True)
class Registered(Done):
    """What `--json` writes."""

    model_id: ModelId | None = None
    """Its id in the catalog; None: it is not there."""


@click.command(name="fetch")
@click.argument("ref", required=False)
@click.option("--digest", help="sha256:<hex> that the model must have.")
@click.option("--whole", is_flag=True, help="Of a repository: all that vLLM reads, no GGUF file.")
@click.option(
    "--cache-dir", type=click.Path(path_type=Path), help="Where to, in place of the cache."
)
@click.option("--config", type=click.Path(path_type=Path), help="The configuration file.")
@reach.JSON
@reach.options
def fetch_model(
    ref: str | None,
    digest: str | None,
    whole: bool,
    cache_dir: Path | None,
    config: Path | None,
    as_json: bool,
    url: str | None,
    token_file: Path | None,
) -> None:
    """Fetch REF (hf:org/repo/file.gguf, https://..., s3://..., oci://...) into the cache, verify
    it, and register it where orchd answers. Without REF: the models that the configuration names.

    The rules of policy.outbound hold; the REF of a command line names its own hosts. What was begun
    goes on where it ended.
    """
    settings = load(config)
    if ref is None:
        orders = _configured(settings)
        if not orders:
            say.note("The configuration names no model that would have to be fetched.", "")
    else:
        orders = [_named(settings, ref, digest, cache_dir, whole=whole)]
        if cache_dir is None and digest is None and not whole:
            # a pool's own model goes where the pool looks for it, as the pool would have it
            orders = [one for one in _configured(settings) if one.ref == ref] or orders
    for order in orders:
        done = _run(order, quiet=as_json)
        if not as_json:
            came = "It was here already" if not done.fetched_bytes else "Fetched and verified"
            say.note(f"{came}: {size(done.size_bytes)}, {done.digest}", "")
        model_id = registered(order, done, settings, url, token_file)
        if as_json:
            say.json(Registered(**asdict(done, recurse=False), model_id=model_id))
            continue
        if model_id is not None:
            say.note(f"The catalog has it as {model_id}: a task may name it so.", "")
        say.show(say.cell(done.path))


def _configured(settings: Settings) -> list[Order]:
    pools = [
        pool for pool in settings.pools if is_file_ref(pool) and modelref.is_remote(pool.model.ref)
    ]
    made = [ordered(settings, pool, os.environ) for pool in pools]
    return list({(order.ref, order.folder, order.shape): order for order in made}.values())


def _named(
    settings: Settings, ref: str, digest: str | None, cache_dir: Path | None, *, whole: bool
) -> Order:
    if ref.startswith(("file:", "/", "./", "../")):
        raise click.BadParameter(
            "is a file of this machine: there is nothing to fetch; orchctl models add registers it",
            param_hint="REF",
        )
    try:
        modelref.parse(ref)
    except ValueError as exc:
        raise click.BadParameter(str(exc), param_hint="REF") from None
    if digest is not None and not DIGEST.fullmatch(digest):
        raise click.BadParameter("must be sha256:<64 hex digits>", param_hint="--digest")
    folder = cache_dir.absolute() if cache_dir else models_dir(os.environ)
    return Order(
        ref=Text(ref),
        folder=Text(str(folder)),
        shape=Shape.WHOLE if whole else Shape.GGUF,
        digest=None if digest is None else Text(digest),
        named_by=Text("orchctl models fetch"),
        purpose=Text("orchctl models fetch"),
        outbound=settings.policy.outbound,
        plugins=settings.policy.plugins,
    )


def _run(order: Order, *, quiet: bool) -> Done:
    owner = _owner(Path(order.folder))
    show = _Line(quiet=quiet)

    async def main() -> Done:
        # an audit that nobody keeps would be none: where there is a journal, it goes there
        log = "journal" if JOURNAL.exists() else "pretty"
        return await fetched(order, show, log=log, owner=owner)

    try:
        return trio.run(main)
    except BaseExceptionGroup as exc:
        error = orch_error(exc)
        if error is None:
            raise
        raise error from exc
    finally:
        show.end()


def _owner(folder: Path) -> Owner | None:
    """Return whom the cache belongs to, if we are root and it is not root's."""
    if os.geteuid() != 0:
        return None
    for path in (folder, *folder.parents):
        try:
            found = path.stat()
        except FileNotFoundError:
            continue
        except OSError as exc:
            why = f"{path} cannot be looked at: {exc.strerror}"
            raise OrchError(Kind.DISK_SHORT, why) from exc
        return Owner(found.st_uid, found.st_gid) if found.st_uid else None
    return None


class _Line:
    """One line of a terminal, written over; elsewhere a line now and then."""

    def __init__(self, *, quiet: bool) -> None:
        self._terminal = sys.stderr.isatty()
        self._quiet = quiet
        self._said_at = -LINE_S
        self._open = False

    def __call__(self, progress: Progress) -> None:
        text = say.plain(words(progress))
        if self._quiet:
            return
        if self._terminal:
            sys.stderr.write(f"\r\x1b[K{text}")
            sys.stderr.flush()
            self._open = True
        elif trio.current_time() - self._said_at >= LINE_S:
            self._said_at = trio.current_time()
            say.note(text, "")

    def end(self) -> None:
        if self._open:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
