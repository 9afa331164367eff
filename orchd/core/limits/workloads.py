"""What each workload takes, and how much: texts, their lengths, the size of what comes back.

Pure questions to one request; the faults are (path, message). Whether a pool serves the workload at
all is admission.py's, how a result looks wire/results.py's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from attrs import frozen

from orchd.wire.results import MAX_INPUTS, MAX_NUMBERS
from orchd.wire.shapes import TaskRequest, Workload

ADDED_TOKENS: Final = 3
"""What a tokenizer adds to a text: a token of the beginning, one of the end, and the space that
SentencePiece puts before the first word."""


@frozen
class Longest:
    """How long the longest of a task's inputs is, exactly."""

    tokens: int
    """With the query, in a rerank."""
    index: int


@frozen
class Text:
    """One text that the engine reads at once, as far as it must be counted."""

    index: int
    """Which of `inputs` it is; 0 for a prompt."""
    parts: tuple[str, ...]
    """Counted one by one: the text, or a query and its document."""


def wrong_shape(request: TaskRequest) -> tuple[str, str] | None:
    """Return what is wrong with prompt and inputs, whatever pool is meant; None: nothing."""
    workload, inputs = request.workload, request.inputs
    if workload is Workload.COMPLETION:
        if request.prompt is None:
            return "$.prompt", "is required for a completion"
        if inputs is not None:
            return "$.inputs", "is for embedding and rerank; a completion takes prompt"
        return None
    if request.prompt is not None:
        return "$.prompt", f"is for completions; {workload} takes inputs"
    if not inputs:
        return "$.inputs", f"must name at least one text for workload {workload}"
    if workload is Workload.RERANK and len(inputs) < 2:
        return "$.inputs", "must be the query and then at least one document for workload rerank"
    if len(inputs) > MAX_INPUTS:
        return "$.inputs", f"has {len(inputs)} texts; a task takes at most {MAX_INPUTS}"
    return None


def too_long(
    request: TaskRequest, prompt_tokens: int | None, longest: Longest | None
) -> tuple[str, str] | None:
    """Return why the request does not fit into its own `ctx`; None: it does, or nothing tells.

    Both lengths are exact, and there if they were counted. Nothing is generated for an embedding or
    a rerank, so `max_tokens` takes no room there.
    """
    ctx = request.ctx
    if request.workload is Workload.COMPLETION:
        if request.max_tokens > ctx:
            return "$.max_tokens", f"{request.max_tokens} do not fit into a context of {ctx}"
        if prompt_tokens is not None and prompt_tokens + request.max_tokens > ctx:
            return "$.ctx", (
                f"a prompt of {prompt_tokens} tokens and max_tokens {request.max_tokens} do not "
                f"fit into {ctx}"
            )
    elif longest is not None and longest.tokens > ctx:
        with_query = " with the query" if request.workload is Workload.RERANK else ""
        said = f"has {longest.tokens} tokens{with_query}, more than ctx {ctx}"
        return f"$.inputs[{longest.index}]", said
    return None


def too_many(request: TaskRequest, dimension: int | None) -> tuple[str, str] | None:
    """Return why a pool of vectors of this dimension gives no result so large; None: it does."""
    if request.workload is not Workload.EMBEDDING or not request.inputs or dimension is None:
        return None
    count = len(request.inputs)
    if count * dimension <= MAX_NUMBERS:
        return None
    return "$.inputs", (
        f"{count} vectors of {dimension} numbers are more than a task gives back ({MAX_NUMBERS} "
        f"numbers): send at most {max(1, MAX_NUMBERS // dimension)} texts"
    )


def most_tokens(request: TaskRequest) -> int:
    """Return how many tokens the engine reads of prompt or inputs at most."""
    return read(request, lambda text: len(text.encode()) + ADDED_TOKENS)


def read(request: TaskRequest, size: Callable[[str], int]) -> int:
    """Return the sum of the sizes of all that the engine reads: a query with each document."""
    texts = request.inputs or () if request.prompt is None else (request.prompt,)
    sizes = [size(text) for text in texts]
    again = max(0, len(sizes) - 2) * sizes[0] if request.workload is Workload.RERANK else 0
    return sum(sizes) + again


def to_count(request: TaskRequest) -> list[Text]:
    """Return the texts that could be too long, and so are to be counted.

    Each token of a text stands for at least one of its bytes: byte-level BPE and SentencePiece have
    256 tokens for single bytes as their smallest. A special token that is written in the text
    (`<s>`) is one token for several bytes. A normaliser that makes a text longer could break this;
    the engine refuses what is too long even so, in the stream.
    """
    room = request.ctx - ADDED_TOKENS
    if request.workload is Workload.COMPLETION:
        if request.prompt is None or _size(request.prompt) <= room - request.max_tokens:
            return []
        return [Text(0, (request.prompt,))]
    inputs = request.inputs or ()
    if request.workload is Workload.EMBEDDING:
        return [Text(at, (text,)) for at, text in enumerate(inputs) if _size(text) > room]
    if not inputs:
        return []
    query, room = inputs[0], room - ADDED_TOKENS - _size(inputs[0])
    return [Text(at, (query, text)) for at, text in enumerate(inputs) if at and _size(text) > room]


def _size(text: str) -> int:
    return len(text.encode())
