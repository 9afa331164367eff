"""`orchctl config check [FILE]` and `orchctl config schema`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from orchd.cli import reach, say
from orchd.config import jsonschema
from orchd.config.faults import ConfigError, ConfigFault
from orchd.config.load import load
from orchd.config.schema import Settings
from orchd.policy import gate


@click.group(name="config")
def command() -> None:
    """Check the configuration, or print its JSON Schema."""


@command.command()
@click.argument("file", type=click.Path(path_type=Path), required=False)
@reach.JSON
def check(file: Path | None, as_json: bool) -> int:
    """Read FILE (or the file that orchd would read) and say every error with its line.

    The environment (ORCHD_*) counts, as it does for the daemons.
    """
    try:
        settings = load(file)
        _check_plugins(settings)
    except ConfigError as exc:
        if not as_json:
            raise
        say.json({"valid": False, "errors": exc.faults})
        return exc.row.exit_code
    if as_json:
        say.json(
            {
                "valid": True,
                "errors": [],
                "source": str(settings.source) if settings.source else None,
                "bind_addr": settings.bind_addr,
                "front_socket": str(settings.front_socket),
                "state_dir": str(settings.state_dir),
                "auth_token": settings.auth_token is not None,
                "pools": settings.pools,
            }
        )
    else:
        _show(settings)
    return 0


@command.command()
def schema() -> None:
    """Print the JSON Schema of the file, for editors and programs."""
    sys.stdout.write(jsonschema.text())


def _check_plugins(settings: Settings) -> None:
    """Load the policy plugins, as the daemons will. Raises ConfigError."""
    found = gate.faults(settings.policy.plugins)
    if found:
        where = str(settings.source)
        raise ConfigError([ConfigFault(where, each.path, each.message) for each in found])


def _show(settings: Settings) -> None:
    source = settings.source or "no file (defaults)"
    say.show(f"[green]Valid:[/] {say.cell(source)}")
    scheme = "http" if settings.tls is None else "https"
    token = "set" if settings.auth_token is not None else "none (loopback only)"
    for name, value in (
        ("listens on", f"{scheme}://{settings.bind_addr} and unix:{settings.front_socket}"),
        ("state", settings.state_dir),
        ("token", token),
        ("devices", settings.devices.backend.value),
    ):
        say.show(f"  {name:<11} {say.cell(value)}")
    for plugin in settings.policy.plugins:
        what = ", ".join(plugin.decides)
        say.show(
            f"  plugin      {say.cell(plugin.name)} decides {what}, on error {plugin.on_error}"
        )
    if not settings.pools:
        say.show("  pools       none: add one, see /etc/orchd/orchd.toml")
        return
    table = say.table("pool", "engine", "model", "replicas", ">ctx", ">slots", ">queue", "mode")
    for pool in settings.pools:
        table.add_row(
            *map(
                say.cell,
                (
                    pool.id,
                    pool.engine.id,
                    pool.model.ref,
                    " ".join(pool.replica_ids),
                    pool.ctx,
                    pool.slots,
                    f"{pool.queue.interactive}+{pool.queue.batch}",
                    pool.mode.value,
                ),
            )
        )
    say.show(table)
