"""Version 1 of the plugins' ABI: a question as bytes of a module's memory, and its answer.

Pure. The layout is specs/18-policy.md's and packaging/sdk/orchd_policy.h's; a test holds the three
together. Who runs a module is sandbox.py.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from orchd.policy.question import Decision, Question
from orchd.wire.policy import What

VERSION: Final = 1
WORDS: Final = {What.OUTBOUND: 1, What.ADMISSION: 2}
ALLOW: Final = 1
DENY: Final = 2
UNKNOWN_SIZE: Final = 2**64 - 1
MAX_U32: Final = 2**32 - 1
MAX_QUESTION: Final = 32 << 10
"""Bytes of struct, args and strings: what the SDK's header keeps room for."""
MAX_REASON: Final = 256

NUMBERS: Final = struct.Struct("<IIQQIIIIIIII")
STRINGS: Final = (
    *("identity", "purpose", "scheme", "host", "path"),
    *("via", "model_ref", "engine", "workload", "priority"),
)
STRING: Final = struct.Struct("<II")
HEAD: Final = NUMBERS.size + len(STRINGS) * STRING.size
ANSWER: Final = struct.Struct("<III")


class NoAnswerError(ValueError):
    """What a module answered is none of this ABI."""


def size_of(question: Question, args: Sequence[str]) -> int:
    """Return how many bytes packed() will have."""
    texts = sum(len(getattr(question, name).encode(*_UTF8)) for name in STRINGS)
    return HEAD + len(args) * STRING.size + texts + sum(len(arg.encode(*_UTF8)) for arg in args)


_UTF8: Final = ("utf-8", "replace")  # a lone surrogate becomes "?": no string is without bytes


def packed(question: Question, args: Sequence[str], at: int) -> bytes:
    """Return the question as it lies at the address `at`: struct, args, then all strings."""
    strings_at = at + HEAD + len(args) * STRING.size
    table, texts = bytearray(), bytearray()
    for text in [*(getattr(question, name) for name in STRINGS), *args]:
        data = text.encode(*_UTF8)
        table += STRING.pack(strings_at + len(texts), len(data))
        texts += data
    size = UNKNOWN_SIZE if question.size_bytes is None else question.size_bytes
    numbers = NUMBERS.pack(
        VERSION,
        WORDS[question.what],
        size,
        question.time_unix_s,
        min(question.minute_of_day, MAX_U32),
        min(question.weekday, MAX_U32),
        min(question.port, MAX_U32),
        min(question.max_tokens, MAX_U32),
        min(question.ctx, MAX_U32),
        len(args),
        at + HEAD,
        0,
    )
    return numbers + bytes(table) + bytes(texts)


def verdict(data: bytes) -> tuple[bool, int, int]:
    """Return whether the answer's struct allows, and address and length of its reason.

    Raises NoAnswerError.
    """
    word, at, length = ANSWER.unpack(data)
    if word not in (ALLOW, DENY):
        raise NoAnswerError(f"its verdict is {word}, neither {ALLOW} (allow) nor {DENY} (deny)")
    if length > MAX_REASON:
        raise NoAnswerError(f"its reason has {length} bytes; at most {MAX_REASON} are read")
    return word == ALLOW, at, length


def decision(allowed: bool, reason: bytes, fuel: int) -> Decision:
    """Return the decision. Raises NoAnswerError for a reason that no journal should have."""
    try:
        text = reason.decode()
    except UnicodeDecodeError:
        raise NoAnswerError("its reason is not UTF-8") from None
    if not text.isprintable():
        raise NoAnswerError("its reason holds control characters")
    return Decision(allowed, text, fuel)
