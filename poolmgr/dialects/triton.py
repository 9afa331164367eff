"""Triton's models of text: what a model takes and gives, its requests, its answers over HTTP.

Recorded from tritonserver 2.51 (contracts/dialects/triton). Each model has tensors of its own; the
names here are those of TensorRT-LLM's and vLLM's backends. A job says only what the model's
configuration has. gRPC's framing is triton_grpc.py's; the server's own calls triton_server.py's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson
from attrs import frozen

from orchd.wire.errors import Kind, OrchError
from orchd.wire.shapes import FinishReason
from poolmgr.dialects import triton_errors
from poolmgr.dialects.exchange import Broken, Event, Finished, Job, Pieces
from poolmgr.dialects.json_events import DONE, Garbage, JsonEvents

SAMPLERS: Final[dict[str, dict[str, Any]]] = {
    "v1": {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05}
}
STRICT_SEED: Final = 0
_SEEDS: Final = 2**31 - 1  # models take it as INT32, UINT32 or UINT64
PROMPT: Final = "text_input"
TEXT: Final = "text_output"
_MAX_TOKENS: Final = ("max_tokens", "request_output_len")
_ASKED: Final = (
    "stream",
    "exclude_input_in_output",
    "return_finish_reason",
    "return_num_input_tokens",
    "return_num_output_tokens",
)
"""Switches that are turned on in a model that has them."""
_SAMPLING: Final = "sampling_parameters"
"""vLLM's backend takes all of it as one JSON text."""
_IN: Final = "num_input_tokens"
_OUT: Final = "num_output_tokens"
_IDS: Final = ("token_ids", "token_id", "output_ids")
_REASON: Final = "finish_reason"


@frozen(kw_only=True)
class Outline:
    """What a model takes and gives, as its configuration says."""

    inputs: Mapping[str, str]
    """Name -> type, such as `TYPE_INT32`."""
    batched: bool
    """Its tensors have a dimension for the batch before their own."""


def inputs_of(job: Job, outline: Outline, profile: str) -> dict[str, Any]:
    """Return the tensors of a completion by name, as Python values; each has one element.

    Raises OrchError: INVALID_PARAMS, CONFIG_INVALID for a model that takes no text or no length.
    """
    if job.prompt is None:
        raise OrchError(Kind.INVALID_PARAMS, "a completion needs a prompt", path="$.prompt")
    has = outline.inputs
    sampler = SAMPLERS[profile]
    seed = job.seed % _SEEDS if job.seed is not None else STRICT_SEED if job.strict else None
    value: dict[str, Any] = {PROMPT: job.prompt}
    if _SAMPLING in has:
        said = {"max_tokens": job.max_tokens, **sampler}
        value[_SAMPLING] = orjson.dumps(said if seed is None else said | {"seed": seed}).decode()
    else:
        length = next((name for name in _MAX_TOKENS if name in has), None)
        if length is None:
            raise OrchError(
                Kind.CONFIG_INVALID,
                f"the model takes neither {' nor '.join(_MAX_TOKENS)} nor {_SAMPLING}: it cannot "
                "be told how much to generate",
            )
        value[length] = job.max_tokens
        value |= {name: number for name, number in sampler.items() if name in has}
        if seed is not None:
            value |= {name: seed for name in ("random_seed", "seed") if name in has}
    value |= {name: True for name in _ASKED if name in has}
    return value


def body(job: Job, outline: Outline, profile: str) -> bytes:
    """Return the body of `generate_stream`. Raises as `inputs_of`."""
    try:
        return orjson.dumps(inputs_of(job, outline, profile))
    except orjson.JSONEncodeError:
        raise OrchError(
            Kind.INVALID_PARAMS, "the prompt is not valid Unicode", path="$.prompt"
        ) from None


class Count:
    """Counts one job by its answers: by what the model says, else each answer is a token."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._in = self._out = 0
        self._reason: str | None = None

    def take(self, outputs: Mapping[str, Any]) -> str:
        """Note one answer; return its text. Values are single or lists. Raises TypeError."""
        text = outputs.get(TEXT, "")
        if isinstance(text, list):
            text = "".join(text)
        if not isinstance(text, str):
            raise TypeError(text)
        self._out += _tokens(outputs)
        if _IN in outputs:
            self._in = int(_first(outputs[_IN]))
        reason = _first(outputs.get(_REASON))
        if isinstance(reason, str) and reason in ("stop", "length", "abort"):
            self._reason = reason
        return text

    def end(self) -> Event:
        """Return what the end of the answers means: nothing else tells it."""
        if self._reason == "abort":
            return Broken(OrchError(Kind.WORKER_RESET, "the engine ended the answer: abort"))
        full = self._out >= self._job.max_tokens
        if self._reason is not None:
            full = self._reason == "length"
        return Finished(
            tokens_in=self._in,
            tokens_out=self._out,
            finish_reason=FinishReason.LENGTH if full else FinishReason.STOP,
        )


class StreamReader:
    """Reads `generate_stream` over HTTP. Has the methods of engines.base.Reader."""

    def __init__(self, job: Job) -> None:
        self._events = JsonEvents()
        self._count = Count(job)
        self._over = False

    def feed(self, data: bytes) -> list[Event]:
        """Return what `data` completes."""
        return [] if self._over else self._read(self._events.feed(data))

    def eof(self) -> list[Event]:
        """Return the end: the end of the body is all that marks it."""
        if self._over:
            return []
        found = self._read(self._events.last())
        if found and not isinstance(found[-1], Pieces):
            return found
        self._over = True
        return [*found, self._count.end()]

    def _read(self, values: list[Any]) -> list[Event]:
        texts: list[str] = []
        end: list[Event] = []
        for value in values:
            error = _fault(value)
            if error is None:
                try:
                    text = self._count.take(value)
                except (TypeError, ValueError):
                    error = _protocol("sent outputs that are none of a model of text")
            if error is not None:
                self._over = True
                end = [Broken(error)]
                break
            if text:
                texts.append(text)
        return [Pieces(tuple(texts)), *end] if texts else end


def _fault(value: Any) -> OrchError | None:
    if isinstance(value, dict):
        if "error" in value:
            return triton_errors.mapped(str(value["error"]), None)
        return None
    if type(value) is Garbage:
        return _protocol(f"sent {value.what}")
    return _protocol("sent [DONE]" if value is DONE else "sent an event that is no object")


def _protocol(did: str) -> OrchError:
    return OrchError(Kind.ENGINE_PROTOCOL, f"the engine {did}")


def _tokens(outputs: Mapping[str, Any]) -> int:
    if _OUT in outputs:
        return int(_first(outputs[_OUT]))
    for name in _IDS:
        if name in outputs:
            ids = outputs[name]
            return len(ids) if isinstance(ids, list) else 1
    return 1


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, list) and value else value
