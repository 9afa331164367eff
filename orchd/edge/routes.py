"""The routes of orchd: from a request to a question to the app, and from its answer to a response.

Every rule about tasks is core's; every format is wire's; who may ask is in auth.py. A handler
raises OrchError, and the HTTP server turns it into the envelope.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from typing import Final

import trio
from attrs import frozen

from orchd import __version__
from orchd.edge.asked import Answer, Asked, no_strangers, page_size
from orchd.edge.asked import body as _body
from orchd.edge.asked import with_etag as _with_etag
from orchd.edge.auth import Guard
from orchd.edge.catalog_routes import Shelves
from orchd.edge.limits import budget_headers
from orchd.edge.relay import Reader
from orchd.edge.scrape import page
from orchd.kit import log
from orchd.kit.http import Request, Response, Sink, Streaming, json_response, require_json
from orchd.wire import codec
from orchd.wire.control import (
    DrainRequest,
    Health,
    PoolControl,
    Pools,
    Registered,
    ReloadRequest,
    TokenizeRequest,
    WorkerRegistration,
)
from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import PoolId, SessionId, TaskId
from orchd.wire.pages import FetchRequest
from orchd.wire.shapes import TaskRequest, TaskState

STREAM_HEADERS: Final = (
    ("Cache-Control", "no-cache"),
    ("X-Accel-Buffering", "no"),  # nginx gathers a stream without it [ORCH-3401]
)


@frozen
class Routes(Shelves):
    """The handler of orchd's HTTP server."""

    guard: Guard

    async def __call__(self, request: Request) -> Answer:
        """Answer one request. Raises OrchError."""
        identity = self.guard.identity(request)
        handler, named = self._find(request)
        if (wish := _TOLD.get(handler)) is not None:
            _tell(wish, identity, named)
        if request.query:
            no_strangers(request, QUERIES.get(handler, frozenset()))
        return await handler(self, Asked(request, identity, named))

    def _find(self, request: Request) -> tuple[_Served, str]:
        """Return the handler of a path and the id in it."""
        methods, argument = _look_up(request.path)
        if not methods:
            raise OrchError(Kind.UNKNOWN_ROUTE, f"nothing is served at {request.path[:80]!r}")
        method = "GET" if request.method == "HEAD" else request.method
        handler = methods.get(method)
        if handler is None:
            raise OrchError(
                Kind.METHOD_NOT_ALLOWED,
                f"{request.path[:80]!r} does not take {request.method[:20]}",
                allow=", ".join(sorted(methods)),
            )
        return handler, argument

    # data plane

    async def _submit(self, asked: Asked) -> Answer:
        request = asked.request
        require_json(request)
        task = _body(TaskRequest, request)
        digest = hashlib.sha256(codec.dumps(task)).digest()
        if self.app.policies.decide_tasks and not self.app.knows(task.task_id):
            await self.app.policies.check(task, asked.identity)
        # the one wait, and before the task exists: whoever sends it again meanwhile waits too, and
        # the first to come back is admitted
        counted = await self.app.tokenizers.count(task, asked.identity, trio.current_time())
        answer = self.app.submit(task, digest, request.correlation_id, asked.identity, counted)
        return json_response(answer.accepted, 202, budget_headers(answer.left))

    async def _tokenize(self, asked: Asked) -> Answer:
        require_json(asked.request)
        wanted = _body(TokenizeRequest, asked.request)
        return Response(body=await self.app.tokenizers.tell(wanted, trio.current_time()))

    async def _fetch(self, asked: Asked) -> Answer:
        require_json(asked.request)
        wanted = _body(FetchRequest, asked.request)
        return json_response(await self.app.policies.fetch(wanted, asked.identity))

    async def _task(self, asked: Asked) -> Answer:
        return json_response(self.app.task_status(_task_id(asked.named)))

    async def _tasks(self, asked: Asked) -> Answer:
        query = asked.request.query
        state = query.get("state")
        if state is not None and state not in set(TaskState):
            raise OrchError(
                Kind.INVALID_PARAMS, f"state must be one of {', '.join(TaskState)}", path="state"
            )
        only, limit = TaskState(state) if state else None, page_size(asked.request)
        return json_response(self.app.tasks(only, query.get("cursor"), limit))

    async def _stream(self, asked: Asked) -> Answer:
        stream = self.app.stream(_task_id(asked.named))
        position = stream.offset(asked.request.headers.get("last-event-id"))

        async def run(sink: Sink) -> None:
            if not await Reader(stream, position, sink).run():
                self.app.reader_left(stream)

        return Streaming("text/event-stream", run, headers=STREAM_HEADERS)

    async def _explain(self, asked: Asked) -> Answer:
        require_json(asked.request)
        wanted = _body(TaskRequest, asked.request)
        return json_response(await self.app.explain(wanted, asked.identity))

    async def _cancel(self, asked: Asked) -> Answer:
        await self.app.cancel(_task_id(asked.named))
        return Response(204)

    async def _session(self, asked: Asked) -> Answer:
        return json_response(self.app.session(_session_id(asked.named)))

    async def _end_session(self, asked: Asked) -> Answer:
        self.app.end_session(_session_id(asked.named))
        return Response(204)

    # control plane

    async def _capabilities(self, asked: Asked) -> Answer:
        return _with_etag(asked.request, json_response(self.app.capabilities()))

    async def _pools(self, _asked: Asked) -> Answer:
        return json_response(Pools(pools=self.app.pools()))

    async def _pool_health(self, asked: Asked) -> Answer:
        return json_response(self.app.pool_health(PoolId(asked.named)))

    async def _drain(self, asked: Asked) -> Answer:
        require_json(asked.request)
        wanted, pool_id = _body(DrainRequest, asked.request), PoolId(asked.named)
        self.app.drain_pool(pool_id, wanted.deadline_ms)
        return json_response(PoolControl(pool_id=pool_id, status="draining"), 202)

    async def _reload(self, asked: Asked) -> Answer:
        require_json(asked.request)
        wanted, pool_id = _body(ReloadRequest, asked.request), PoolId(asked.named)
        self.app.reload_pool(pool_id, wanted.new_model_ref, wanted.digest)
        return json_response(PoolControl(pool_id=pool_id, status="reloading"), 202)

    async def _register(self, asked: Asked) -> Answer:
        self.guard.registration(asked.request)
        require_json(asked.request)
        self.app.register(_body(WorkerRegistration, asked.request))
        return json_response(Registered())

    async def _metrics(self, asked: Asked) -> Answer:
        body, content_type = page(self.app.tally, asked.request.headers.get("accept", ""))
        return Response(200, body, content_type)

    async def _live(self, _asked: Asked) -> Answer:
        return json_response(Health(status="ok", version=__version__))

    async def _ready(self, _asked: Asked) -> Answer:
        reasons = self.app.unready_reasons()
        health = Health(
            status="unready" if reasons else "ready", reasons=reasons, version=__version__
        )
        return json_response(health, 503 if reasons else 200)


