"""Names as arguments: what can be none is wrong usage, and nobody is asked about it."""

from __future__ import annotations

import re
from typing import Final

import click

from orchd.wire.ids import ARTIFACT_ID, MODEL_ID, POOL_ID


class Name(click.ParamType[str]):
    """A word of one form; `words` say the form to whoever missed it."""

    def __init__(self, name: str, form: re.Pattern[str], words: str) -> None:
        self.name = name
        self._form = form
        self._words = words

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the word. Fails for what has another form."""
        if not self._form.fullmatch(value):
            self.fail(self._words, param, ctx)
        return value


POOL: Final = Name("pool", POOL_ID, "a pool id is a-z, 0-9 and -, at most 63")
MODEL: Final = Name("id", MODEL_ID, "a model id is letters, digits, . _ and -, at most 128")
ARTIFACT: Final = Name("id", ARTIFACT_ID, "an artifact id is 32 hex digits")
