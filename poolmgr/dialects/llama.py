"""llama-server's `/completion`: the request's body, and the answer read from bytes in any pieces.

The format was recorded from llama.cpp b11669 and b11549 (contracts/dialects/llama). Frames are not
tokens: a character's first bytes bring none, the end of the sequence and progress bring empty ones,
so the counts are taken from `tokens_predicted`. What an adapter makes of it is engines/llamacpp.py.
"""

from __future__ import annotations

from typing import Any, Final, cast

import orjson

from orchd.wire import sse
from orchd.wire.errors import Kind, OrchError
from orchd.wire.shapes import FinishReason
from poolmgr.dialects import llama_errors
from poolmgr.dialects.exchange import Broken, Event, Finished, Job, Pieces
from poolmgr.dialects.json_events import sound

SAMPLERS: Final[dict[str, dict[str, Any]]] = {
    "v1": {
        "samplers": ["top_k", "top_p", "min_p", "temperature"],
        "temperature": 0.8,
        "top_k": 40,
        "top_p": 0.95,
        "min_p": 0.05,
    }
}
"""Sampler profiles by version. The list of samplers names all that run: whatever else a build
knows, or changes the default of, has no effect. A profile never changes; a new one gets a name."""

STRICT_SEED: Final = 0
"""Of a strict job that names none: the same request must give the same bytes [ORCH-3045]."""

_RANDOM_SEED = 0xFFFFFFFF  # LLAMA_DEFAULT_SEED: the engine draws one; so no seed may become it

# What the last frame may say. Without the list it repeats the whole prompt and every parameter.
_LAST_FIELDS = ("content", "stop", "stop_type", "truncated", "tokens_predicted", "tokens_evaluated")

# A token frame as every build writes it; JSON escapes quotes, so no text can hold these.
_HEAD = b'data: {"index":0,"content":"'
_BEHIND_TEXT = b'","tokens":['
_NOT_LAST = b'],"stop":false,"'


def seed_of(job: Job) -> int | None:
    """Return the engine's seed, 0..2**32-2; None: the engine draws one.

    The engine would cut a seed of 64 bits short, and might cut it to the one that means "draw".
    """
    if job.seed is None:
        return STRICT_SEED if job.strict else None
    return job.seed % _RANDOM_SEED


def completion(job: Job, profile: str = "v1") -> bytes:
    """Return the body of `POST /completion`. Raises OrchError(INVALID_PARAMS)."""
    if job.prompt is None:
        raise OrchError(Kind.INVALID_PARAMS, "a completion needs a prompt", path="$.prompt")
    value = {
        "prompt": job.prompt,
        "n_predict": job.max_tokens,
        "stream": True,
        # a warm cache changes the batches of the prompt, and so the rounding, and so the text
        "cache_prompt": not job.strict,
        "response_fields": _LAST_FIELDS,
        **SAMPLERS[profile],
    }
    seed = seed_of(job)
    if seed is not None:
        value["seed"] = seed
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
        # a build that ignores response_fields repeats the prompt, escaped, in its last frame
        self._limit = sse.MAX_EVENT_BYTES + 6 * len(job.prompt or "")
        self._tail = b""
        self._over = False

    def feed(self, data: bytes) -> list[Event]:
        """Return what `data` completes."""
        if self._over:
            return []
        buffer = self._tail + data if self._tail else data
        if b"\r" in buffer:
            buffer = buffer.replace(b"\r\n", b"\n")
        end = buffer.rfind(b"\n\n") + 2
        if end < 2:
            self._tail = buffer
            if len(buffer) > self._limit:
                return self._broken(f"sent an event of more than {self._limit} bytes")
            return []
        if end == len(buffer):
            self._tail = b""
        else:
            self._tail = buffer[end:]
            buffer = buffer[:end]
        texts = _token_texts(buffer)
        if texts is None:
            return self._slowly(buffer)
        return [Pieces(texts)] if texts else []

    def eof(self) -> list[Event]:
        """Return the fault of a body that ended before the engine's last frame."""
        if self._over:
            return []
        return self._end(
            Broken(OrchError(Kind.ENGINE_DIED, "the engine broke off in the middle of its answer"))
        )

    def _slowly(self, events: bytes) -> list[Event]:
        """Read whole events of any form."""
        good = sound(events)
        texts: list[str] = []
        found: list[Event] = []
        for event in sse.Decoder(self._limit * 2 + len(events)).feed(events[:good]):
            if event.data == "[DONE]":
                continue
            try:
                value = orjson.loads(event.data)
            except orjson.JSONDecodeError:
                found = self._broken(f"sent an event that is not JSON: {event.data[:40]!r}")
                break
            if value is None:
                continue  # seen between the frames of several prompts
            found = self._event(value, texts)
            if found:
                break
        if good < len(events) and not self._over:
            found = self._broken(f"sent what is no event stream: {events[good : good + 40]!r}")
        return [Pieces(tuple(texts)), *found] if texts else found

    def _event(self, value: Any, texts: list[str]) -> list[Event]:
        if isinstance(value, dict) and "error" in value:
            return self._end(Broken(llama_errors.mapped(value["error"], None)))
        if not isinstance(value, dict) or not isinstance(value.get("content"), str):
            return self._broken("sent an event that is neither a token, an end nor an error")
        if value["content"]:
            texts.append(value["content"])
        return self._last(value) if value.get("stop") is True else []

    def _last(self, value: dict[str, Any]) -> list[Event]:
        tokens_out, tokens_in = value.get("tokens_predicted"), value.get("tokens_evaluated")
        if not (_is_count(tokens_out) and _is_count(tokens_in)):
            return self._broken("ended without its token counts")
        tokens_out, tokens_in = cast("int", tokens_out), cast("int", tokens_in)
        stop_type = value.get("stop_type")
        if stop_type not in ("eos", "word", "limit"):
            return self._broken(f"ended with stop_type {stop_type!r}")
        if value.get("truncated") is True and tokens_out < self._job.max_tokens:
            return self._end(Broken(OrchError(
                Kind.INVALID_PARAMS,
                f"the context was full after {tokens_out} of {self._job.max_tokens} tokens: the "
                f"prompt has {tokens_in}, and both share the context of one slot",
                path="$.max_tokens",
            )))  # fmt: skip
        reason = FinishReason.LENGTH if stop_type == "limit" else FinishReason.STOP
        return self._end(Finished(tokens_in=tokens_in, tokens_out=tokens_out, finish_reason=reason))

    def _broken(self, did: str) -> list[Event]:
        return self._end(Broken(OrchError(Kind.ENGINE_PROTOCOL, f"the engine {did}")))

    def _end(self, event: Event) -> list[Event]:
        self._over, self._tail = True, b""
        return [event]


def _token_texts(events: bytes) -> tuple[str, ...] | None:
    """Return the texts of whole events that are all token frames, without the empty ones.

    None when any is something else. One JSON parse for all texts: 0.4 us a frame in batches.
    """
    if not events.startswith(_HEAD):
        return None
    parts = events.split(_HEAD)
    size = len(parts) - 1
    if not events.count(b"\n\n") == events.count(b"}\n\n") == events.count(_NOT_LAST) == size:
        return None
    del parts[0]
    quoted = [part.partition(_BEHIND_TEXT)[0] for part in parts]
    try:
        texts = orjson.loads(b'["%b"]' % b'","'.join(quoted))
    except orjson.JSONDecodeError:
        return None
    if len(texts) != size:
        return None
    return tuple(texts) if "" not in texts else tuple(filter(None, texts))


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0
