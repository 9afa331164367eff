"""Where log records go: JSON lines, a console, the journal. Each sink takes those of one moment.

What a record holds, and when it is written, is log.py's.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

import orjson

Record = dict[str, Any]

OWN: Final = frozenset({"ts", "level", "event", "human"})
"""The fields that every record may have; a field of the caller by that name gets a `_`."""
_PRIORITY: Final[Mapping[str, int]] = {"debug": 7, "info": 6, "warning": 4, "error": 3}  # syslog(3)
_COLOUR: Final[Mapping[str, str]] = {"debug": "2", "info": "0", "warning": "33", "error": "31"}
_JOURNAL_OWN: Final = frozenset({"MESSAGE", "PRIORITY", "SYSLOG_IDENTIFIER", "MESSAGE_ID"})
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def to_lines(records: list[Record], _program: str) -> None:
    """Write JSON lines to stderr, in one call."""
    sys.stderr.write("".join([_json(record) + "\n" for record in records]))
    sys.stderr.flush()


def to_console(records: list[Record], _program: str) -> None:
    """Write lines for people to stderr, in one call."""
    colour = sys.stderr.isatty() and "NO_COLOR" not in os.environ
    sys.stderr.write("".join([_console_line(record, colour=colour) for record in records]))
    sys.stderr.flush()


def to_journal(records: list[Record], program: str) -> None:
    """Send each record to the journal, its fields as journal fields."""
    from systemd import journal  # loads a shared library that other sinks do not need

    for record in records:
        fields = {
            _journal_name(key): value if isinstance(value, str) else _json(value)
            for key, value in record.items()
            if key not in {"ts", "level", "human"}
        }
        journal.send(
            str(record.get("human", record["event"])),
            # without one of these the library walks the stack for the caller, which is this line
            CODE_FUNC=record["event"],
            PRIORITY=str(_PRIORITY[record["level"]]),
            SYSLOG_IDENTIFIER=program,
            **fields,
        )


@lru_cache(1024)
def _journal_name(key: str) -> str:
    name = re.sub(r"[^A-Z0-9_]", "_", key.upper()).lstrip("_0123456789")[:64] or "FIELD"
    return f"{name}_" if name in _JOURNAL_OWN else name


def _console_line(record: Record, *, colour: bool) -> str:
    fields = [f"{k}={_cell(v)}" for k, v in record.items() if k not in OWN and k != "traceback"]
    # what a peer sent must not move the cursor: U+009B does in some terminals, and JSON lets it be
    text = _CONTROL.sub(" ", str(record.get("human", record["event"])))
    extra = "  " + _CONTROL.sub(" ", " ".join(fields)) if fields else ""
    if colour:
        text = f"\033[{_COLOUR[record['level']]}m{text}\033[0m"
        extra = f"\033[2m{extra}\033[0m" if extra else ""
    line = f"{record['ts'][11:23]} {record['level']:<7} {text}{extra}\n"
    return line + str(record.get("traceback", ""))


def _cell(value: object) -> str:
    if isinstance(value, str) and re.fullmatch(r"[^\s\"'=\x7f-\x9f]+", value):
        return value
    return _json(value)


def _json(value: object) -> str:
    return orjson.dumps(value).decode("utf-8")
