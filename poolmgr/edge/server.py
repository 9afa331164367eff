"""The pool's socket: who may ask what. Served from the first moment, also while loading.

GET /health, /state, /metrics, and GET /link, which becomes a link (link.py). No control of the
replica is here: drain and reload come with a later issue.
"""

from __future__ import annotations

from collections.abc import Callable

from orchd.kit.http1 import Request, Response, Upgraded, json_response
from orchd.kit.pipe import Pipe
from orchd.wire import link as wire
from orchd.wire.errors import Kind, OrchError
from orchd.wire.snapshot import Snapshot
from poolmgr.edge.link import Link, Side
from poolmgr.edge.scrape import exposition

ROUTES = ("/health", "/state", "/metrics", "/link")


class Server:
    """The handler of the pool's socket."""

    def __init__(self, side: Side, snapshot: Callable[[], Snapshot]) -> None:
        self._side = side
        self._snapshot = snapshot

    async def handle(self, request: Request) -> Response | Upgraded:
        """Answer one request. Raises OrchError."""
        if request.path not in ROUTES:
            raise OrchError(
                Kind.UNKNOWN_ROUTE, f"{request.path} is not served; these are: {', '.join(ROUTES)}"
            )
        if request.method != "GET":
            raise OrchError(Kind.METHOD_NOT_ALLOWED, f"{request.path} takes GET only", allow="GET")
        if request.path == "/link":
            return self._link(request)
        snapshot = self._snapshot()
        if request.path == "/metrics":
            return Response(
                body=exposition(snapshot), content_type="text/plain; version=0.0.4; charset=utf-8"
            )
        status = 503 if request.path == "/health" and not snapshot.ready else 200
        return json_response(snapshot, status)

    def _link(self, request: Request) -> Upgraded:
        if request.headers.get("upgrade", "").lower() != wire.PROTOCOL:
            raise OrchError(Kind.INVALID_PARAMS, f"/link needs the header Upgrade: {wire.PROTOCOL}")

        async def run(pipe: Pipe, rest: bytes) -> None:
            await Link(pipe, self._side).run(rest)

        return Upgraded(wire.PROTOCOL, run)
