"""What the OpenAPI documents say of each route: a row names its shapes, errors and prose.

A route is added by a row here beside the one in orchd/edge/routes.py, and by an entry in
examples.yaml; schemas, error answers and headers follow. How a document is put together is in
document.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, NewType

from attrs import field, frozen

from orchd.wire import control, shapes
from orchd.wire.errors import Envelope, Kind
from orchd.wire.ids import PoolId, TaskId

Plane = Literal["data", "control"]
JSON: Final = "application/json"
EVENTS: Final = "text/event-stream"

Cursor = NewType("Cursor", str)
"""Where a page begins: opaque to clients."""
EventId = NewType("EventId", str)
"""An id of a stream's frame, or empty: from the first one on."""


@frozen
class Parameter:
    """A query parameter or a header that a route reads. None is required."""

    place: Literal["query", "header"]
    name: str
    kind: Any
    """A leaf of orchd.wire or an enum."""
    words: str


@frozen
class Reply:
    """One answer that is no error."""

    words: str
    shape: type | None = None
    """None: no body, or one that is not JSON."""
    media: tuple[str, ...] = ()
    """What the body is, where `shape` says nothing."""
    headers: tuple[str, ...] = ()
    """Names of HEADERS, beside X-Correlation-Id."""
    links: Mapping[str, Mapping[str, str]] = field(factory=dict)
    """Name -> `to` (operation id) and the parameters it gets from this answer's body."""


@frozen(kw_only=True)
class Operation:
    """One row."""

    id: str
    plane: Plane
    tag: str
    method: str
    path: str
    summary: str
    words: str
    parameters: tuple[Parameter, ...] = ()
    body: type | None = None
    replies: Mapping[int, Reply]
    kinds: tuple[Kind, ...] = ()
    """The errors of this route beside EVERYWHERE."""
    open: bool = False
    """Served without a token even where one is configured."""


EVERYWHERE: Final = (
    Kind.INVALID_PARAMS,  # the query names a key twice
    Kind.MALFORMED_HTTP,
    Kind.MISSING_TOKEN,
    Kind.BAD_TOKEN,
    Kind.NON_LOOPBACK_WITHOUT_TOKEN,
    Kind.METHOD_NOT_ALLOWED,
    Kind.REQUEST_TIMEOUT,
    Kind.BODY_TOO_LARGE,
    Kind.HEADERS_TOO_LARGE,
    Kind.INTERNAL,
    Kind.TOO_MANY_CONNECTIONS,
)
"""What any route may answer."""

IN_FRAMES: Final = (
    Kind.INVALID_PARAMS,
    Kind.DEADLINE_UNMET,
    Kind.DECODE_TIMEOUT,
    Kind.WORKER_RESET,
    Kind.INTERNAL,
)
"""What the `error` frame of a stream may say: the stream had its 200 already."""

NEVER_ANSWERED: Final = frozenset(
    {
        # causes that a pool tells in its health (`last_error`), and units in their status
        Kind.CONFIG_INVALID,
        Kind.DRIVER_UNAVAILABLE,
        Kind.DEVICE_MISSING,
        Kind.MODEL_MISSING,
        Kind.VRAM_SHORT,
        Kind.RAM_SHORT,
        Kind.ENGINE_MISSING,
        Kind.ENGINE_START_FAILED,
        Kind.ENGINE_UNHEALTHY,
        Kind.ENGINE_DIED,
        Kind.ENGINE_PROTOCOL,
        Kind.SELF_TEST_FAILED,
        Kind.CPU_FALLBACK,
        Kind.GPU_MISMATCH,
        Kind.NOT_ATTESTED,
        # orchctl's own
        Kind.DAEMON_UNREACHABLE,
        Kind.CANCELED,
        # between the daemons: the pool turned a job away, and it is placed again
        Kind.REPLICA_EXHAUSTED,
    }
)
"""Rows of the table of errors that no route answers with."""

