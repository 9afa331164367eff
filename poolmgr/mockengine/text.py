"""What the mock engine says: endless seeded words, and how it counts tokens.

One word is one token. The text is a function of model, prompt, seed and sampling parameters; it
does not depend on how many tokens are asked for, so a shorter answer is a prefix of a longer one.
"""

from __future__ import annotations

import random
from hashlib import blake2b

from attrs import frozen

_PROSE = (
    "lorem ipsum dolor sit amet consectetur adipiscing elit sed do eiusmod tempor incididunt "
    "ut labore et dolore magna aliqua enim ad minim veniam quis nostrud exercitation ullamco "
    "laboris nisi aliquip ex ea commodo consequat duis aute irure in reprehenderit voluptate "
    "velit esse cillum fugiat nulla pariatur excepteur sint occaecat cupidatat non proident "
    "sunt culpa qui officia deserunt mollit anim id est laborum caf\u00e9 na\u00efve \u00fcber "
    "stra\u00dfe \u03bb\u03cc\u03b3\u03bf\u03c2 \u0441\u043b\u043e\u0432\u043e \u8a00\u8449 "
    '\U0001f30d \u20ac \u201cquoted\u201d "plain" back\\slash'
)
WORDS = (*_PROSE.split(), "line\n")
"""One to four bytes a character, and what JSON must escape: a quote, a backslash, a line feed."""

SHORT = "mock:short"
"""The model that ends by itself, after 4 to 19 words. Any other speaks until it is stopped."""

BOOK = random.Random(1).choices(range(len(WORDS)), k=1 << 16)  # noqa: S311 no secret
"""Word numbers: a text is this book, read from some page on and round again. Made once, because
drawing words for each job would cost its first token milliseconds."""


@frozen
class Voice:
    """One text."""

    page: int
    """Where in the book it begins."""
    words_until_end: int | None
    """Where the text ends by itself; None: never."""


def voice(model: str, prompt: str, seed: int, parameters: str) -> Voice:
    """Return the text for a request."""
    parts = "\0".join((model, prompt, str(seed), parameters))
    digest = blake2b(parts.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    page = int.from_bytes(digest[:4], "big") % len(BOOK)
    return Voice(page, 4 + digest[4] % 16 if model == SHORT else None)


def count(text: str) -> int:
    """Return the tokens of a text."""
    return len(text.split())
