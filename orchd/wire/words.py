"""Small words for sentences that people read."""


def many(count: int, noun: str) -> str:
    """Return `1 turn`, `2 turns`: a count and its noun, which takes an s."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
