"""CORS: which web pages of this machine may ask orchd, for tools that run in a browser.

Off unless origins are configured. An origin is compared as a whole and answered by its own name,
never by `*` [ORCH-3380, ORCH-3381]. Who may ask at all is auth.py's: a page needs the token too.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import Final

from attrs import evolve, frozen

from orchd.kit.http import Request, Response, Streaming
from orchd.kit.message import Headers, error_response
from orchd.wire.errors import OrchError

MAX_AGE_S: Final = 600
"""How long a browser may remember a preflight; Chromium's own bound is two hours."""
_METHODS: Final = "GET, POST, DELETE"
_ASKED: Final = "Authorization, Content-Type, If-None-Match, Last-Event-ID, X-Correlation-Id"
_SHOWN: Final = (
    "ETag, Retry-After, X-Backoff-Ms, X-Budget-Cost-Remaining, X-Budget-Time-Remaining-Ms, "
    "X-Budget-Tokens-Remaining, X-Correlation-Id"
)

Answer = Response | Streaming
Handler = Callable[[Request], Awaitable[Answer]]


@frozen
class Cors:
    """A handler around another one that knows these origins."""

    origins: frozenset[str]
    handler: Handler

    async def __call__(self, request: Request) -> Answer:
        """Answer one request; a preflight is answered here. Raises OrchError."""
        origin = request.headers.get("origin")
        more: Headers = (("Vary", "Origin"),)  # another origin may get another answer
        if origin is not None and origin in self.origins:
            more = (("Access-Control-Allow-Origin", origin), *more)
            if request.method == "OPTIONS" and "access-control-request-method" in request.headers:
                return Response(
                    204,
                    headers=(
                        *more,
                        ("Access-Control-Allow-Methods", _METHODS),
                        ("Access-Control-Allow-Headers", _ASKED),
                        ("Access-Control-Max-Age", str(MAX_AGE_S)),
                    ),
                )
            more = (*more, ("Access-Control-Expose-Headers", _SHOWN))
        try:
            answer = await self.handler(request)
        except OrchError as exc:  # a page could not read an error without the headers
            answer = error_response(exc)
        return evolve(answer, headers=(*answer.headers, *more))


def allowing(origins: Collection[str], handler: Handler) -> Handler:
    """Return the handler, as pages of these origins may use it; none: just as it is."""
    return Cors(frozenset(origins), handler) if origins else handler
