"""What a handler is given and what it returns: requests, answers, limits. No sockets, no bytes.

The error answers are here too: the one place where an OrchError becomes a status and headers.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Final, Literal

from attrs import evolve, frozen

from orchd.kit.pipe import Pipe
from orchd.kit.redact import redact
from orchd.kit.sink import Sink
from orchd.wire import codec
from orchd.wire.errors import Envelope, Kind, OrchError

Headers = tuple[tuple[str, str], ...]
JSON: Final = "application/json"


@frozen
class Peer:
    """Who is at the other end."""

    kind: Literal["tcp", "unix"]
    address: str
    """`127.0.0.1:40000`, or `pid:1234` on a unix socket."""
    uid: int | None = None
    """The user of a unix peer, as the kernel saw it at connect(); None on TCP."""


@frozen
class Request:
    """One whole request, its body read."""

    method: str
    path: str
    """Percent-decoded, without the query; begins with / (or is * for OPTIONS)."""
    query: dict[str, str]
    """Decoded. A key given twice never gets here: it is refused with INVALID_PARAMS."""
    headers: dict[str, str]
    """Names in lower case; a header given twice is joined with `, `."""
    body: bytes
    peer: Peer
    correlation_id: str


@frozen
class Response:
    """A whole answer; its body is sent with Content-Length. 204 and 304 have none."""

    status: int = 200
    body: bytes = b""
    content_type: str = JSON
    headers: Headers = ()


@frozen
class Streaming:
    """An answer whose body `run` writes, for as long as it likes."""

    content_type: str
    run: Callable[[Sink], Awaitable[None]]
    status: int = 200
    headers: Headers = ()


@frozen
class Upgraded:
    """101: from here on the connection speaks `protocol`. The handler saw that it was asked for.

    `run` gets the pipe and the bytes already read past the request; the pipe is closed after it.
    """

    protocol: str
    run: Callable[[Pipe, bytes], Awaitable[None]]


Answer = Response | Streaming | Upgraded
Handler = Callable[[Request], Awaitable[Answer]]
"""Raises OrchError for errors. Anything else becomes INTERNAL: logged here, not shown there."""


@frozen(kw_only=True)
class Limits:
    """Bounds of a server; times in seconds."""

    head_bytes: int = 32 << 10  # nginx allows 4 x 8 KiB, node 16 KiB
    header_count: int = 100  # apache's LimitRequestFields
    body_bytes: int = 8 << 20  # a prompt of two million tokens of text
    head_s: float = 10.0
    """From a request's first byte to the end of its head; a new connection from its start."""
    body_s: float = 30.0
    keep_alive_s: float = 75.0  # nginx's keepalive_timeout
    """From an answer to the first byte of the next request."""
    connections: int = 4096
    write_s: float = 30.0
    """Without the peer reading anything of an answer. Streaming bodies watch over themselves."""


def json_response(value: object, status: int = 200, headers: Headers = ()) -> Response:
    """Return `value` (an attrs instance or plain data) as JSON."""
    return Response(status, codec.dumps(value), JSON, headers)


def error_response(error: OrchError) -> Response:
    """Return the envelope, with the headers that belong to its status."""
    row, said = error.row, error.fields
    headers: list[tuple[str, str]] = []
    if said.retry_after_ms is not None:
        headers.append(("Retry-After", str(math.ceil(said.retry_after_ms / 1000))))
        headers.append(("X-Backoff-Ms", str(said.retry_after_ms)))
    elif row.status == 503 and row.retriable:
        headers.append(("Retry-After", "1"))  # nobody could predict it; contract.md wants one
    if said.allow is not None:
        headers.append(("Allow", said.allow))
    if row.status == 401:
        headers.append(("WWW-Authenticate", "Bearer"))
    return json_response(envelope_of(error), row.status, tuple(headers))


def envelope_of(error: OrchError) -> Envelope:
    """Return an error as a client is told it, in an answer or in a frame: without secrets."""
    return evolve(error.envelope(), message=redact(error.message))


def require_json(request: Request) -> None:
    """Raise OrchError(UNSUPPORTED_MEDIA) unless the body is declared as JSON, and not packed."""
    declared = request.headers.get("content-type", "")
    if declared.partition(";")[0].strip().lower() != JSON:
        shown = f"not {declared[:60]!r}" if declared else "and the request names none"
        raise OrchError(Kind.UNSUPPORTED_MEDIA, f"the body must be {JSON}, {shown}")
    packed = request.headers.get("content-encoding", "identity")
    if packed.strip().lower() != "identity":
        raise OrchError(Kind.UNSUPPORTED_MEDIA, f"the body must not be packed ({packed[:20]!r})")
