"""`orchctl plan POOL` and `orchctl provision POOL`: how a pool's engine comes here.

Both become the program of poolmgr that knows how: orchctl itself knows no engine.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import click

from orchd.config.load import load
from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import PoolId

PROGRAM = (sys.executable, "-m", "poolmgr.provisioner")


def _options(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--json", "as_json", is_flag=True, help="One JSON object, for programs."),
        click.option(
            "--config",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="The TOML file. Else ORCHD_CONFIG, else your own, else /etc/orchd/orchd.toml.",
        ),
        click.argument("pool"),
    ):
        function = option(function)
    return function


@click.command(name="plan")
@_options
def plan(pool: str, config: Path | None, as_json: bool) -> None:
    """Show the steps that bring the engine of POOL here, and what is in the way.

    Nothing is changed or fetched; the same machine and configuration give the same bytes.
    """
    _become("plan", pool, config, as_json=as_json)


@click.command(name="provision")
@_options
def provision(pool: str, config: Path | None, as_json: bool) -> None:
    """Bring the engine of POOL here: build, download or pull it, as the configuration says.

    What is here already is not brought again. As root for the system's pools: it becomes the owner
    of the cache. Ctrl-C ends it; the next time goes on or begins anew.
    """
    _become("provision", pool, config, as_json=as_json)


def _become(verb: str, pool: str, config: Path | None, *, as_json: bool) -> NoReturn:
    """Raises OrchError for a configuration or a name that cannot be used: told as every verb tells
    it, and not in the program's log."""
    settings = load(config)
    try:
        settings.pool(PoolId(pool))
    except KeyError:
        known = ", ".join(one.id for one in settings.pools) or "none"
        what = f"no pool {pool!r} is configured (known: {known})"
        raise OrchError(Kind.UNKNOWN_NAME, what) from None
    argv = [*PROGRAM, verb, pool]
    if config is not None:
        argv += ["--config", str(config.absolute())]
    if as_json:
        argv.append("--json")
    sys.stdout.flush()
    os.execv(argv[0], argv)
