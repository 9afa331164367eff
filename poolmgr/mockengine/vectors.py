"""The mock engine's embeddings and reranking: vectors and scores that are a function of the text.

One text takes the time of one token, and faults count texts as they count tokens. A vector has
length 1; a score is the share of the query's words that the document has.
"""

from __future__ import annotations

import base64
import hashlib
import math
import os
import signal
import sys
from array import array
from collections.abc import Callable
from typing import Any, TypeGuard

from attrs import frozen

from poolmgr.mockengine import frames, text
from poolmgr.mockengine.loop import Loop, Wire
from poolmgr.mockengine.options import Options

BATCH_ERROR = "input (%d tokens) is too large to process. increase the physical batch size"


@frozen(kw_only=True)
class Reading:
    """Texts that are to be read, and what is answered then."""

    texts: int
    """Vectors or scores to be made."""
    tokens_in: int
    answer: Callable[[], dict[str, Any]]


def embedding(value: dict[str, Any], options: Options) -> Reading | bytes:
    """Return what `POST /v1/embeddings` asks for, or its refusal."""
    inputs = value.get("input")
    texts = [inputs] if isinstance(inputs, str) else inputs
    if not _are_texts(texts):
        return frames.error(400, "invalid_request_error", '"input" must not be empty')
    if value.get("encoding_format") != "base64":
        return frames.error(400, "invalid_request_error", 'the mock engine gives "base64" only')
    tokens = [text.count(each) for each in texts]
    if max(tokens) > options.ctx:
        return frames.error(500, "server_error", BATCH_ERROR % max(tokens))

    def answer() -> dict[str, Any]:
        rows = [
            {"object": "embedding", "index": index, "embedding": vector(options, each)}
            for index, each in enumerate(texts)
        ]
        return _listed(options.model, sum(tokens), "data", rows)

    return Reading(texts=len(texts), tokens_in=sum(tokens), answer=answer)


def rerank(value: dict[str, Any], options: Options) -> Reading | bytes:
    """Return what `POST /rerank` asks for, or its refusal."""
    query, documents = value.get("query"), value.get("documents")
    if not isinstance(query, str) or not _are_texts(documents):
        why = '"documents" must be a non-empty string array'
        return frames.error(400, "invalid_request_error", why)
    tokens = [text.count(query) + text.count(each) for each in documents]
    if max(tokens) > options.ctx:
        return frames.too_long(max(tokens), options.ctx)

    def answer() -> dict[str, Any]:
        rows = [
            {"index": index, "relevance_score": score(query, each)}
            for index, each in enumerate(documents)
        ]
        return _listed(options.model, sum(tokens), "results", rows)

    return Reading(texts=len(documents), tokens_in=sum(tokens), answer=answer)


def vector(options: Options, of: str) -> str:
    """Return a text's vector, as base64 of f32 in little-endian order."""
    seed = f"{options.model}\0{of}".encode("utf-8", "surrogatepass")
    drawn = array("h", hashlib.shake_128(seed).digest(2 * options.embedding_dim))
    numbers = array("f", drawn)
    length = math.sqrt(sum(number * number for number in numbers)) or 1.0
    numbers = array("f", [number / length for number in numbers])
    if sys.byteorder == "big":
        numbers.byteswap()
    return base64.b64encode(numbers.tobytes()).decode()


def score(query: str, document: str) -> float:
    """Return how much of the query the document has, 0 to 1."""
    wanted = set(query.lower().split())
    return len(wanted & set(document.lower().split())) / len(wanted) if wanted else 0.0


class Reader:
    """Answers one reading when its time has come, then calls `on_end`. A job, as Generation is."""

    def __init__(
        self, loop: Loop, options: Options, wire: Wire, reading: Reading, on_end: Callable[[], None]
    ) -> None:
        self._loop, self._options, self._wire, self._reading = loop, options, wire, reading
        self._on_end = on_end
        self._over = False

    def start(self, slot: int) -> None:  # noqa: ARG002 the answer names no slot
        """Begin."""
        options, fault = self._options, self._options.fault_at
        breaks = fault is not None and fault < self._reading.texts
        texts = fault if breaks and fault is not None else self._reading.texts
        pace = texts / options.tokens_per_s if options.tokens_per_s else 0.0
        due = self._loop.now + options.first_token_ms / 1e3 + pace
        self._loop.at(due, self._break if breaks else self._end)

    @property
    def tokens_held(self) -> int:
        """The tokens of its texts."""
        return self._reading.tokens_in

    def cancel(self) -> None:
        """Stop: the client is gone."""
        self._over = True

    def _end(self) -> None:
        if not self._over:
            self._over = True
            self._wire.write(frames.answer(200, self._reading.answer()))
            self._on_end()

    def _break(self) -> None:
        """Do what the options ask for: die, talk nonsense and hang, or only hang."""
        if self._over:
            return
        self._over = True
        if self._options.garbage_after_tokens == self._options.fault_at:
            self._wire.write(frames.answer(200, {"garbage": "no result"}))
        if self._options.die_after_tokens == self._options.fault_at:
            os.kill(os.getpid(), signal.SIGKILL)


def _are_texts(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and bool(value) and all(isinstance(each, str) for each in value)


def _listed(model: str, tokens: int, name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"model": model, "object": "list", "usage": usage, name: rows}
