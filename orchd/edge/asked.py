"""What every handler of a route is given, and what handlers share: a body, a page, an ETag.

The table of routes is in routes.py.
"""

from __future__ import annotations

import hashlib
from typing import Final

from attrs import frozen

from orchd.kit.http import Request, Response, Streaming
from orchd.wire import codec
from orchd.wire.errors import Kind, OrchError

Answer = Response | Streaming
MAX_PAGE: Final = 100


@frozen
class Asked:
    """One request, as its handler gets it."""

    request: Request
    identity: str
    """Who asks (auth.py), for the log."""
    named: str
    """The id in the path; empty where the route has none."""


def body(cls: type[codec.T], request: Request) -> codec.T:
    """Return the body as a `cls`. Raises OrchError(INVALID_PARAMS)."""
    try:
        return codec.loads(cls, request.body)
    except codec.ShapeError as exc:
        raise exc.as_error() from None


def page_size(request: Request) -> int:
    """Return `limit` of the query, 1 to 100; without it 100. Raises OrchError(INVALID_PARAMS)."""
    text = request.query.get("limit")
    if text is None:
        return MAX_PAGE
    if not (text.isascii() and text.isdigit() and len(text) <= 3 and 1 <= int(text) <= MAX_PAGE):
        why = f"limit must be an integer from 1 to {MAX_PAGE}"
        raise OrchError(Kind.INVALID_PARAMS, why, path="limit")
    return int(text)


def no_strangers(request: Request, known: frozenset[str]) -> None:
    """Refuse a parameter that would be ignored: a filter that is misspelt lists everything.

    Probes and scrapers add their own (`?verbose`, `?name[]=`) where they ask: outside /v1/.
    Raises OrchError(INVALID_PARAMS).
    """
    strange = next((name for name in request.query if name not in known), None)
    if strange is not None and request.path.startswith("/v1/"):
        takes = f"it takes {', '.join(sorted(known))}" if known else "it takes none"
        why = f"{strange[:40]!r} is no parameter of the query here: {takes}"
        raise OrchError(Kind.INVALID_PARAMS, why, path=strange[:40])


def with_etag(request: Request, response: Response) -> Response:
    """Return a 200 with the ETag of its body, or 304 to a client that has it."""
    tag = f'"{hashlib.sha256(response.body).hexdigest()[:16]}"'
    known = request.headers.get("if-none-match", "").split(",")
    # compared weakly: a proxy that packs an answer marks its tag so (RFC 9110, 13.1.2)
    if {part.strip().removeprefix("W/") for part in known} & {tag, "*"}:
        return Response(304, headers=(("ETag", tag),))
    return Response(200, response.body, headers=(("ETag", tag),))
