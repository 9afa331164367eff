"""What llama-server would answer, as bytes: token frames, the final frame, plain JSON.

Recorded from llama.cpp b11669 (contracts/dialects/llama). Frames are joined from rendered pieces,
so that one core renders millions a second. What is said when is server.py's.
"""

from __future__ import annotations

from typing import Any

import orjson

from poolmgr.mockengine.text import BOOK, WORDS, Voice

BUILD_INFO = "mock-1"
MAX_FRAMES = 1024
"""Of one `token_frames`."""

HEAD_SSE = (
    b"HTTP/1.1 200 OK\r\nServer: mock-engine\r\nContent-Type: text/event-stream\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)
LAST_CHUNK = b"0\r\n\r\n"

_HEADS = tuple(
    b'data: {"index":0,"content":%b,"tokens":[%d],"stop":false,"id_slot":-1,"tokens_predicted":'
    % (orjson.dumps(" " + word), number)
    for number, word in enumerate(WORDS)
)
_HEADS_OF_BOOK = tuple(_HEADS[word] for word in BOOK)
_HEADS_OF_BOOK += _HEADS_OF_BOOK[:MAX_FRAMES]  # so that any block is one slice
_NUMBERS_CACHED = 1 << 14
_NUMBERS = tuple(b"%d" % number for number in range(_NUMBERS_CACHED))


def token_frames(voice: Voice, first: int, last: int, tokens_in: int) -> bytes:
    """Return the frames of tokens first..last-1 (from 0), at most MAX_FRAMES."""
    at = (voice.page + first) % len(BOOK)
    size = last - first
    parts: list[bytes] = [b',"tokens_evaluated":%d}\n\n' % tokens_in] * (3 * size)
    parts[0::3] = _HEADS_OF_BOOK[at : at + size]
    if last < _NUMBERS_CACHED:
        parts[1::3] = _NUMBERS[first + 1 : last + 1]
    else:
        parts[1::3] = [b"%d" % number for number in range(first + 1, last + 1)]
    return b"".join(parts)


def end_frame(tokens_out: int, tokens_in: int) -> bytes:
    """Return the frame of the end-of-sequence token: it has no content."""
    return (
        b'data: {"index":0,"content":"","tokens":[%d],"stop":false,"id_slot":-1,'
        b'"tokens_predicted":%d,"tokens_evaluated":%d}\n\n' % (len(WORDS), tokens_out, tokens_in)
    )


def text_of(voice: Voice, size: int) -> str:
    """Return the first `size` words, as the frames would bring them."""
    pages = range(voice.page, voice.page + size)
    return "".join([" " + WORDS[BOOK[page % len(BOOK)]] for page in pages])


def final(
    *, content: str, model: str, tokens_in: int, tokens_out: int, stop_type: str, truncated: bool,
    slot: int, seconds: float,
) -> dict[str, Any]:  # fmt: skip
    """Return what the last frame, or an answer that is not streamed, says."""
    return {
        "index": 0,
        "content": content,
        "tokens": [],
        "id_slot": slot,
        "stop": True,
        "model": model,
        "tokens_predicted": tokens_out,
        "tokens_evaluated": tokens_in,
        "truncated": truncated,
        "stop_type": stop_type,
        "stopping_word": "",
        "tokens_cached": tokens_in + tokens_out,
        "timings": {
            "prompt_n": tokens_in,
            "predicted_n": tokens_out,
            "predicted_ms": seconds * 1e3,
        },
    }


def data_frame(value: object) -> bytes:
    """Return one event of JSON."""
    return b"data: %b\n\n" % orjson.dumps(value)


def chunk(data: bytes) -> bytes:
    """Return one chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


_REASONS = {200: b"OK", 400: b"Bad Request", 404: b"Not Found", 411: b"Length Required",
            413: b"Content Too Large", 500: b"Internal Server Error",
            503: b"Service Unavailable"}  # fmt: skip


def answer(status: int, value: object) -> bytes:
    """Return a whole answer of JSON."""
    body = orjson.dumps(value)
    return (
        b"HTTP/1.1 %d %b\r\nServer: mock-engine\r\nContent-Type: application/json; charset=utf-8"
        b"\r\nContent-Length: %d\r\n\r\n%b" % (status, _REASONS[status], len(body), body)
    )


def error(status: int, kind: str, message: str, **more: int) -> bytes:
    """Return an error as llama-server words it."""
    return answer(status, {"error": {"code": status, "message": message, "type": kind, **more}})


def too_long(tokens: int, ctx: int) -> bytes:
    """Return the refusal of a prompt that is longer than the context of a slot."""
    return error(
        400,
        "exceed_context_size_error",
        f"request ({tokens} tokens) exceeds the available context size ({ctx} tokens), "
        "try increasing it",
        n_prompt_tokens=tokens,
        n_ctx=ctx,
    )
