"""`python -m orchd.fetch`: fetch one model. An Order on stdin, Said lines on stdout.

A process of its own: what is fetched costs the daemons neither their loop nor their memory, a
library that an extra brings is never in them, and it can be killed at any instant. It ends when
stdin does: nobody waits for it any more.
"""

from __future__ import annotations

import argparse
import os
import sys

import trio

from orchd.fetch.fetch import fetch
from orchd.fetch.orders import Failed, Order, Said
from orchd.kit import log
from orchd.kit.redact import redact
from orchd.kit.run import run
from orchd.wire import codec
from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import Text

MAX_ORDER = 1 << 20
MAX_MESSAGE = 4000  # characters; a Text holds 4096


def main() -> int:
    """Run it; return the exit code of the error table."""
    parser = argparse.ArgumentParser(
        prog="orchd-fetch",
        description="Fetch one model; orchctl models fetch and poolmgr run this.",
    )
    log.add_option(parser)
    os.umask(0o027)  # the cache's group may read: orchd verifies what is in it
    log.setup(parser.parse_args().log, "orchd-fetch")
    try:
        order = codec.loads(Order, sys.stdin.buffer.readline(MAX_ORDER))
    except codec.ShapeError as exc:
        sys.stderr.write(f"orchd-fetch: no order on stdin: {exc}\n")
        return 2
    failed: list[OrchError] = []

    async def serve(stop: trio.Event) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_leave_with, stop, nursery.cancel_scope)
            nursery.start_soon(_leave_with_parent, nursery.cancel_scope)
            try:
                done = await fetch(order, lambda progress: _say(Said(progress=progress)))
                _say(Said(done=done))
            except OrchError as exc:
                failed.append(exc)
                message = redact(exc.message)[:MAX_MESSAGE]
                _say(Said(failed=Failed(kind=Text(exc.kind), message=Text(message))))
            nursery.cancel_scope.cancel()

    code = run(serve, "orchd-fetch")
    return failed[0].row.exit_code if failed else code


def _say(said: Said) -> None:
    try:
        sys.stdout.buffer.write(codec.dumps(said) + b"\n")
        sys.stdout.buffer.flush()
    except BrokenPipeError as exc:
        raise OrchError(Kind.CANCELED, "nobody listens any more") from exc


async def _leave_with(stop: trio.Event, scope: trio.CancelScope) -> None:
    await stop.wait()
    scope.cancel()


async def _leave_with_parent(scope: trio.CancelScope) -> None:
    """Cancel all when stdin ends."""
    descriptor = os.dup(sys.stdin.fileno())
    os.set_blocking(descriptor, False)
    try:
        while True:
            await trio.lowlevel.wait_readable(descriptor)
            if not os.read(descriptor, 4096):
                scope.cancel()
                return
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    sys.exit(main())