_Served = Callable[[Routes, Asked], Awaitable[Answer]]
"""Given the id in the path, or who asks where the path has none."""

ROUTES: Final[tuple[tuple[str, str, _Served], ...]] = (
    ("POST", "/v1/tasks", Routes._submit),
    ("GET", "/v1/tasks", Routes._tasks),
    ("GET", "/v1/tasks/{task_id}", Routes._task),
    ("GET", "/v1/tasks/{task_id}/stream", Routes._stream),
    ("POST", "/v1/tasks/{task_id}/cancel", Routes._cancel),
    ("GET", "/v1/sessions/{session_id}", Routes._session),
    ("DELETE", "/v1/sessions/{session_id}", Routes._end_session),
    ("POST", "/v1/placement/explain", Routes._explain),
    ("POST", "/v1/tokenize", Routes._tokenize),
    ("POST", "/v1/fetch", Routes._fetch),
    ("GET", "/v1/capabilities", Routes._capabilities),
    ("GET", "/v1/pools", Routes._pools),
    ("GET", "/v1/pools/{pool_id}/health", Routes._pool_health),
    ("POST", "/v1/pools/{pool_id}/drain", Routes._drain),
    ("POST", "/v1/pools/{pool_id}/reload", Routes._reload),
    ("POST", "/v1/workers/register", Routes._register),
    ("POST", "/v1/catalog/models", Shelves.register_model),
    ("GET", "/v1/catalog/models", Shelves.list_models),
    ("GET", "/v1/catalog/models/{model_id}", Shelves.get_model),
    ("DELETE", "/v1/catalog/models/{model_id}", Shelves.remove_model),
    ("POST", "/v1/catalog/models/{model_id}/verify", Shelves.verify_model),
    ("POST", "/v1/catalog/models/{model_id}/state", Shelves.change_model_state),
    ("GET", "/v1/catalog/locate", Shelves.locate_model),
    ("GET", "/v1/catalog/cache", Shelves.list_cached),
    ("POST", "/v1/artifacts", Shelves.store_artifact),
    ("GET", "/v1/artifacts", Shelves.list_artifacts),
    ("GET", "/v1/artifacts/{artifact_id}", Shelves.get_artifact),
    ("DELETE", "/v1/artifacts/{artifact_id}", Shelves.remove_artifact),
    ("GET", "/metrics", Routes._metrics),
    ("GET", "/health", Routes._live),
    ("GET", "/healthz", Routes._live),
    ("GET", "/readyz", Routes._ready),
)
"""What is served where. Each row has its like in tools/openapi: a test compares them."""


