"""Structured events -> the journal, JSON lines, or a console: one call, `event(name, human, ...)`.

An event is logged once, where it is handled. Secrets are taken out here, for every sink. Which
events there are is the business of those who log.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, Final, Literal, get_args

import trio
from attrs import frozen

from orchd.kit.log_sinks import OWN, Record, to_console, to_journal, to_lines
from orchd.kit.redact import SHOWN, add_secret, encodable, is_secret_name, redact, redact_short

__all__ = ["add_secret", "capture", "correlation", "debugging", "event", "redact", "setup"]

Level = Literal["debug", "info", "warning", "error"]
Mode = Literal["auto", "json", "pretty", "journal"]

MAX_TEXT: Final = 16 << 10  # bytes of one field: a traceback fits, a prompt gone astray does not
MAX_SHORT: Final = 64  # characters: ids, names and words, of which most come again
MAX_DEPTH: Final = 6

correlation: ContextVar[str | None] = ContextVar("correlation", default=None)
"""The correlation id of the request that this task serves; every event of it carries the id."""


@frozen
class _Said:
    """An event as it was said; what is written of it is made when it is written."""

    at: dt.datetime
    name: str
    human: str | None
    level: Level
    correlation_id: str | None
    fields: Mapping[str, object]


class _State:
    """The process has one log; it is set up once, by the program."""

    def __init__(self) -> None:
        self.sink: Callable[[list[Record], str], None] | None = None
        self.waiting: list[_Said] = []
        self.lot: trio.lowlevel.ParkingLot | None = None
        self.thread = 0
        self.captures: list[list[Record]] = []
        self.debug = False
        self.written = 0
        self.program = "orchd"


_state = _State()


def setup(mode: Mode, program: str, *, debug: bool = False) -> None:
    """Choose the sink. auto: the journal if stderr is the journal, pretty on a terminal, else JSON.

    `program` is SYSLOG_IDENTIFIER; `debug` lets debug events through.
    """
    _state.program = program
    _state.debug = debug
    if mode == "auto":
        mode = _auto()
    _state.sink = {"journal": to_journal, "pretty": to_console}.get(mode, to_lines)


def add_option(parser: argparse.ArgumentParser) -> None:
    """Let a daemon's command line choose the sink: --log, else ORCHD_LOG, else auto."""
    parser.add_argument(
        "--log",
        type=_mode,  # unlike `choices` it holds for the default too
        default=os.environ.get("ORCHD_LOG", "auto"),
        metavar="|".join(get_args(Mode)),
        help="how to log (default: ORCHD_LOG, else auto)",
    )


def _mode(text: str) -> str:
    if text not in get_args(Mode):
        raise argparse.ArgumentTypeError(
            f"must be one of {', '.join(get_args(Mode))}, not {text!r}"
        )
    return text


def debugging() -> bool:
    """True when debug events go anywhere: for callers that would have to prepare one."""
    return _state.debug or bool(_state.captures)


def event(name: str, human: str | None = None, *, level: Level = "info", **fields: object) -> None:
    """Log one event. Fields that are None are left out; this never raises.

    `name` is a stable word for programs, `human` one sentence for people.
    """
    if level == "debug" and not debugging():
        return
    said = _Said(dt.datetime.now(dt.UTC), name, human, level, correlation.get(), fields)
    if _state.captures:
        record = _record(said)
        for kept in _state.captures:
            kept.append(record)
    if level == "debug" and not _state.debug:
        return
    _state.waiting.append(said)
    if _state.lot is not None and level == "info" and threading.get_ident() == _state.thread:
        _state.lot.unpark_all()
    else:
        flush()


async def keep_writing() -> None:
    """Write info events at the end of each turn of the loop: a service for a nursery.

    An admission logs three of them; so they are neither in the way of its answer nor a system call
    each. What is more urgent, or comes from another thread, is written at once, in order.
    """
    _state.lot, _state.thread = trio.lowlevel.ParkingLot(), threading.get_ident()
    try:
        while True:
            await _state.lot.park()
            flush()
    finally:
        _state.lot = None
        flush()


def flush() -> None:
    """Write what waits."""
    if _state.sink is None:
        setup("auto", _state.program)
    assert _state.sink is not None
    waiting, _state.waiting = _state.waiting, []
    # a log that cannot be written must not end the program that writes it
    with contextlib.suppress(OSError, ValueError):
        _state.sink([_record(said) for said in waiting], _state.program)
        _state.written += len(waiting)


def written() -> int:
    """Return how many events the sink has taken in this process: for whoever has to know."""
    return _state.written


def _record(said: _Said) -> Record:
    now = said.at.isoformat(timespec="milliseconds")
    record: Record = {"ts": now.replace("+00:00", "Z"), "level": said.level, "event": said.name}
    if said.human is not None:
        record["human"] = _text(said.human)
    if said.correlation_id is not None and "correlation_id" not in said.fields:
        record["correlation_id"] = said.correlation_id
    for key, value in said.fields.items():
        if value is None:
            continue
        if is_secret_name(key) and value:
            shown: object = SHOWN
        elif isinstance(value, str) and len(value) <= MAX_SHORT:  # four of five fields
            shown = redact_short(value)
        else:
            shown = _plain(value, 0)
        record[f"{key}_" if key in OWN else key] = shown
    return record


@contextlib.contextmanager
def capture() -> Iterator[list[Record]]:
    """Collect the events of the block, debug ones too: for tests."""
    kept: list[Record] = []
    _state.captures.append(kept)
    try:
        yield kept
    finally:
        _state.captures[:] = [other for other in _state.captures if other is not kept]


def _auto() -> Mode:
    if _is_journal(os.environ.get("JOURNAL_STREAM", "")):
        return "journal"
    return "pretty" if sys.stderr.isatty() else "json"


def _is_journal(stream: str) -> bool:
    """JOURNAL_STREAM names device and inode of the stream that systemd made (systemd.exec(5)).

    A child of the service has the variable too, but perhaps another stderr: so it is compared.
    """
    try:
        found = os.fstat(2)
    except OSError:
        return False
    return stream == f"{found.st_dev}:{found.st_ino}"


def _plain(value: object, depth: int) -> Any:
    """Return `value` as what JSON knows, redacted and bounded."""
    if isinstance(value, str):
        return redact_short(value) if len(value) <= MAX_SHORT else _text(value)
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return int(value) if -(2**63) <= value < 2**63 else str(value)  # as far as orjson goes
    if depth < MAX_DEPTH and isinstance(value, Mapping):
        return {
            str(key): SHOWN if is_secret_name(str(key)) and item else _plain(item, depth + 1)
            for key, item in value.items()
        }
    if depth < MAX_DEPTH and isinstance(value, list | tuple | set | frozenset):
        return [_plain(item, depth + 1) for item in value]
    return _text(str(value))


def _text(text: str) -> str:
    text = redact(text)
    return encodable(text[:MAX_TEXT] + "..." if len(text) > MAX_TEXT else text)
