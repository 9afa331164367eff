"""Triton's errors, mapped to the suite's table: here and nowhere else.

A model's errors are words, with a status before the first answer (HTTP) or gRPC's code. Recorded
from tritonserver 2.51 (contracts/dialects/triton); the words of TensorRT-LLM from its source.
"""

from __future__ import annotations

import re
from typing import Final

import orjson

from orchd.wire.errors import Kind, OrchError
from poolmgr.dialects.exchange import Broken, Event
from poolmgr.dialects.json_events import JsonEvents

_TOO_LONG: Final = re.compile(
    r"[Pp]rompt length.{0,40}exceeds|maximum context length|exceeds? (?:the )?max(?:imum)?_?\s?"
    r"(?:input|sequence|num_tokens)"
)
_QUEUE_FULL: Final = re.compile(r"[Ee]xceeds maximum queue size")
_STATUS: Final = {
    400: Kind.INVALID_PARAMS,
    404: Kind.CONFIG_INVALID,
    501: Kind.CONFIG_INVALID,
    503: Kind.POOL_UNREADY,
}
# grpc.github.io/grpc/core/md_doc_statuscodes.html
_CODES: Final = {
    3: Kind.INVALID_PARAMS,
    4: Kind.DECODE_TIMEOUT,
    5: Kind.CONFIG_INVALID,
    7: Kind.CONFIG_INVALID,
    8: Kind.REPLICA_EXHAUSTED,
    12: Kind.CONFIG_INVALID,
    14: Kind.POOL_UNREADY,
    16: Kind.CONFIG_INVALID,
}


def mapped(words: str, status: int | None) -> OrchError:
    """Return what an error in words means; `status` is the answer's, None within a stream."""
    kind = _STATUS.get(status or 0)
    if kind is None:
        kind = Kind.ENGINE_PROTOCOL if 300 <= (status or 500) < 500 else Kind.WORKER_RESET
    return _told(words, kind, str(status or "with an error"))


def of_grpc(code: int, words: str) -> OrchError:
    """Return what a gRPC status other than 0 means."""
    return _told(words, _CODES.get(code, Kind.WORKER_RESET), f"with gRPC status {code}")


def _told(words: str, kind: Kind, how: str) -> OrchError:
    message = f"the engine answered {how}: {words.strip()[:500] or 'no message'}"
    if _TOO_LONG.search(words):
        kind = Kind.INVALID_PARAMS
    if _QUEUE_FULL.search(words):
        kind = Kind.REPLICA_EXHAUSTED
    return OrchError(kind, message, path="$.prompt" if kind is Kind.INVALID_PARAMS else None)


def http_error(status: int, body: bytes) -> OrchError:
    """Return what an answer other than 200 means: its body is JSON or an event with JSON."""
    values = JsonEvents().feed(body.strip() + b"\n\n") if body.startswith(b"data:") else []
    try:
        value = values[0] if values else orjson.loads(body)
    except orjson.JSONDecodeError:
        value = None
    words = value.get("error") if isinstance(value, dict) else None
    return mapped(str(words) if words else body[:200].decode("utf-8", "replace"), status)


class ErrorReader:
    """Reads an answer that is not 200. Has the methods of engines.base.Reader."""

    def __init__(self, status: int) -> None:
        self._status = status
        self._body = b""
        self._over = False

    def feed(self, data: bytes) -> list[Event]:
        """Keep the body, as far as an error is long."""
        self._body = (self._body + data)[: 64 << 10]
        return []

    def eof(self) -> list[Event]:
        """Return the error."""
        if self._over:
            return []
        self._over = True
        return [Broken(http_error(self._status, self._body))]
