"""The line of every key of a TOML text, by its path (`$.pools[0].ctx` -> 12).

Only for texts that tomllib has accepted: it reads the values, this finds where they stand.
"""

from __future__ import annotations

import re
from collections import Counter

_KEY_PART = re.compile(r"""[ \t]*("(?:[^"\\\n]|\\.)*"|'[^'\n]*'|[A-Za-z0-9_-]+)[ \t]*""")
_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_STRING = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\'', re.DOTALL
)
_BARE = re.compile(r"[^,\]}\n#]+")
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.)")
_SHORT = {"b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r"}


def find(text: str) -> dict[str, int]:
    """Return the line (from 1) of each key, table and list item of `text`."""
    return _Scan(text).run()


def nearest(lines: dict[str, int], path: str) -> int:
    """Return the line of `path`, or of the nearest table around it; 1 when there is none."""
    while path not in lines and path != "$":
        path = path[: max(path.rfind("."), path.rfind("["))]
    return lines.get(path, 1)


class _Scan:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.lines: dict[str, int] = {}
        self._counted = (0, 1)  # a place and its line: counting from the start is quadratic
        self.arrays: Counter[str] = Counter()
        """How many tables each array of tables has so far."""

    def run(self) -> dict[str, int]:
        table = "$"
        self._blank()
        while self.at < len(self.text):
            if self.text.startswith("[[", self.at):
                table = self._header(2)
            elif self.text[self.at] == "[":
                table = self._header(1)
            else:
                self._assignment(table)
            self._blank()
        return self.lines

    def _blank(self) -> None:
        found = _BLANK.match(self.text, self.at)
        self.at = found.end() if found else self.at

    def _mark(self, path: str) -> None:
        before, line = self._counted
        if self.at >= before:
            line += self.text.count("\n", before, self.at)
        else:  # a key read ahead: always on the same line
            line -= self.text.count("\n", self.at, before)
        self._counted = (self.at, line)
        self.lines.setdefault(path, line)

    def _keys(self) -> list[str]:
        keys: list[str] = []
        while found := _KEY_PART.match(self.text, self.at):
            keys.append(_plain(found[1]))
            self.at = found.end()
            if not self.text.startswith(".", self.at):
                break
            self.at += 1
        return keys

    def _header(self, brackets: int) -> str:
        self.at += brackets
        start = self.at
        path = "$"
        keys = self._keys()
        end, self.at = self.at + brackets, start
        for depth, key in enumerate(keys):
            path = f"{path}.{key}"
            self._mark(path)
            last = depth == len(keys) - 1
            if last and brackets == 2:
                self.arrays[path] += 1
            if self.arrays[path]:  # a header below an array of tables means its newest table
                path = f"{path}[{self.arrays[path] - 1}]"
                self._mark(path)
        self.at = end
        return path

    def _assignment(self, table: str) -> None:
        start = self.at
        keys = self._keys()
        end, self.at = self.at + 1, start  # past the equals sign
        path = table
        for key in keys:
            path = f"{path}.{key}"
            self._mark(path)
        self.at = end
        self._value(path)

    def _value(self, path: str) -> None:
        self._blank()
        first = self.text[self.at : self.at + 1]
        if first == "[":
            self._sequence(path, "]")
        elif first == "{":
            self._sequence(path, "}")
        else:
            found = (_STRING if first in {'"', "'"} else _BARE).match(self.text, self.at)
            self.at = found.end() if found else len(self.text)

    def _sequence(self, path: str, closing: str) -> None:
        """Walk an array or an inline table; both may hold line ends inside arrays."""
        self.at += 1
        index = 0
        self._blank()
        while self.at < len(self.text) and self.text[self.at] != closing:
            if closing == "]":
                self._mark(f"{path}[{index}]")
                self._value(f"{path}[{index}]")
            else:
                self._assignment(path)
            index += 1
            self._blank()
            if self.text.startswith(",", self.at):
                self.at += 1
                self._blank()
        self.at += 1


def _plain(key: str) -> str:
    if key[0] == "'":
        return key[1:-1]
    if key[0] != '"':
        return key
    return _ESCAPE.sub(
        lambda m: chr(int(m[1][1:], 16)) if m[1][0] in "uU" else _SHORT.get(m[1], m[1]), key[1:-1]
    )
