"""Errors of OpenAI-compatible servers, mapped to the suite's table: here and nowhere else.

They come as the body of an answer that is not 200, as a frame of a stream, or in a 200 that should
have been none. The forms were recorded from vLLM 0.32 and llama.cpp (contracts/dialects/vllm,
contracts/dialects/openai).
"""

from __future__ import annotations

import re
from typing import Any, Final

import orjson

from orchd.wire.errors import Kind, OrchError
from poolmgr.dialects.exchange import Broken, Event

MAX_ERROR_BODY: Final = 64 << 10
_CONTEXT: Final = re.compile(
    r"maximum context length is (?P<ctx>\d+) tokens.*?(?P<prompt>\d+)(?: input)? tokens", re.DOTALL
)
_TEXT_TOO_LONG: Final = re.compile(
    r"maximum context length is (?P<ctx>\d+) tokens.*?contains (?P<prompt>\d+) characters",
    re.DOTALL,
)
"""vLLM does not count the tokens of a text that is far too long."""
_TOO_LONG: Final = frozenset({"context_length_exceeded", "exceed_context_size_error"})
_FIELDS: Final = {"max_tokens": "$.max_tokens", "seed": "$.seed", "input": "$.inputs"}
"""By the parameter that the server names; the prompt is at fault otherwise."""


def mapped(value: object, status: int | None) -> OrchError:
    """Return what an `error` value means; `status` is the answer's, None within a stream."""
    fields: dict[str, Any] = value if isinstance(value, dict) else {"message": value}
    said = str(fields.get("message") or "").strip()[:500] or "no message"
    code = status if status is not None else _number(fields.get("code"))
    message = f"the engine answered {code or 'with an error'}: {said}"
    long = _too_long(fields, said)
    if long is not None:
        return OrchError(Kind.INVALID_PARAMS, long, path="$.prompt")
    match code:
        case 400 | 413 | 422:
            path = _FIELDS.get(str(fields.get("param")), "$.prompt")
            return OrchError(Kind.INVALID_PARAMS, message, path=path)
        case 401 | 403:
            return OrchError(Kind.CONFIG_INVALID, f"{message} (engine.api_key is what it is shown)")
        case 404:
            return OrchError(
                Kind.CONFIG_INVALID, f"{message} (engine.served_name and the URL say what is asked)"
            )
        case 429:
            return OrchError(Kind.REPLICA_EXHAUSTED, message)
        case 503:
            return OrchError(Kind.POOL_UNREADY, message)
        case None:
            return OrchError(Kind.WORKER_RESET, message)
        case _:
            return OrchError(Kind.WORKER_RESET if code >= 500 else Kind.ENGINE_PROTOCOL, message)


def http_error(status: int, body: bytes) -> OrchError:
    """Return what an answer other than 200 means."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        value = body[:200].decode("utf-8", "replace")
    if isinstance(value, dict):
        # FastAPI's own errors have `detail`; some servers have `message` at the top
        value = value.get("error") or value.get("detail") or value
    return mapped(value, status)


class ErrorReader:
    """Reads an answer that is not 200. Has the methods of engines.base.Reader."""

    def __init__(self, status: int) -> None:
        self._status = status
        self._body = b""
        self._over = False

    def feed(self, data: bytes) -> list[Event]:
        """Keep the body, as far as an error is long."""
        self._body = (self._body + data)[:MAX_ERROR_BODY]
        return []

    def eof(self) -> list[Event]:
        """Return the error."""
        if self._over:
            return []
        self._over = True
        return [Broken(http_error(self._status, self._body))]


def _too_long(fields: dict[str, Any], said: str) -> str | None:
    """Return, with its figures, that the prompt is over the context; None: something else is."""
    prompt, ctx = _number(fields.get("n_prompt_tokens")), _number(fields.get("n_ctx"))
    match = _TEXT_TOO_LONG.search(said)
    if match is not None:
        return (
            f"the prompt has {match['prompt']} characters, more than fit into the context of "
            f"{match['ctx']} tokens of one slot"
        )
    match = _CONTEXT.search(said)
    if prompt is None and match is not None:
        prompt, ctx = int(match["prompt"]), int(match["ctx"])
    kinds = {str(fields.get("code")), str(fields.get("type")), str(fields.get("param"))}
    if prompt is not None and ctx is not None and prompt > ctx:
        # vLLM stops counting at the first token too many: "at least"
        least = "at least " if "at least" in said else ""
        return f"the prompt has {least}{prompt} tokens, more than the context of {ctx} of one slot"
    if _TOO_LONG & kinds:
        return f"the prompt is longer than the context: {said}"
    return None


def _number(value: object) -> int | None:
    if type(value) is str and value.isascii() and value.isdigit():
        return int(value)
    return value if type(value) is int else None