HEADERS: Final[Mapping[str, tuple[Any, str]]] = {
    "X-Correlation-Id": (str, "The one that was sent, or a new UUIDv4; logs carry it."),
    "Retry-After": (int, "Whole seconds to wait, rounded up."),
    "X-Backoff-Ms": (int, "The same wait in milliseconds, where it could be predicted."),
    "Allow": (str, "The methods that the path takes, as `GET, POST`."),
    "WWW-Authenticate": (str, "`Bearer`."),
    "ETag": (str, "Changes with the body; send it as If-None-Match."),
    "Cache-Control": (str, "`no-cache`."),
    "X-Accel-Buffering": (str, "`no`: a proxy shall not gather the stream."),
}
ERROR_HEADERS: Final[Mapping[int, tuple[tuple[str, bool], ...]]] = {
    401: (("WWW-Authenticate", True),),
    405: (("Allow", True),),
    429: (("Retry-After", True), ("X-Backoff-Ms", True)),
    503: (("Retry-After", True), ("X-Backoff-Ms", False)),
}
"""Status -> headers of its answers, and whether they are always there."""

IDS: Final[Mapping[str, tuple[Any, str]]] = {
    "task_id": (TaskId, "The task's id, chosen by the client. What is no UUID is no task: 404."),
    "pool_id": (PoolId, "The pool's id in the configuration."),
}

FRAMES: Final[Mapping[str, type]] = {
    "started": shapes.Started,
    "token": shapes.Token,
    "metrics": shapes.MetricsFrame,
    "narration": shapes.Narration,
    "end": shapes.Ended,
    "error": Envelope,
}
"""What stands in `data:` of each event of a stream."""

CORRELATION: Final = Parameter(
    "header",
    "X-Correlation-Id",
    str,
    "Up to 128 printable characters, echoed and logged; anything else is replaced.",
)

_TASK_LINKS: Final = {
    name: {"to": to, "task_id": "task_id"}
    for name, to in (("Status", "getTask"), ("Stream", "streamTask"), ("Cancel", "cancelTask"))
}

