"""orchd, put together: settings, sockets, the app, the HTTP server, systemd's notifications.

The one module that knows all rooms of the front daemon. Nothing is decided here.
"""

from __future__ import annotations

import argparse
import socket
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

import trio

from orchd import __version__
from orchd.config.load import load
from orchd.config.schema import Settings
from orchd.edge.app import App
from orchd.edge.auth import Guard
from orchd.edge.cors import allowing
from orchd.edge.routes import Routes
from orchd.kit import fds, http, log, run
from orchd.kit.notify import Notifier
from orchd.kit.tls import server_context

DRAIN_S: Final = 15.0
"""For running tasks after SIGTERM; orchd.service allows TimeoutStopSec=30 for this and the rest."""
HANG_UP_S: Final = 5.0
LIMITS: Final = http.Limits(connections=8192)  # 5,000 waiting readers and what else there is


def main(argv: Sequence[str] | None = None) -> int:
    """Run orchd until it is told to stop. Returns the exit code of the error table."""
    options = _parser().parse_args(argv)
    log.setup(options.log, "orchd")

    async def configured(stop: trio.Event) -> None:
        await serve(load(options.config, overrides={"bind_addr": options.bind}), stop)

    return run.run(configured, "orchd")


async def serve(settings: Settings, stop: trio.Event) -> None:
    """Serve until `stop`; then drain and leave."""
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
        ),
    )
    handler = allowing(settings.cors_origins, routes)
    hang_up = trio.Event()
    async with trio.open_nursery() as services:
        await services.start(app.run)
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
            count = len(settings.pools)
            status = f"Serving {count} {'pool' if count == 1 else 'pools'} on {where}"
            run.started()
            notifier.ready(status)
            log.event("ready", f"{status}.", version=__version__, config=str(settings.source or ""))
            await stop.wait()
            notifier.stopping("Draining: running tasks end, new ones are refused")
            await app.drain(DRAIN_S)
            hang_up.set()
        services.cancel_scope.cancel()
    log.event("stopped", "Stopped.")


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


def _parser() -> argparse.ArgumentParser:
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
