"""poolmgr POOL:MASK: the composition root. Arguments, configuration, socket, then the replica."""

from __future__ import annotations

import argparse
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import trio

from orchd import __version__
from orchd.config.load import load
from orchd.config.pool import Pool
from orchd.config.schema import Settings
from orchd.kit import fds, log
from orchd.kit.run import run
from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import DeviceMask, ReplicaId, parse_replica_id
from poolmgr.edge.replica import Replica

SOCKET_NAME = "pool"
"""FileDescriptorName= of units/poolmgr@.socket."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one replica; return the exit code of the error table."""
    arguments = parser().parse_args(argv)
    log.setup(arguments.log, "poolmgr")

    async def serve(stop: trio.Event) -> None:
        settings = load(arguments.config)
        pool, replica_id, mask = find(settings, arguments.replica)
        listeners = passed_or_bound(settings, replica_id)
        if settings.auth_token is not None:
            log.add_secret(settings.auth_token.reveal())
        await Replica(settings, pool, replica_id, mask).run(listeners, stop)

    return run(serve, "poolmgr")


def parser() -> argparse.ArgumentParser:
    """Return what reads the arguments; the man page is written from it too."""
    parser = argparse.ArgumentParser(
        prog="poolmgr",
        description="Serve one replica of a pool: one model on one device mask.",
        epilog="systemd starts it as poolmgr@POOL:MASK.service; orchctl pools shows what it does.",
    )
    parser.add_argument(
        "replica", metavar="POOL:MASK", help="the replica, such as demo:0 or big:0_1"
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="the configuration file")
    log.add_option(parser)
    parser.add_argument("--version", action="version", version=f"poolmgr {__version__}")
    return parser


def find(settings: Settings, name: str) -> tuple[Pool, ReplicaId, DeviceMask]:
    """Return the replica that `name` means. Raises OrchError(CONFIG_INVALID) with those there are.

    The mask must be one of the configured: a replica that orchd does not know gets no jobs.
    """
    try:
        pool_id, mask = parse_replica_id(name)
    except ValueError as exc:
        raise OrchError(Kind.CONFIG_INVALID, str(exc)) from exc
    for pool in settings.pools:
        if pool.id == pool_id and mask in pool.replicas:
            return pool, ReplicaId(f"{pool_id}:{mask}"), mask
    known = ", ".join(replica for pool in settings.pools for replica in pool.replica_ids)
    raise OrchError(
        Kind.CONFIG_INVALID, f"no replica {name} is configured (configured: {known or 'none'})"
    )


def passed_or_bound(settings: Settings, replica_id: ReplicaId) -> list[socket.socket]:
    """Return systemd's socket, or one bound here. Raises OrchError(CONFIG_INVALID)."""
    return fds.passed().get(SOCKET_NAME) or [fds.bind_unix(settings.pool_socket(replica_id))]


if __name__ == "__main__":
    sys.exit(main())
