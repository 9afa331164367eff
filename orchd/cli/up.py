"""`orchctl up`: the suite in the foreground, on the code path of systemd. Ctrl-C stops it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final, Literal

import click
import trio

from orchd.cli import reach, say
from orchd.cli.unit import Unit
from orchd.config.load import load
from orchd.config.schema import Settings
from orchd.kit import fds, log
from orchd.kit.client import Target
from orchd.wire.errors import TABLE, Kind, OrchError

STOP_S: Final = 25.0
"""From the first signal to the kill: orchd's drain (15 s), its hanging up (5 s) and some air."""
KILL_S: Final = 5.0
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
Mode = Literal["auto", "json", "pretty"]


@click.command(name="up")
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The TOML file. Else ORCHD_CONFIG, else your own, else /etc/orchd/orchd.toml.",
)
@click.option(
    "--log",
    "mode",
    type=click.Choice(["auto", "json", "pretty"]),
    default=lambda: os.environ.get("ORCHD_LOG", "auto"),
    help="How the daemons log here. [auto: pretty on a terminal, else JSON lines]",
)
def command(config: Path | None, mode: Mode) -> int:
    """Run orchd and every pool in this terminal, without systemd, until Ctrl-C.

    A second Ctrl-C does not wait for running tasks.
    """
    settings = load(config.absolute() if config else None)
    log.setup(mode, "orchctl")
    with contextlib.ExitStack() as stack:
        suite = _Suite(settings, mode, stack)
        number = trio.run(suite.run)
    return TABLE[Kind.CANCELED].exit_code if number == signal.SIGINT else 0


class _Suite:
    """The daemons, their sockets, and the moment when all of them are ready."""

    def __init__(self, settings: Settings, mode: Mode, stack: contextlib.ExitStack) -> None:
        """Bind every socket; `stack` closes and removes them. Raises OrchError."""
        self._settings = settings
        self._was_ready = False
        self._for_people = mode == "pretty" or (mode == "auto" and sys.stderr.isatty())
        self._stop = trio.Event()
        tail = ["--log", mode]
        if settings.source is not None:
            tail += ["--config", str(settings.source.absolute())]
        try:
            tcp = fds.bind_tcp(*settings.bind)
            stack.callback(tcp.close)
            front = {"orchd.tcp": tcp, "orchd.unix": _bind(settings.front_socket, stack)}
            self._units = [self._unit("orchd", ["-m", "orchd", *tail], front)]
            for pool in settings.pools:
                for replica in pool.replica_ids:
                    pool_socket = _bind(settings.pool_socket(replica), stack)
                    # of an engine that was killed with its poolmgr
                    for seat in (0, 1):
                        stack.callback(_remove, settings.engine_socket(replica, seat))
                    _remove(settings.reloaded_file(replica))  # of a run that was killed
                    stack.callback(_remove, settings.reloaded_file(replica))
                    argv = ["-m", "poolmgr", replica, *tail]
                    self._units.append(self._unit(replica, argv, {"pool": pool_socket}))
        except OrchError as exc:
            raise reach.ToldError(
                exc.kind,
                exc.message,
                "If orchd runs already, use it or stop it (systemctl stop orchd.target, or Ctrl-C "
                "in its terminal); else change bind_addr or run_dir.",
            ) from exc
        host, port = tcp.getsockname()[:2]
        self._url = self._way_in = str(Target(host=host, port=port))
        self._curl = "curl -s"
        if settings.tls_files is not None:  # orchctl comes by the unix socket, which stays plain
            self._url = self._url.replace("http:", "https:", 1)
            self._way_in = f"unix:{settings.front_socket}"
            self._curl = f"curl -s --cacert {settings.tls_files[0]}"

    def _unit(self, name: str, argv: list[str], listeners: dict[str, socket.socket]) -> Unit:
        return Unit(name, argv, listeners, self._stop, self._changed)

    async def run(self) -> int:
        """Run until a signal; return it."""
        if not self._settings.pools:
            source = self._settings.source or "the defaults (no configuration file was found)"
            log.event("no_pools", f"No pools in {source}; orchd alone.", level="warning")
        with trio.open_signal_receiver(*_SIGNALS) as signals:
            async with trio.open_nursery() as helpers:
                async with trio.open_nursery() as running:
                    for unit in self._units:
                        running.start_soon(unit.run)
                    number = await anext(signals)
                    self._stop_all(number)
                    helpers.start_soon(self._insist, signals)
                helpers.cancel_scope.cancel()
        return number

    def _stop_all(self, number: int) -> None:
        name = signal.Signals(number).name
        human = f"Stopping on {name}: running tasks have {STOP_S:.0f} s; once more stops at once."
        log.event("suite_stopping", human)
        self._stop.set()
        for unit in self._units:
            unit.signal(signal.SIGTERM)

    async def _insist(self, signals: AsyncIterator[int]) -> None:
        """After the deadline, or at once on a second signal: stop hard."""
        with trio.move_on_after(STOP_S):
            await anext(signals)
        for unit in self._units:
            unit.signal(signal.SIGTERM)  # the second one: daemons leave without draining
        with trio.move_on_after(KILL_S):
            await anext(signals)
        for unit in self._units:
            unit.signal(signal.SIGKILL)

    def _changed(self) -> None:
        ready = all(unit.ready for unit in self._units)
        if ready and not self._was_ready:
            self._say_ready()
        self._was_ready = ready

    def _say_ready(self) -> None:
        replicas = _counted(len(self._units) - 1, "replica")
        pools = _counted(len(self._settings.pools), "pool")
        human = f"Everything is Ready: {replicas} of {pools} at {self._url}. Ctrl-C stops it."
        log.event("suite_ready", human, url=self._url)
        if not self._for_people:
            return
        with contextlib.suppress(OSError):
            say.note("Try:", "bold")
            say.note(f'  orchctl run --url {self._way_in} "Hello"', "")
            say.note(f"  {self._curl} {self._url}/v1/capabilities", "")


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _bind(path: Path, stack: contextlib.ExitStack) -> socket.socket:
    sock = fds.bind_unix(path)
    stack.callback(_remove, path)
    stack.callback(sock.close)
    return sock


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
