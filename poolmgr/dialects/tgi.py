"""Text Generation Inference: `/generate_stream`, `/info`, `/metrics`, as published.

No server of it can be had here, so nothing was recorded: the forms are those of its published API
(huggingface.github.io/text-generation-inference, version 3) and of its router's source. Answers in
contracts/dialects/tgi were written by hand from these.
"""

from __future__ import annotations

import re
from collections.abc import Container, Sequence
from typing import Any, Final

import orjson

from orchd.wire.errors import Kind, OrchError
from orchd.wire.shapes import FinishReason
from poolmgr.dialects import prom
from poolmgr.dialects.exchange import (
    Broken,
    Call,
    Event,
    Finished,
    Job,
    Load,
    Pieces,
    Props,
    Reader,
    Reply,
    Usage,
)
from poolmgr.dialects.json_events import Garbage, JsonEvents
from poolmgr.dialects.refused import ErrorReader

SAMPLERS: Final[dict[str, dict[str, Any]]] = {
    "v1": {"temperature": 0.8, "top_k": 40, "top_p": 0.95}
}
STRICT_SEED: Final = 0
_SEEDS: Final = (
    2**63
)  # an unsigned 64-bit number in the API; not all of its parts take the high bit
_JSON: Final = (("content-type", "application/json"),)
_SHA: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_BATCH: Final = "tgi_batch_current_size"
_TOO_LONG: Final = re.compile(r"`inputs` must have less than (\d+) tokens\. Given: (\d+)")
_TOO_MUCH: Final = re.compile(
    r"`max_new_tokens` must be <= (\d+)\. Given: (\d+) `inputs` tokens and (\d+)"
)
_ENDS: Final = {
    "length": FinishReason.LENGTH,
    "eos_token": FinishReason.STOP,
    "stop_sequence": FinishReason.STOP,
}
_ERRORS: Final = {
    "validation": Kind.INVALID_PARAMS,
    "overloaded": Kind.REPLICA_EXHAUSTED,
    "unhealthy": Kind.POOL_UNREADY,
    "healthcheck": Kind.POOL_UNREADY,
    "no_permission": Kind.CONFIG_INVALID,
    "generation": Kind.WORKER_RESET,
    "incomplete_generation": Kind.WORKER_RESET,
}
_STATUS: Final = {
    400: Kind.INVALID_PARAMS,
    401: Kind.CONFIG_INVALID,
    403: Kind.CONFIG_INVALID,
    404: Kind.CONFIG_INVALID,
    413: Kind.INVALID_PARAMS,
    422: Kind.INVALID_PARAMS,
    429: Kind.REPLICA_EXHAUSTED,
    503: Kind.POOL_UNREADY,
}


class TgiServer:
    """The methods of engines.base.Adapter that talk."""

    sampler_profiles: Container[str] = SAMPLERS
    strict_slots: int | None = 1

    def __init__(self, *, profile: str) -> None:
        self._profile = profile

    def health(self) -> Call:
        """Return `GET /health`."""
        return Call(method="GET", path="/health")

    def load_state(self, status: int, body: bytes) -> tuple[Load, str]:
        """Return where it is: it answers 503 until its shards do."""
        if status == 200:
            return Load.SERVING, "the engine serves"
        if status == 503:
            return Load.LOADING, "the engine loads the model"
        return Load.BROKEN, http_error(status, body).message

    def props(self) -> tuple[Call, ...]:
        """Return `GET /info`."""
        return (Call(method="GET", path="/info"),)

    def read_props(self, replies: Sequence[Reply]) -> Props:
        """Return version, slots, context and the model's commit. Raises OrchError."""
        (reply,) = replies
        if reply.status != 200:
            raise http_error(reply.status, reply.body)
        value = _object(reply.body)
        version, sha = value.get("version"), value.get("sha")
        if not isinstance(version, str) or not version or "max_total_tokens" not in value:
            raise OrchError(Kind.ENGINE_PROTOCOL, "/info names no version: this is no TGI")
        commit = value.get("model_sha")
        return Props(
            engine_version=f"{version}-{sha[:7]}" if isinstance(sha, str) and sha else version,
            slots=_positive(value.get("max_concurrent_requests")),
            ctx_max=_positive(value.get("max_total_tokens")),
            model_digest=f"git:{commit}"
            if isinstance(commit, str) and _SHA.fullmatch(commit)
            else None,
        )

    def usage(self) -> Call | None:
        """Return `GET /metrics`."""
        return Call(method="GET", path="/metrics")

    def read_usage(self, body: bytes) -> Usage:
        """Return the size of the running batch; it tells no share of its cache.

        Raises OrchError(ENGINE_PROTOCOL).
        """
        found = prom.sums(body, (_BATCH,))
        if _BATCH not in found:
            raise OrchError(Kind.ENGINE_PROTOCOL, f"the engine's /metrics has no {_BATCH}")
        return Usage(slots_active=int(found[_BATCH]), kv_cache_usage_ratio=None)

    def tokenize(self, text: str) -> Call | None:
        """Return `POST /tokenize`, which adds the special tokens that a prompt gets."""
        body = orjson.dumps({"inputs": text})
        return Call(method="POST", path="/tokenize", body=body, headers=_JSON, repeatable=True)

    def read_tokenize(self, status: int, body: bytes) -> tuple[int, ...]:
        """Return the tokens. Raises OrchError: what the engine's error means, ENGINE_PROTOCOL."""
        if status != 200:
            raise http_error(status, body)
        try:
            rows = orjson.loads(body)
        except orjson.JSONDecodeError:
            rows = None
        listed = isinstance(rows, list) and all(isinstance(row, dict) for row in rows)
        found = tuple(row.get("id") for row in rows) if listed else (None,)
        if not set(map(type, found)) <= {int}:
            raise OrchError(Kind.ENGINE_PROTOCOL, "the engine's /tokenize has no list of tokens")
        return found

    def submit(self, job: Job) -> Call:
        """Return `POST /generate_stream`. Raises OrchError(INVALID_PARAMS)."""
        if job.prompt is None:
            raise OrchError(Kind.INVALID_PARAMS, "a completion needs a prompt", path="$.prompt")
        parameters: dict[str, Any] = {
            "max_new_tokens": job.max_tokens,
            "do_sample": True,
            "details": True,
            "return_full_text": False,
            # without it, what is too long is cut at its beginning by some versions
            "truncate": None,
            **SAMPLERS[self._profile],
        }
        seed = job.seed % _SEEDS if job.seed is not None else STRICT_SEED if job.strict else None
        if seed is not None:
            parameters["seed"] = seed
        try:
            body = orjson.dumps({"inputs": job.prompt, "parameters": parameters, "stream": True})
        except orjson.JSONEncodeError:
            raise OrchError(
                Kind.INVALID_PARAMS, "the prompt is not valid Unicode", path="$.prompt"
            ) from None
        return Call(method="POST", path="/generate_stream", body=body, headers=_JSON)

    def reader(self, job: Job, status: int) -> Reader:
        """Return the reader of a completion or of an error."""
        return StreamReader(job) if status == 200 else ErrorReader(status, http_error)


