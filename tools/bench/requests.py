"""The bytes of the requests that the load generator sends, and what it looks for in the answers.

Nothing is parsed: a token is counted by a mark that stands once in each token frame.
"""

from __future__ import annotations

import os
from itertools import count
from typing import Final

from tools.bench.orders import Api

PROMPT: Final = b"Say what this change does, and what could go wrong with it. " * 4
POOL: Final = "bench"
MODEL: Final = "mock:lorem"
CTX: Final = 1 << 20
"""Tokens: room for streams that outlast any window."""
TASK_CTX: Final = 8192
MARKS: Final = {Api.TASKS: b"\nevent: token\n", Api.COMPLETION: b'"stop":false'}
LAST_CHUNK: Final = b"\r\n0\r\n\r\n"
_DEADLINE_MS: Final = 10**12  # none: predictions behind a hanging engine are long

_BODY: Final = (
    b'{"task_id":"%b","session_id":"%b","workload":"completion",'
    b'"model_ref":"' + MODEL.encode() + b'","engine":"%b","ctx":%d,"priority":"interactive",'
    b'"max_tokens":%d,"deadline_ms":%d,"seed":7,"determinism":"best_effort","prompt":"%b"}'
)
_COMPLETION: Final = b'{"prompt":"%b","n_predict":%d,"stream":true,"seed":7}'
_numbers = count(1)
_RUN: Final = int.from_bytes(os.urandom(6), "big")


def task_id() -> bytes:
    """Return a fresh UUID: the run's number and a count."""
    return b"%08x-0000-4000-8000-%012x" % (next(_numbers), _RUN)


def post_task(
    task: bytes, max_tokens: int, *, engine: bytes = b"mock", ctx: int = TASK_CTX
) -> bytes:
    """Return `POST /v1/tasks`, about 600 bytes of body."""
    body = _BODY % (task, task, engine, ctx, max_tokens, _DEADLINE_MS, PROMPT)
    return _post(b"/v1/tasks", body)


def get_stream(task: bytes) -> bytes:
    """Return the request for a task's stream."""
    return b"GET /v1/tasks/%b/stream HTTP/1.1\r\nHost: orchd\r\n\r\n" % task


def post_completion(max_tokens: int) -> bytes:
    """Return what poolmgr would send to the engine."""
    return _post(b"/completion", _COMPLETION % (PROMPT, max_tokens))


def _post(path: bytes, body: bytes) -> bytes:
    return (
        b"POST %b HTTP/1.1\r\nHost: orchd\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (path, len(body), body)
    )


def answer_size(data: bytes) -> int | None:
    """Return the size of a whole answer of known length at the head of `data`; None: not yet."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    at = data.lower().find(b"\r\ncontent-length:", 0, end + 2)
    body = int(data[at + 17 : data.index(b"\r\n", at + 2)]) if at >= 0 else 0
    return end + 4 + body if len(data) >= end + 4 + body else None
