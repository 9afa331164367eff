"""Starting the fetching program and hearing it out: for poolmgr and for orchctl.

What it does is fetch.py's.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Final

import trio
from attrs import frozen

from orchd.fetch.orders import Done, Order, Progress, Said
from orchd.wire import codec
from orchd.wire.errors import Kind, OrchError

ARGV: Final = (sys.executable, "-P", "-m", "orchd.fetch")
"""-P: not from the folder that somebody happens to be in, which may be anybody's."""
MAX_LINE: Final = 1 << 20
STOP_S: Final = 5.0
"""What it gets to write its journal after SIGTERM."""


@frozen
class Owner:
    """Whom the program runs as, where that is not who starts it: the cache's owner."""

    uid: int
    gid: int


async def fetched(
    order: Order, say: Callable[[Progress], None], *, log: str = "auto", owner: Owner | None = None
) -> Done:
    """Have a model fetched, and return it. Cancelled, it stops the program and keeps what has come.

    `log` is where the program's journal lines go. Raises OrchError: what the program says, or
    FETCH_FAILED when it ends without a word.
    """
    try:
        process = await trio.lowlevel.open_process(
            [*ARGV, "--log", log],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # a user or group of None is ours
            user=None if owner is None else owner.uid,
            group=None if owner is None else owner.gid,
            extra_groups=None if owner is None else [],
        )
    except OSError as exc:
        who = "" if owner is None else f" as user {owner.uid}"
        why = f"{sys.executable} cannot be started{who}: {exc.strerror}"
        raise OrchError(Kind.FETCH_FAILED, why) from exc
    assert process.stdin is not None, "it was asked for"
    assert process.stdout is not None, "it was asked for"
    try:
        await process.stdin.send_all(codec.dumps(order) + b"\n")
        done = await _heard(process.stdout, say)
        if done is not None:
            return done
    except trio.BrokenResourceError:
        pass  # it ended before it had read the order
    finally:
        with trio.move_on_after(STOP_S, shield=True):
            await process.stdin.aclose()  # it ends by itself when this does
            await process.wait()
        if process.returncode is None:
            process.kill()
        with trio.move_on_after(STOP_S, shield=True):
            await process.wait()
            await process.stdout.aclose()
    raise OrchError(
        Kind.FETCH_FAILED, f"the fetching program ended with {process.returncode} and no word"
    )


async def _heard(stream: trio.abc.ReceiveStream, say: Callable[[Progress], None]) -> Done | None:
    """Return what it fetched; None: it ended first. Raises OrchError: its own, and INTERNAL for
    what is none of its words."""
    rest = b""
    async for data in stream:
        *lines, rest = (rest + data).split(b"\n")
        if len(rest) > MAX_LINE:
            raise OrchError(Kind.INTERNAL, "the fetching program says a line without an end")
        for line in lines:
            try:
                said = codec.loads(Said, line)
            except codec.ShapeError as exc:
                why = f"the fetching program cannot be understood: {exc}"
                raise OrchError(Kind.INTERNAL, why) from exc
            if said.done is not None:
                return said.done
            if said.failed is not None:
                raise OrchError(Kind(said.failed.kind), said.failed.message)
            if said.progress is not None:
                say(said.progress)
    return None