class StreamReader:
    """Reads `/generate_stream`. Has the methods of engines.base.Reader."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._events = JsonEvents()
        self._over = False

    def feed(self, data: bytes) -> list[Event]:
        """Return what `data` completes."""
        return [] if self._over else self._read(self._events.feed(data))

    def eof(self) -> list[Event]:
        """Return the fault of a body that ended before the details of its end."""
        if self._over:
            return []
        found = self._read(self._events.last())
        if found and not isinstance(found[-1], Pieces):
            return found
        why = "the engine broke off in the middle of its answer"
        return [*found, *self._end(Broken(OrchError(Kind.ENGINE_DIED, why)))]

    def _read(self, values: list[Any]) -> list[Event]:
        texts: list[str] = []
        end: list[Event] = []
        for value in values:
            end = self._frame(value, texts)
            if end:
                break
        return [Pieces(tuple(texts)), *end] if texts else end

    def _frame(self, value: Any, texts: list[str]) -> list[Event]:
        if type(value) is Garbage:
            return self._broken(f"sent {value.what}")
        if not isinstance(value, dict):
            return self._broken("sent an event that is no object")
        if "error" in value:
            return self._end(Broken(_mapped(value, None)))
        token = value.get("token")
        if not isinstance(token, dict) or not isinstance(token.get("text"), str):
            return self._broken("sent an event that is neither a token nor an error")
        if token["text"] and token.get("special") is not True:
            texts.append(token["text"])
        details = value.get("details")
        return [] if details is None else self._last(details)

    def _last(self, details: Any) -> list[Event]:
        said = details if isinstance(details, dict) else {}
        tokens_in, tokens_out = said.get("input_length"), said.get("generated_tokens")
        reason = _ENDS.get(str(said.get("finish_reason")))
        if type(tokens_in) is not int or type(tokens_out) is not int or reason is None:
            return self._broken("ended without its token counts or its reason")
        if reason is FinishReason.LENGTH and tokens_out < self._job.max_tokens:
            why = (
                f"the context was full after {tokens_out} of {self._job.max_tokens} tokens: the "
                f"prompt has {tokens_in}"
            )
            return self._end(Broken(OrchError(Kind.INVALID_PARAMS, why, path="$.max_tokens")))
        return self._end(Finished(tokens_in=tokens_in, tokens_out=tokens_out, finish_reason=reason))

    def _broken(self, did: str) -> list[Event]:
        return self._end(Broken(OrchError(Kind.ENGINE_PROTOCOL, f"the engine {did}")))

    def _end(self, event: Event) -> list[Event]:
        self._over = True
        return [event]


def http_error(status: int, body: bytes) -> OrchError:
    """Return what an answer other than 200 means."""
    value = _object(body)
    if "error" not in value:
        value = {"error": body[:200].decode("utf-8", "replace")}
    return _mapped(value, status)


def _mapped(value: dict[str, Any], status: int | None) -> OrchError:
    """Return what `{error, error_type}` means; `status` is the answer's, None within a stream."""
    kind = _ERRORS.get(str(value.get("error_type")))
    if kind is None:
        kind = _STATUS.get(status or 0)
    if kind is None:
        kind = Kind.ENGINE_PROTOCOL if 300 <= (status or 500) < 500 else Kind.WORKER_RESET
    said = str(value.get("error") or "").strip()[:500] or "no message"
    if kind is not Kind.INVALID_PARAMS:
        return OrchError(kind, f"the engine answered {status or 'with an error'}: {said}")
    found = _TOO_LONG.search(said)
    if found is not None:
        words = f"the prompt has {found[2]} tokens, and the engine takes at most {found[1]}"
        return OrchError(kind, words, path="$.prompt")
    found = _TOO_MUCH.search(said)
    if found is not None:
        words = (
            f"the prompt has {found[2]} tokens and max_tokens is {found[3]}: together more than "
            f"the {found[1]} of the context"
        )
        return OrchError(kind, words, path="$.max_tokens")
    path = "$.seed" if "seed" in said else "$.prompt"
    return OrchError(kind, f"the engine answered {status or 'with an error'}: {said}", path=path)


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}


def _positive(value: object) -> int | None:
    return value if type(value) is int and value > 0 else None