_TOLD: Final[dict[_Served, str]] = {
    Routes._cancel: "cancel task",
    Routes._end_session: "end session",
    Routes._drain: "drain pool",
    Routes._reload: "reload pool",
    Routes._fetch: "fetch a page",
    Shelves.register_model: "register a model",
    Shelves.remove_model: "remove model",
    Shelves.verify_model: "verify model",
    Shelves.change_model_state: "change the state of model",
    Shelves.store_artifact: "store an artifact",
    Shelves.remove_artifact: "remove artifact",
}
"""What is told of whoever asks for a change, allowed or not [AUTH-1008]. Tasks carry who sent them
in their own events, and a worker says itself that it registered."""


QUERIES: Final[dict[_Served, frozenset[str]]] = {
    Routes._tasks: frozenset({"state", "cursor", "limit"}),
    Shelves.list_models: frozenset({"cursor", "limit"}),
    Shelves.locate_model: frozenset({"name"}),
    Shelves.list_artifacts: frozenset({"tag", "cursor", "limit"}),
}
"""What a route reads of a query; the others read nothing. tools/openapi says the same: a test
compares them."""


def _tell(wish: str, identity: str, named: str) -> None:
    target = named[:128]
    log.event(
        "change_asked",
        f"{identity} asks to {wish} {target}".rstrip() + ".",
        identity=identity,
        actor=identity,
        action=wish.partition(" ")[0],
        target=target or None,
    )


def _by_path() -> dict[tuple[str, ...], dict[str, _Served]]:
    """Return path in parts -> method -> handler; the part that is an id is empty."""
    table: dict[tuple[str, ...], dict[str, _Served]] = {}
    for method, path, handler in ROUTES:
        parts = tuple("" if part[:1] == "{" else part for part in path.split("/")[1:])
        table.setdefault(parts, {})[method] = handler
    return table


_TABLE: Final = _by_path()
_ID_AT: Final = sorted({at for parts in _TABLE for at, part in enumerate(parts) if not part})


def _look_up(path: str) -> tuple[dict[str, _Served], str]:
    """Return what a path is served by, and the id in it. A name goes before an id."""
    parts = path.split("/")[1:]
    if "" in parts:  # an empty id is none
        return {}, ""
    if (methods := _TABLE.get(tuple(parts))) is not None:
        return methods, ""
    for at in _ID_AT:
        if at < len(parts):
            methods = _TABLE.get((*parts[:at], "", *parts[at + 1 :]))
            if methods is not None:
                return methods, parts[at]
    return {}, ""


def _task_id(text: str) -> TaskId:
    if not codec.UUID.fullmatch(text):
        raise OrchError(Kind.UNKNOWN_ID, "a task id is a UUID", path="task_id")
    return TaskId(text.lower())


def _session_id(text: str) -> SessionId:
    if not codec.UUID.fullmatch(text):
        raise OrchError(Kind.UNKNOWN_ID, "a session id is a UUID", path="session_id")
    return SessionId(text.lower())
