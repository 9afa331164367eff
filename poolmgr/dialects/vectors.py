"""Embeddings and reranks: the requests' bodies, and the answers read. llama-server and vLLM agree.

Recorded from llama.cpp b11669 and b11549 and from vLLM 0.32 (contracts/dialects). Both answer in
one piece, when all is done. Vectors are asked for as base64 of f32, little-endian: a quarter of
their size as decimal numbers; a server that sends numbers all the same is understood.
"""

from __future__ import annotations

import binascii
import math
import struct
from collections.abc import Callable
from typing import Any, Final

import orjson

from orchd.wire import results
from orchd.wire.errors import Kind, OrchError
from orchd.wire.shapes import FinishReason, Workload
from poolmgr.dialects.exchange import Broken, Event, Finished, Job

MAX_BODY: Final = 2 * 4 * results.MAX_NUMBERS + (1 << 20)
"""Bytes of an answer that is read: base64 needs 16 bits for 12, the rest is for what is around."""


def body(job: Job, model: str | None = None) -> bytes:
    """Return the body of the request; `model` for servers that want it named.

    Raises OrchError(INVALID_PARAMS).
    """
    inputs = job.inputs or ()
    if len(inputs) < (2 if job.workload is Workload.RERANK else 1):
        raise OrchError(Kind.INVALID_PARAMS, f"{job.workload} needs more inputs", path="$.inputs")
    value: dict[str, Any]
    if job.workload is Workload.RERANK:
        value = {"query": inputs[0], "documents": inputs[1:]}
    else:
        value = {"input": inputs, "encoding_format": "base64"}
    if model is not None:
        value["model"] = model
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:
        raise OrchError(
            Kind.INVALID_PARAMS, "an input is not valid Unicode", path="$.inputs"
        ) from None


class VectorsReader:
    """Reads the answer of either. Has the methods of engines.base.Reader."""

    def __init__(self, job: Job, status: int, refusal: Callable[[int, bytes], OrchError]) -> None:
        """`refusal` says what an answer other than 200 means."""
        self._job = job
        self._status = status
        self._refusal = refusal
        self._body = bytearray()
        self._over = False

    def feed(self, data: bytes) -> list[Event]:
        """Keep what came; the answer means something only as a whole."""
        if self._over:
            return []
        self._body += data
        if len(self._body) <= MAX_BODY:
            return []
        return self._end(Broken(_protocol(f"an answer of more than {MAX_BODY} bytes")))

    def eof(self) -> list[Event]:
        """Return what the whole answer means."""
        if self._over:
            return []
        if self._status != 200:
            return self._end(Broken(self._refusal(self._status, bytes(self._body))))
        try:
            return self._end(_read(self._job, self._body))
        except OrchError as exc:
            return self._end(Broken(exc))

    def _end(self, event: Event) -> list[Event]:
        self._over, self._body = True, bytearray()
        return [event]


def _read(job: Job, body: bytearray) -> Finished:
    """Return the result. Raises OrchError(ENGINE_PROTOCOL)."""
    try:
        value = orjson.loads(body)
        usage = value["usage"]
        tokens_in = usage.get("prompt_tokens", usage.get("total_tokens"))
        if job.workload is Workload.RERANK:
            found = [(row["index"], row["relevance_score"]) for row in value["results"]]
        else:
            found = [(row["index"], row["embedding"]) for row in value["data"]]
    except (orjson.JSONDecodeError, TypeError, KeyError, AttributeError):
        raise _protocol(f"what is no answer to {job.workload}: {bytes(body[:40])!r}") from None
    wanted = len(job.inputs or ()) - (job.workload is Workload.RERANK)
    if type(tokens_in) is not int or tokens_in < 0:
        raise _protocol("no count of tokens")
    if not all(type(index) is int for index, _ in found):
        raise _protocol("results without numbers")
    found.sort(key=lambda pair: pair[0])
    if [index for index, _ in found] != list(range(wanted)):
        raise _protocol(f"{len(found)} results, not one for each of {wanted} texts")
    result = _ranked(found) if job.workload is Workload.RERANK else _embedded(found)
    return Finished(
        tokens_in=tokens_in, tokens_out=0, finish_reason=FinishReason.STOP, result=result
    )


def _ranked(found: list[tuple[int, Any]]) -> bytes:
    if not all(type(score) in (int, float) and math.isfinite(score) for _, score in found):
        raise _protocol("a score that is no number")
    return results.ranking([(index, float(score)) for index, score in found])


def _embedded(found: list[tuple[int, Any]]) -> bytes:
    vectors = [_vector(text) for _, text in found]
    if len({len(vector) for vector in vectors}) != 1 or not vectors[0]:
        raise _protocol("vectors of several dimensions")
    numbers = len(vectors) * len(vectors[0])
    if numbers > results.MAX_NUMBERS:  # orchd knows the dimension, and refuses it before
        raise OrchError(
            Kind.INVALID_PARAMS,
            f"the vectors have {numbers} numbers, and a task gives back {results.MAX_NUMBERS}",
            path="$.inputs",
        )
    made = results.embeddings(vectors)
    if b"null" in made:  # how JSON says NaN and the infinities
        raise _protocol("a vector with what is no number")
    return made


def _vector(text: object) -> list[float]:
    if isinstance(text, list) and set(map(type, text)) <= {int, float}:
        return [float(number) for number in text]
    try:
        data = binascii.a2b_base64(str(text), strict_mode=True)
        return list(struct.unpack(f"<{len(data) // 4}f", data))
    except (ValueError, struct.error):
        raise _protocol("a vector that is no base64 of numbers") from None


def _protocol(gave: str) -> OrchError:
    return OrchError(Kind.ENGINE_PROTOCOL, f"the engine gave {gave}")
