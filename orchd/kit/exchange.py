"""From a request to the handler's answer, and what the log is told: the same for every protocol.

How requests are read and answers written is the protocols' (h1_connection.py, h2_stream.py).
"""

from __future__ import annotations

import traceback
from typing import Final, Protocol

from orchd.kit import log
from orchd.kit.groups import leaves, orch_error
from orchd.kit.message import (
    Answer,
    Handler,
    Limits,
    Peer,
    Request,
    Upgraded,
    error_response,
)
from orchd.wire.errors import Kind, OrchError

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""How a client begins HTTP/2 (RFC 9113, 3.4)."""


class Server(Protocol):
    """What a connection needs of its server."""

    handler: Handler
    limits: Limits
    stopping: bool


async def answered(server: Server, request: Request) -> Answer:
    """Return the handler's answer; what it raises becomes the envelope. Raises only Cancelled."""
    log.correlation.set(request.correlation_id)
    try:
        answer = await server.handler(request)
    except Exception as exc:  # noqa: BLE001 - the client is told INTERNAL, the log the rest
        error = orch_error(exc)
        if error is None:
            report("handler_failed", "A request failed on an unexpected error", exc, request.peer)
            error = OrchError(Kind.INTERNAL, "an unexpected error")
        answer = error_response(error)
    if log.debugging():
        _access(request, answer)
    return answer


def report(name: str, human: str, exc: BaseException, peer: Peer) -> None:
    """Log what nobody expected, with its traceback."""
    log.event(
        name,
        f"{human}: {type(next(leaves(exc))).__name__}",
        level="error",
        peer=peer.address,
        traceback="".join(traceback.format_exception(exc)),
    )


def _access(request: Request, answer: Answer) -> None:
    status = 101 if isinstance(answer, Upgraded) else answer.status
    log.event(
        "http",
        level="debug",
        method=request.method,
        path=request.path,
        status=status,
        peer=request.peer.address,
    )
