"""`python -m poolmgr.mockengine`: bind the socket, load for a while, serve until SIGTERM."""

from __future__ import annotations

import os
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path

from poolmgr.mockengine.loop import Loop
from poolmgr.mockengine.options import Options, parse
from poolmgr.mockengine.server import Server

BACKLOG = 1024


def main() -> None:
    """Run the engine. Exits 1 when it refuses to load."""
    options = parse()
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    signal.signal(signal.SIGINT, lambda *_: os._exit(0))
    with suppress(FileNotFoundError):
        Path(options.socket).unlink()  # a stale one would make bind fail
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(options.socket)
    listener.listen(BACKLOG)
    loop = Loop()
    server = Server(loop, options)
    server.accept_from(listener)
    if options.load_ms:
        loop.at(loop.now + options.load_ms / 1e3, lambda: _loaded(loop, server, options))
    else:
        _loaded(loop, server, options)
    loop.run()


def _loaded(loop: Loop, server: Server, options: Options) -> None:
    if options.refuse_load or options.model == options.refuse_model:
        print("mock-engine: error: refused to load the model, as told", file=sys.stderr, flush=True)
        os._exit(1)
    server.loading = False
    if options.die_after_load_ms is not None:
        loop.at(loop.now + options.die_after_load_ms / 1e3, lambda: os._exit(0))


if __name__ == "__main__":
    main()
