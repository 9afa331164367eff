"""From main to exit code: trio's loop, the signals, what is said about an error at the end.

What a daemon does until it is stopped, and how long its parts may take to stop, is its own.
"""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import signal
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

import trio

from orchd.kit import log
from orchd.kit.groups import leaves, orch_error
from orchd.kit.notify import Notifier
from orchd.wire.errors import TABLE, Kind

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


def run(main: Callable[[trio.Event], Awaitable[None]], program: str) -> int:
    """Run `main` and return the exit code of the program.

    `main` gets an event that the first SIGTERM or SIGINT sets; it then stops in order and returns:
    0. A second signal cancels it: 128 + the signal. A third ends the process on the spot.
    OrchError: one line, and the exit code of its row. Anything else: the traceback, and INTERNAL's.
    """
    _raise_descriptor_limit()
    _leave_no_core_dump()
    try:
        forced = trio.run(_supervise, main, program)
    except KeyboardInterrupt:
        return TABLE[Kind.CANCELED].exit_code  # Ctrl-C before the loop began to listen for it
    except Exception as exc:  # noqa: BLE001 - the last place that can say what happened
        return _failed(exc, program)
    return 0 if forced is None else 128 + forced


def started() -> None:
    """Call once when everything is built: what exists now lives as long as the process.

    The collector then walks only what came later (specs/benchmarks.md).
    """
    gc.collect()
    gc.freeze()
    # a full collection walks every queued task: 0.9 s at 100,000 of them (specs/benchmarks.md)
    gc.set_threshold(700, 10, 1000)


def _raise_descriptor_limit() -> None:
    """Take what the hard limit allows: the soft one is 1024 for select(), unused here."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # refused: then fewer connections
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _leave_no_core_dump() -> None:
    """Have the kernel dump neither us nor our children: prompts and outputs are in there.

    A limit of 1 byte is below every dump, and tells a kernel that would give it to a program
    through a pipe to leave it (fs/coredump.c); 0 would not.
    """
    with contextlib.suppress(OSError, ValueError):  # a hard limit of 0 is not ours to raise
        resource.setrlimit(resource.RLIMIT_CORE, (1, 1))


async def _supervise(main: Callable[[trio.Event], Awaitable[None]], program: str) -> int | None:
    """Return the signal that forced the end, or None."""
    stop = trio.Event()
    forced: list[int] = []
    with trio.open_signal_receiver(*_SIGNALS) as signals:
        async with trio.open_nursery() as nursery:
            scope = trio.CancelScope()
            nursery.start_soon(log.keep_writing)
            nursery.start_soon(_watch, signals, stop, forced, scope, program)
            with scope:
                await main(stop)
            nursery.cancel_scope.cancel()
    return forced[0] if forced else None


async def _watch(
    signals: AsyncIterator[int],
    stop: trio.Event,
    forced: list[int],
    scope: trio.CancelScope,
    program: str,
) -> None:
    async for number in signals:
        name = signal.Signals(number).name
        if not stop.is_set():
            log.event("stopping", f"{program} is stopping on {name}", signal=name)
            stop.set()
        else:
            human = f"{program} stops at once: {name} came while it was stopping"
            log.event("stop_forced", human, level="warning", signal=name)
            forced.append(number)
            scope.cancel()
            break
    async for number in signals:
        log.flush()
        os._exit(128 + number)


def _failed(exc: BaseException, program: str) -> int:
    """Say why the program ends, in the log and in systemctl status; return its exit code."""
    error = orch_error(exc)
    if error is not None:
        row = error.row
        why = f"{error.message.rstrip('.')}. {row.advice}"
        human = f"{program}: {why}"
        log.event("failed", human, level="error", kind=error.kind.value, exit_code=row.exit_code)
        _tell_systemd(why)
        return row.exit_code
    row, cause = TABLE[Kind.INTERNAL], next(leaves(exc))
    log.event(
        "failed",
        f"{program} ended on an unexpected error: {type(cause).__name__}",
        level="error",
        kind=Kind.INTERNAL.value,
        exit_code=row.exit_code,
        traceback="".join(traceback.format_exception(exc)),
    )
    _tell_systemd(f"{type(cause).__name__}, a bug. Report it with the lines of the journal.")
    return row.exit_code


def _tell_systemd(why: str) -> None:
    notifier = Notifier()
    notifier.last_words(f"Failed: {why}")
    notifier.close()
