"""The pool's socket: who may ask what. Served from the first moment, also while loading.

GET /health, /state, /metrics, POST /tokenize, /drain, /reload, and GET /link, which becomes a link
(link.py). What a drain or a reload does is core/life.py's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, Protocol, cast

from orchd.kit.http import Request, Response, Upgraded, json_response, require_json
from orchd.kit.pipe import Pipe
from orchd.wire import codec
from orchd.wire import link as wire
from orchd.wire.control import (
    DrainRequest,
    PoolControl,
    PoolTokenize,
    ReloadRequest,
    Tokens,
)
from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import Count
from orchd.wire.snapshot import Snapshot
from poolmgr.edge.link import Link, Side

ROUTES: Final = {
    "/health": "GET",
    "/state": "GET",
    "/metrics": "GET",
    "/tokenize": "POST",
    "/drain": "POST",
    "/reload": "POST",
    "/link": "GET",
}


class Control(Protocol):
    """What may be asked of the replica. Each raises OrchError when it may not be now."""

    def drain(self, deadline_s: float) -> None:
        """Begin to drain."""
        ...

    def reload(self, model_ref: str, digest: str | None) -> None:
        """Begin to reload; the model must have `digest` where one is given."""
        ...


class Server:
    """The handler of the pool's socket."""

    def __init__(
        self,
        side: Side,
        snapshot: Callable[[], Snapshot],
        page: Callable[[], bytes],
        tokenize: Callable[[str], Awaitable[tuple[int, ...]]],
        control: Control,
    ) -> None:
        self._control = control
        self._side = side
        self._snapshot = snapshot
        self._page = page
        self._tokenize = tokenize

    async def handle(self, request: Request) -> Response | Upgraded:
        """Answer one request. Raises OrchError."""
        if request.path not in ROUTES:
            raise OrchError(
                Kind.UNKNOWN_ROUTE, f"{request.path} is not served; these are: {', '.join(ROUTES)}"
            )
        method = ROUTES[request.path]
        if request.method != method:
            why = f"{request.path} takes {method} only"
            raise OrchError(Kind.METHOD_NOT_ALLOWED, why, allow=method)
        if request.path == "/tokenize":
            return await self._tokens(request)
        if request.path in ("/drain", "/reload"):
            return self._controlled(request)
        if request.path == "/link":
            return self._link(request)
        if request.path == "/metrics":
            return Response(
                body=self._page(), content_type="text/plain; version=0.0.4; charset=utf-8"
            )
        snapshot = self._snapshot()
        status = 503 if request.path == "/health" and not snapshot.ready else 200
        return json_response(snapshot, status)

    async def _tokens(self, request: Request) -> Response:
        """The size of the text is bounded by that of a body; orchd asks for less."""
        asked = _body(PoolTokenize, request)
        tokens = await self._tokenize(asked.text)
        told = cast("tuple[Count, ...]", tokens) if asked.tokens else None
        return json_response(Tokens(count=Count(len(tokens)), tokens=told))

    def _controlled(self, request: Request) -> Response:
        """202: it has begun; the snapshots tell the rest."""
        if request.path == "/drain":
            self._control.drain(_body(DrainRequest, request).deadline_ms / 1000)
            status = "draining"
        else:
            wanted = _body(ReloadRequest, request)
            self._control.reload(wanted.new_model_ref, wanted.digest)
            status = "reloading"
        return json_response(PoolControl(pool_id=self._side.pool_id, status=status), 202)

    def _link(self, request: Request) -> Upgraded:
        if request.headers.get("upgrade", "").lower() != wire.PROTOCOL:
            raise OrchError(Kind.INVALID_PARAMS, f"/link needs the header Upgrade: {wire.PROTOCOL}")

        async def run(pipe: Pipe, rest: bytes) -> None:
            await Link(pipe, self._side).run(rest)

        return Upgraded(wire.PROTOCOL, run)


def _body(cls: type[codec.T], request: Request) -> codec.T:
    require_json(request)
    try:
        return codec.loads(cls, request.body)
    except codec.ShapeError as exc:
        raise exc.as_error() from None
