"""What orchctl writes: answers to stdout, everything else to stderr; colour only on a terminal."""

from __future__ import annotations

import re
import sys
from typing import Any, Final, TextIO

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from orchd.wire import codec
from orchd.wire.errors import Fault, OrchError

_WHOSE: Final[dict[Fault, str]] = {
    "client": "The request is at fault.",
    "operator": "The machine or its configuration is at fault.",
    "pool": "The pool is at fault, or busy; the request was fine.",
    "suite": "orchd itself is at fault.",
}
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def console(stream: TextIO) -> Console:
    """Return a console: rich honours NO_COLOR and leaves colours out unless it is a terminal.

    Into a pipe lines are not cut: 200 columns hold our tables.
    """
    terminal = stream.isatty()
    return Console(file=stream, highlight=False, soft_wrap=False, width=None if terminal else 200)


def json(value: object) -> None:
    """Write one JSON value as one line, for programs."""
    sys.stdout.write(codec.dumps(value).decode() + "\n")
    sys.stdout.flush()


def note(text: str, style: str = "dim") -> None:
    """Write one line about what goes on, to stderr. `text` is plain, not markup."""
    marked = f"[{style}]{escape(plain(text))}[/]" if style else escape(plain(text))
    console(sys.stderr).print(marked, soft_wrap=True)


def error(exc: OrchError) -> None:
    """Write what went wrong, whose fault it is, and what to do next."""
    out = console(sys.stderr)
    out.print(f"[bold red]orchctl:[/] {escape(plain(exc.message))}", soft_wrap=True)
    extra = exc.fields.retry_after_ms
    wait = f" Retry in {seconds(extra)}." if extra is not None else ""
    advice = getattr(exc, "advice", None) or exc.row.advice
    out.print(f"  {_WHOSE[exc.row.fault]}{wait}", style="dim", soft_wrap=True)
    out.print(f"  [bold]Next:[/] {escape(plain(advice))}", soft_wrap=True)


def table(*columns: str) -> Table:
    """Return an empty table in our one style; a column `>name` is aligned right."""
    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        right = column.startswith(">")
        made.add_column(column.removeprefix(">"), justify="right" if right else "left")
    return made


def show(what: Any) -> None:
    """Write a table or a line of markup to stdout."""
    console(sys.stdout).print(what)


def plain(text: str) -> str:
    """Return `text` without control characters: what a peer sent must not move the cursor."""
    return _CONTROL.sub(" ", text)


def cell(value: object) -> str:
    """Return a table's cell of any value as markup; a dash for what is not known."""
    return "-" if value is None or value == "" else escape(plain(str(value)))


def seconds(milliseconds: float) -> str:
    """Return a duration for people: 340 ms, 2.1 s, 3 min 05 s."""
    if milliseconds < 1000:
        return f"{milliseconds:.0f} ms"
    whole = milliseconds / 1000
    if whole < 60:
        return f"{whole:.1f} s"
    return f"{int(whole // 60)} min {int(whole % 60):02d} s"


def gigabytes(count: int) -> str:
    """Return bytes as GiB."""
    return f"{count / 2**30:.1f}"
