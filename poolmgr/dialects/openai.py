"""OpenAI's completions and chat completions: the request's body, and the stream read from bytes.

For every server that speaks them; what vLLM adds is vllm.py's. Recorded from vLLM 0.32 and
llama.cpp (contracts/dialects/vllm, contracts/dialects/openai); what others do was noted there:
frames that merge tokens, no `[DONE]`, 200 and then an error, an error and then `[DONE]`. So frames
are never counted: `usage` is, or the token ids where the server sends them.
"""

from __future__ import annotations

from typing import Any, Final, Literal, TypeGuard

import orjson

from orchd.wire.errors import Kind, OrchError
from orchd.wire.shapes import FinishReason
from poolmgr.dialects import openai_errors
from poolmgr.dialects.exchange import Broken, Event, Finished, Job, Pieces
from poolmgr.dialects.json_events import DONE, Garbage, JsonEvents

Form = Literal["completions", "chat"]
SAMPLERS: Final[dict[str, dict[str, Any]]] = {"v1": {"temperature": 0.8, "top_p": 0.95}}
"""Sampler profiles by version: only what every server knows; OpenAI's own refuses more."""
STRICT_SEED: Final = 0
_SEEDS: Final = 2**31 - 1
"""The client's seed is taken modulo this: some servers read 32 bits, and some draw for 2^32-1."""
_ENDS: Final = {
    "stop": FinishReason.STOP,
    "eos": FinishReason.STOP,
    "tool_calls": FinishReason.STOP,
    "function_call": FinishReason.STOP,
    "length": FinishReason.LENGTH,
}


def seed_of(job: Job, seeds: int = _SEEDS) -> int | None:
    """Return the engine's seed, 0..seeds-1; None: the engine draws one."""
    if job.seed is None:
        return STRICT_SEED if job.strict else None
    return job.seed % seeds


def completion(
    job: Job, model: str, form: Form, sampler: dict[str, Any], more: dict[str, Any]
) -> bytes:
    """Return the body of `POST /v1/completions` or `/v1/chat/completions`.

    A chat has the prompt as its one message, and the server puts its template around it. Raises
    OrchError(INVALID_PARAMS).
    """
    if job.prompt is None:
        raise OrchError(Kind.INVALID_PARAMS, "a completion needs a prompt", path="$.prompt")
    value: dict[str, Any] = {"model": model}
    if form == "chat":
        value["messages"] = [{"role": "user", "content": job.prompt}]
    else:
        value["prompt"] = job.prompt
    value |= {
        "max_tokens": job.max_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
        **sampler,
        **more,
    }
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:
        raise OrchError(
            Kind.INVALID_PARAMS, "the prompt is not valid Unicode", path="$.prompt"
        ) from None


class StreamReader:
    """Reads the event stream of one completion. Has the methods of engines.base.Reader."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._events = JsonEvents()
        self._over = False
        self._reason: str | None = None
        self._usage: tuple[int, int] | None = None
        """Tokens in and out, as the server counts."""

    def feed(self, data: bytes) -> list[Event]:
        """Return what `data` completes."""
        return [] if self._over else self._read(self._events.feed(data))

    def eof(self) -> list[Event]:
        """Return the end of a stream without `[DONE]`, or the fault of one that broke off."""
        if self._over:
            return []
        found = self._read(self._events.last())
        if found and not isinstance(found[-1], Pieces):
            return found
        if self._reason is None:
            why = "the engine broke off in the middle of its answer"
            return [*found, *self._end(Broken(OrchError(Kind.ENGINE_DIED, why)))]
        return [*found, *self._finished()]

    def _read(self, values: list[Any]) -> list[Event]:
        texts: list[str] = []
        end: list[Event] = []
        for value in values:
            # the form of nearly all frames first
            try:
                choice = value["choices"][0]
                text = choice["text"] if "text" in choice else choice["delta"].get("content")
                reason = choice.get("finish_reason")
            except (TypeError, KeyError, IndexError, AttributeError):
                end = self._other(value)
                if end:
                    break
                continue
            if text:
                if type(text) is not str:
                    end = self._broken("sent text that is none")
                    break
                texts.append(text)
            if reason is not None:
                self._reason = str(reason)
            if value.get("usage") is not None:
                self._count(value["usage"])
        return [Pieces(tuple(texts)), *end] if texts else end

    def _other(self, value: Any) -> list[Event]:
        """Read a frame that has no text; [] when it means no end."""
        if value is DONE:
            return self._finished()
        if type(value) is Garbage:
            return self._broken(f"sent {value.what}")
        if not isinstance(value, dict):
            return self._broken("sent an event that is no object")
        if value.get("error"):
            return self._end(Broken(openai_errors.mapped(value["error"], None)))
        if value.get("object") == "error":
            return self._end(Broken(openai_errors.mapped(value, None)))
        if value.get("choices") != [] and value.get("usage") is None:
            return self._broken("sent an event that is neither text, an end nor an error")
        self._count(value.get("usage"))
        return []

    def _count(self, usage: object) -> None:
        if not isinstance(usage, dict):
            return
        tokens_in, tokens_out = usage.get("prompt_tokens"), usage.get("completion_tokens", 0)
        if is_count(tokens_in) and is_count(tokens_out):
            self._usage = tokens_in, tokens_out

    def _finished(self) -> list[Event]:
        if self._reason is None:
            return self._broken("ended without a reason")
        reason = _ENDS.get(self._reason)
        if reason is None:
            return self._end(Broken(_cut(self._reason)))
        if self._usage is None:
            return self._broken(
                "ended without usage: it does not know stream_options.include_usage, so its "
                "tokens cannot be counted"
            )
        tokens_in, tokens_out = self._usage
        if reason is FinishReason.LENGTH and tokens_out < self._job.max_tokens:
            return self._end(Broken(context_full(self._job, tokens_in, tokens_out)))
        return self._end(Finished(tokens_in=tokens_in, tokens_out=tokens_out, finish_reason=reason))

    def _broken(self, did: str) -> list[Event]:
        return self._end(Broken(OrchError(Kind.ENGINE_PROTOCOL, f"the engine {did}")))

    def _end(self, event: Event) -> list[Event]:
        self._over = True
        return [event]


def context_full(job: Job, tokens_in: int, tokens_out: int) -> OrchError:
    """Return what a job is told that was cut short because its slot was full [ORCH-3016]."""
    return OrchError(
        Kind.INVALID_PARAMS,
        f"the context was full after {tokens_out} of {job.max_tokens} tokens: the prompt has "
        f"{tokens_in}, and both share the context of one slot",
        path="$.max_tokens",
    )


def is_count(value: object) -> TypeGuard[int]:
    """Whether it is a number of tokens."""
    return type(value) is int and value >= 0


def _cut(reason: str) -> OrchError:
    if reason == "content_filter":
        why = "the engine's content filter ended the answer"
        return OrchError(Kind.INVALID_PARAMS, why, path="$.prompt")
    return OrchError(Kind.WORKER_RESET, f"the engine ended the answer: {reason[:40]}")
