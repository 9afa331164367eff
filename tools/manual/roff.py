"""Text as man(7) wants it: escapes, paragraphs, tagged lists. What a page says is in pages.py."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Mapping
from typing import Final

_MARKED: Final = re.compile(r"(`[^`]+`)")
_PARAGRAPH: Final = ".PP\n"
_REFERENCE: Final = re.compile(r"(?<![\w.:/-])([a-z][\w.-]*)\(([1-8])\)")


def text(words: str) -> str:
    """Return running text: `code` in bold, page(8) as a reference, one sentence a line."""
    pieces = []
    for piece in _MARKED.split(" ".join(words.split())):
        if piece.startswith("`"):
            pieces.append(rf"\fB{escaped(piece[1:-1])}\fR")
        else:
            pieces.append(_REFERENCE.sub(r"\\fB\1\\fR(\2)", escaped(piece)))
    return "\n".join(_guarded(line) for line in re.split(r"(?<=[a-z)][.:]) ", "".join(pieces)))


def escaped(words: str) -> str:
    """Return characters that stand for themselves."""
    return (
        words.replace("\\", r"\(rs").replace("-", r"\-").replace("'", r"\(aq").replace("`", r"\(ga")
    )


def _guarded(line: str) -> str:
    """A dot at the start of a line would be a request."""
    return rf"\&{line}" if line.startswith((".", "'")) else line


def paragraphs(words: str) -> str:
    r"""Return paragraphs apart by empty lines; one that click marks with \b stays as it is laid."""
    made = []
    for block in re.split(r"\n\s*\n", words.strip("\n")):
        if block.startswith("\b"):
            made.append(verbatim(textwrap.dedent(block[1:].strip("\n"))))
        else:
            made.append(f"{_PARAGRAPH}{text(block)}")
    return "\n".join(made)


def verbatim(lines: str) -> str:
    """Return lines as they are, indented."""
    inside = "\n".join(_guarded(escaped(line)) for line in lines.rstrip("\n").split("\n"))
    return f"{_PARAGRAPH}.RS 4\n.nf\n{inside}\n.fi\n.RE"


def tagged(items: Iterable[tuple[str, str]]) -> str:
    """Return a list of tags (roff already) and what they mean (text)."""
    return "\n".join(f".TP\n{tag}\n{text(words) or escaped('-')}" for tag, words in items)


def flags(names: Iterable[str], takes: str = "") -> str:
    """Return an option's names and what it takes, as a tag."""
    shown = ", ".join(rf"\fB{escaped(name)}\fR" for name in names)
    return f"{shown} \\fI{escaped(takes)}\\fR" if takes else shown


def bold(words: str) -> str:
    """Return a tag in bold."""
    return rf"\fB{escaped(words)}\fR"


def page(name: str, section: int, version: str, manual: str, parts: Mapping[str, str]) -> str:
    """Return a whole page; no date, so that the same source gives the same bytes."""
    head = [
        '.\\" Written by `make specs`; do not edit.',
        f'.TH "{name.upper()}" "{section}" "" "orchd {version}" "{manual}"',
        ".nh",
        ".ad l",
    ]
    # a section begins with a paragraph anyway
    body = [f'.SH "{name}"\n{inside.removeprefix(_PARAGRAPH)}' for name, inside in parts.items()]
    return "\n".join([*head, *body]) + "\n"
