"""What llama-server's arguments say of its output: micro-batch size and flash attention.

Both change the rounding, so replicas of a set must have them in common [ORCH-3046]. Its own /props
does not tell them (recorded: contracts/dialects/llama), so they are read from the command line that
it is started with. Defaults are those of `llama-server --help` of the recorded builds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from poolmgr.dialects.exchange import Tuning

UBATCH: Final = 512
BATCH: Final = 2048
_UBATCH: Final = ("-ub", "--ubatch-size")
_BATCH: Final = ("-b", "--batch-size")
_FLASH: Final = ("-fa", "--flash-attn")
_WORDS: Final = {"on": "on", "1": "on", "off": "off", "0": "off", "auto": "auto", "-1": "auto"}


def tuning(arguments: Sequence[str]) -> Tuning:
    """Return what these arguments mean; the last of a kind counts, as in llama.cpp."""
    ubatch: int | None = UBATCH
    batch: int | None = BATCH
    flash: str | None = "auto"
    for at, argument in enumerate(arguments):
        value = arguments[at + 1] if at + 1 < len(arguments) else ""
        if argument in _UBATCH:
            ubatch = _number(value)
        elif argument in _BATCH:
            batch = _number(value)
        elif argument in _FLASH:
            flash = _WORDS.get(value.lower(), "on")  # older builds: a switch without a value
    if ubatch is not None and batch is not None:
        ubatch = min(ubatch, batch)
    return Tuning(ubatch=ubatch, flash_attention=flash)


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and int(text) > 0 else None
