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
from orchd.edge.routes import Routes
from orchd.kit import fds, http1, log, run
from orchd.kit.notify import Notifier
from orchd.kit.tls import server_context
from orchd.wire.errors import OrchError

DRAIN_S: Final = 15.0
"""For running tasks after SIGTERM; orchd.service allows TimeoutStopSec=30 for this and the rest."""
HANG_UP_S: Final = 5.0
LIMITS: Final = http1.Limits(connections=8192)  # 5,000 waiting readers and what else there is


def main() -> int:
    """Run orchd until it is told to stop. Returns the exit code."""
    options = _options()
    log.setup(options.log, "orchd")
    try:
        overrides = {"bind_addr": options.bind} if options.bind else {}
        settings = load(options.config, overrides=overrides)
    except OrchError as exc:
        for line in str(exc).splitlines():
            print(f"orchd: {line}", file=sys.stderr)
        return exc.row.exit_code
    return run.run(partial(serve, settings), "orchd")


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
        ),
    )
    hang_up = trio.Event()
    async with trio.open_nursery() as services:
        await services.start(app.run)
        services.start_soon(partial(notifier.keep_beating, lambda: True))
        async with trio.open_nursery() as serving:
            await serving.start(
                partial(
                    http1.serve,
                    listeners,
                    routes,
                    limits=LIMITS,
                    stop=hang_up,
                    drain_s=HANG_UP_S,
                    tls=tls,
                )
            )
            where = ", ".join(_name(listener, tls is not None) for listener in listeners)
            status = f"Serving {len(settings.pools)} pools on {where}"
            run.started()
            notifier.ready(status)
            log.event("ready", f"{status}.", version=__version__, config=str(settings.source or ""))
            await stop.wait()
            notifier.stopping("Draining: running tasks end, new ones are refused")
            log.event("draining", f"Stopping: running tasks have {DRAIN_S:.0f} s.")
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


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="orchd", description="The front daemon: admits, queues, places and streams tasks."
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="the TOML file to use")
    parser.add_argument("--bind", metavar="ADDR", help="IP:PORT instead of the configured one")
    parser.add_argument("--log", choices=["auto", "json", "pretty", "journal"], default="auto")
    parser.add_argument("--version", action="version", version=f"orchd {__version__}")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
