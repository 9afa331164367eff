"""orchd, put together: settings, sockets, the app, the HTTP server, systemd's notifications.

The one module that knows all rooms of the front daemon. Nothing is decided here.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import trio

from orchd import __version__
from orchd.config.load import load
from orchd.config.schema import Settings
from orchd.edge import door
from orchd.edge.app import App
from orchd.edge.auth import Guard
from orchd.edge.cors import allowing
from orchd.edge.routes import Routes
from orchd.kit import fds, http, log, run
from orchd.kit.notify import Notifier
from orchd.kit.tls import server_context
from orchd.wire.errors import OrchError
from orchd.wire.words import many

DRAIN_S: Final = 15.0
"""For running tasks after SIGTERM; orchd.service allows TimeoutStopSec=30 for this and the rest."""
PATIENT_DRAIN_S: Final = 600.0
"""The same at a restart, for which no shutdown waits; systemd is asked for the time."""
RESTART: Final = signal.SIGUSR2
"""RestartKillSignal= of orchd.service."""
STAY_S: Final = 10.0
HANG_UP_S: Final = 5.0
LATE: Final = ("orchd.kit.h2_connection",)
"""What is loaded after the first answer. Not at its first use: that may be after an upgrade of the
package, and then the file would be another version's."""
LIMITS: Final = http.Limits(connections=8192)  # 5,000 waiting readers and what else there is


def main(argv: Sequence[str] | None = None) -> int:
    """Run orchd until it is told to stop. Returns the exit code of the error table."""
    options = parser().parse_args(argv)
    log.setup(options.log, "orchd")

    async def configured(stop: trio.Event) -> None:
        def read() -> Settings:
            return load(options.config, overrides={"bind_addr": options.bind})

        await serve(read, stop)

    return run.run(configured, "orchd")


async def serve(read: Callable[[], Settings], stop: trio.Event) -> None:
    """Serve until `stop`; then drain and leave. `read` gives what is configured."""
    settings = read()
    if settings.auth_token is not None:
        log.add_secret(settings.auth_token.reveal())
    tls = None if settings.tls_files is None else server_context(*settings.tls_files)
    notifier = Notifier()
    listeners = _listeners(settings)
    app = App(settings)
    routes = Routes(
        app,
        Guard(
            settings.auth_token.reveal() if settings.auth_token is not None else None,
            settings.auth_optional,
            settings.trust_proxy_auth,
            frozenset(settings.cors_origins),
        ),
    )
    handler = allowing(settings.cors_origins, routes)
    hang_up = trio.Event()
    patient = trio.Event()
    async with trio.open_nursery() as services:
        await services.start(app.run)
        await services.start(_hear_restart, patient, stop)
        services.start_soon(notifier.keep_beating, app.alive)
        async with trio.open_nursery() as serving:
            await serving.start(
                partial(
                    http.serve,
                    listeners,
                    handler,
                    limits=LIMITS,
                    stop=hang_up,
                    drain_s=HANG_UP_S,
                    tls=tls,
                )
            )
            where = ", ".join(_name(listener, tls is not None) for listener in listeners)
            status = _status(settings, where)
            run.started()
            await services.start(_reload, app, read, notifier, where)
            notifier.ready(status)
            services.start_soon(door.watch, listeners, notifier, status)
            log.event("ready", f"{status}.", version=__version__, config=str(settings.source or ""))
            services.start_soon(trio.to_thread.run_sync, _load_late)
            await stop.wait()
            notifier.stopping("Draining: running tasks end, new ones are refused")
            if patient.is_set():
                services.start_soon(_stay, app, notifier)
            await app.drain(PATIENT_DRAIN_S if patient.is_set() else DRAIN_S)
            hang_up.set()
        services.cancel_scope.cancel()
    log.event("stopped", "Stopped.")


async def _hear_restart(
    patient: trio.Event,
    stop: trio.Event,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """At the signal of a restart, stop patiently; while it stops already it changes nothing."""
    with trio.open_signal_receiver(RESTART) as signals:
        task_status.started()
        async for _ in signals:
            if not stop.is_set():
                log.event("stopping", "orchd stops for a restart", signal=RESTART.name)
                patient.set()
                stop.set()


async def _stay(app: App, notifier: Notifier) -> None:
    """Tell systemd that the stop goes on, and what it waits for."""
    while True:
        count = app.unfinished
        tasks = "1 task" if count == 1 else f"{count} tasks"
        notifier.stay(
            f"Draining before a restart: {tasks} to end, new ones are refused", 3 * STAY_S
        )
        await trio.sleep(STAY_S)


def _load_late() -> None:
    for name in LATE:
        importlib.import_module(name)


def _status(settings: Settings, where: str) -> str:
    return f"Serving {many(len(settings.pools), 'pool')} on {where}"


async def _reload(
    app: App,
    read: Callable[[], Settings],
    notifier: Notifier,
    where: str,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Read the configuration again at each SIGHUP; one that is refused changes nothing."""
    if "NOTIFY_SOCKET" not in os.environ:  # by hand, in a terminal: SIGHUP says that it is gone
        task_status.started()
        return
    with trio.open_signal_receiver(signal.SIGHUP) as signals:
        task_status.started()
        async for _ in signals:
            notifier.reloading()
            said = ""
            try:
                change = app.reread(read())
            except OrchError as exc:
                said = ". The file was refused when it was read again; the journal says why"
                human = f"The configuration stays as it was: {exc.message}"
                log.event("reload_refused", human, level="error", kind=exc.kind.value)
            else:
                now = ", ".join(change.now) or "nothing"
                later = ", ".join(change.later)
                human = f"Read the configuration again; changed: {now}"
                human += f"; after a restart: {later}." if later else "."
                if later:
                    said = f". After a restart: {later}"
                log.event("reloaded", human, changed=now, later=later or None)
            notifier.ready(_status(app.settings, where) + said)


def _listeners(settings: Settings) -> Sequence[socket.socket]:
    """Return systemd's sockets; without it, our own."""
    passed = [sock for socks in fds.passed().values() for sock in socks]
    if passed:
        return passed
    host, port = settings.bind
    return [fds.bind_tcp(host, port), fds.bind_unix(settings.front_socket)]


def _name(listener: socket.socket, tls: bool) -> str:
    address = listener.getsockname()
    if isinstance(address, str):
        return f"unix:{address}"
    return f"{'https' if tls else 'http'}://{address[0]}:{address[1]}"


def parser() -> argparse.ArgumentParser:
    """Return what reads the arguments; the man page is written from it too."""
    parser = argparse.ArgumentParser(
        prog="orchd", description="The front daemon: admits, queues, places and streams tasks."
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="the TOML file to use")
    parser.add_argument("--bind", metavar="ADDR", help="IP:PORT instead of the configured one")
    log.add_option(parser)
    parser.add_argument("--version", action="version", version=f"orchd {__version__}")
    return parser


if __name__ == "__main__":
    sys.exit(main())