OPERATIONS: Final = (
    Operation(
        id="submitTask",
        plane="data",
        tag="tasks",
        method="POST",
        path="/v1/tasks",
        summary="Submit a task",
        words="Admits one task, or says why not and when to ask again. The same `task_id` with the "
        "same body is the same task and answers as before; with another body it is 409.",
        body=shapes.TaskRequest,
        replies={
            202: Reply(
                "Admitted: position, predicted start, and where its stream is.",
                shapes.TaskAccepted,
                links=_TASK_LINKS,
            )
        },
        kinds=(
            Kind.DEADLINE_UNMET,
            Kind.TASK_ID_REUSED,
            Kind.UNSUPPORTED_MEDIA,
            Kind.QUEUE_FULL,
            Kind.POOL_UNREADY,
            Kind.POOL_UNAVAILABLE,
            Kind.DRAINING,
        ),
    ),
    Operation(
        id="listTasks",
        plane="data",
        tag="tasks",
        method="GET",
        path="/v1/tasks",
        summary="List tasks",
        words="The newest first, 100 a page. Ended tasks are forgotten after a while.",
        parameters=(
            Parameter("query", "state", shapes.TaskState, "Only tasks in this state."),
            Parameter("query", "cursor", Cursor, "`next_cursor` of the page before."),
        ),
        replies={200: Reply("A page.", shapes.TaskStatuses)},
    ),
    Operation(
        id="getTask",
        plane="data",
        tag="tasks",
        method="GET",
        path="/v1/tasks/{task_id}",
        summary="Show a task",
        words="State, position, prediction, placement and timings; never prompt or output.",
        replies={200: Reply("The task.", shapes.TaskStatus)},
        kinds=(Kind.UNKNOWN_ID, Kind.UNKNOWN_ROUTE),
    ),
    Operation(
        id="streamTask",
        plane="data",
        tag="tasks",
        method="GET",
        path="/v1/tasks/{task_id}/stream",
        summary="Read a task's stream",
        words="Server-sent events, from the first frame or from the one after `Last-Event-ID`, "
        "with nothing lost or repeated. Several readers may attach. `end` or `error` is the last "
        "frame. Comments keep a silent stream alive. When the last reader leaves before the end, "
        "the task is canceled, unless `cancel_on_disconnect` is false.",
        parameters=(
            Parameter(
                "header",
                "Last-Event-ID",
                EventId,
                "The id of the last frame seen: what follows it is sent.",
            ),
        ),
        replies={
            200: Reply(
                "The frames, each an event of its own.",
                media=(EVENTS,),
                headers=("Cache-Control", "X-Accel-Buffering"),
            )
        },
        kinds=(Kind.UNKNOWN_ID, Kind.UNKNOWN_ROUTE),
    ),
    Operation(
        id="cancelTask",
        plane="data",
        tag="tasks",
        method="POST",
        path="/v1/tasks/{task_id}/cancel",
        summary="Cancel a task",
        words="Queued or running, as often as you like. After the 204 no `token` frame leaves; the "
        "stream ends with `end` and `finish_reason: canceled`.",
        replies={204: Reply("It is canceled, or had come to its end before.")},
        kinds=(Kind.UNKNOWN_ID, Kind.UNKNOWN_ROUTE),
    ),
    Operation(
        id="tokenize",
        plane="data",
        tag="tasks",
        method="POST",
        path="/v1/tokenize",
        summary="Count the tokens of a text",
        words="As an engine that serves `model_ref` would read the text as a prompt: up to "
        f"{control.MAX_TEXT_BYTES} bytes of UTF-8.",
        body=control.TokenizeRequest,
        replies={200: Reply("Its tokens, and how many.", control.Tokens)},
        kinds=(Kind.UNKNOWN_ID, Kind.UNSUPPORTED_MEDIA, Kind.POOL_UNREADY),
    ),
    Operation(
        id="getCapabilities",
        plane="control",
        tag="discovery",
        method="GET",
        path="/v1/capabilities",
        summary="What can be asked for",
        words="Each engine and model that is configured, with its limits. `concurrency` "
        "counts ready replicas only; `engine_version` is empty until a replica has reported.",
        parameters=(
            Parameter("header", "If-None-Match", str, "An ETag, or several, as RFC 9110 has it."),
        ),
        replies={
            200: Reply("What there is now.", control.Capabilities, headers=("ETag",)),
            304: Reply("It is as it was.", headers=("ETag",)),
        },
    ),
    Operation(
        id="listPools",
        plane="control",
        tag="pools",
        method="GET",
        path="/v1/pools",
        summary="Health of every pool",
        words="One item for each configured pool, ready or not.",
        replies={200: Reply("Every pool.", control.Pools)},
    ),
    Operation(
        id="getPoolHealth",
        plane="control",
        tag="pools",
        method="GET",
        path="/v1/pools/{pool_id}/health",
        summary="Health of one pool",
        words="Live, ready, draining, figures, the last error, and each replica's snapshot.",
        replies={200: Reply("The pool.", control.PoolHealth)},
        kinds=(Kind.UNKNOWN_ID, Kind.UNKNOWN_ROUTE),
    ),
    Operation(
        id="registerWorker",
        plane="control",
        tag="workers",
        method="POST",
        path="/v1/workers/register",
        summary="A poolmgr says that it is Ready",
        words="orchd links to it at once instead of at its next try. With a token configured the "
        "request carries it, whatever `auth_optional` says.",
        body=control.WorkerRegistration,
        replies={200: Reply("orchd links to it.", control.Registered)},
        kinds=(Kind.UNKNOWN_ID, Kind.PINS_DIFFER, Kind.UNSUPPORTED_MEDIA),
    ),
    Operation(
        id="scrapeMetrics",
        plane="control",
        tag="operation",
        method="GET",
        path="/metrics",
        summary="The scrape page",
        words="Prometheus text, or OpenMetrics when `Accept` asks for it. The families are in "
        "contracts/metrics.json.",
        replies={
            200: Reply(
                "The page.",
                media=("text/plain", "application/openmetrics-text"),
            )
        },
    ),
    *(
        Operation(
            id=name,
            plane="control",
            tag="operation",
            method="GET",
            path=path,
            summary="orchd runs",
            words="Says nothing of pools. Needs no token.",
            replies={200: Reply("It runs.", control.Health)},
            open=True,
        )
        for name, path in (("getHealth", "/health"), ("getHealthz", "/healthz"))
    ),
    Operation(
        id="getReady",
        plane="control",
        tag="operation",
        method="GET",
        path="/readyz",
        summary="A pool is ready",
        words="503 with the reasons until one is. Needs no token.",
        replies={
            200: Reply("A task could be served.", control.Health),
            503: Reply("No pool is ready, and why.", control.Health),
        },
        open=True,
    ),
)
