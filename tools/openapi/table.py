"""What a row of the OpenAPI documents is made of, and what is said of all routes together.

The rows are in data.py and control.py; how they become documents is in document.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, NewType

from attrs import field, frozen

from orchd.wire import shapes
from orchd.wire.errors import Envelope, Kind
from orchd.wire.ids import ArtifactId, ModelId, PoolId, SessionId, TaskId

Plane = Literal["data", "control"]
JSON: Final = "application/json"
EVENTS: Final = "text/event-stream"

Cursor = NewType("Cursor", str)
"""Where a page begins: opaque to clients."""
ArtifactCursor = NewType("ArtifactCursor", str)
"""Where a page of artifacts begins."""
PageSize = NewType("PageSize", int)
"""How many a page has."""
EventId = NewType("EventId", str)
"""An id of a stream's frame, or empty: from the first one on."""


@frozen
class Parameter:
    """A query parameter or a header that a route reads."""

    place: Literal["query", "header"]
    name: str
    kind: Any
    """A leaf of orchd.wire or an enum."""
    words: str
    required: bool = False


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
    perhaps: tuple[str, ...] = ()
    """Names of HEADERS that are not always there."""
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
    Kind.INVALID_PARAMS,  # the query names a key twice, or one that the route does not read
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
    Kind.DROPPED,
    Kind.SHED,
    Kind.DECODE_TIMEOUT,
    Kind.DEADLINE_PASSED,
    Kind.WORKER_RESET,
    Kind.POOL_UNAVAILABLE,
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
        Kind.OUTBOUND_DENIED,
        Kind.FETCH_FAILED,
        Kind.DIGEST_MISMATCH,
        Kind.DISK_SHORT,
        Kind.VRAM_SHORT,
        Kind.RAM_SHORT,
        Kind.ENGINE_MISSING,
        Kind.PROVISION_FAILED,
        Kind.ENGINE_START_FAILED,
        Kind.ENGINE_UNHEALTHY,
        Kind.ENGINE_DIED,
        Kind.ENGINE_EXITED,
        Kind.ENGINE_HUNG,
        Kind.CUDA_ERROR,
        Kind.DRIVER_RESET,
        Kind.GPU_XID,
        Kind.GPU_ECC,
        Kind.RESUME_FAILED,
        Kind.BREAKER_OPEN,
        Kind.ENGINE_PROTOCOL,
        Kind.SELF_TEST_FAILED,
        Kind.CANARY_FAILED,
        Kind.CPU_FALLBACK,
        Kind.GPU_MISMATCH,
        Kind.NOT_ATTESTED,
        Kind.SOCKET_REMOVED,
        # orchctl's own
        Kind.DAEMON_UNREACHABLE,
        Kind.CANCELED,
    }
)
"""Rows of the table of errors that no route answers with."""

HEADERS: Final[Mapping[str, tuple[Any, str]]] = {
    "X-Correlation-Id": (str, "The one that was sent, or a new UUIDv4; logs carry it."),
    "Retry-After": (int, "Whole seconds to wait, rounded up."),
    "X-Backoff-Ms": (int, "The same wait in milliseconds, where it could be predicted."),
    "X-Budget-Tokens-Remaining": (
        int,
        "What the session may still ask for beside this task; only with such a budget.",
    ),
    "X-Budget-Time-Remaining-Ms": (int, "The same of GPU time."),
    "X-Budget-Cost-Remaining": (str, "The same of cost, a decimal number."),
    "Allow": (str, "The methods that the path takes, as `GET, POST`."),
    "WWW-Authenticate": (str, "`Bearer`."),
    "ETag": (str, "Changes with the body; send it as If-None-Match."),
    "Cache-Control": (str, "`no-cache`."),
    "X-Accel-Buffering": (str, "`no`: a proxy shall not gather the stream."),
}
BUDGETS: Final = tuple(name for name in HEADERS if name.startswith("X-Budget-"))
"""Of a 202, where the session has such a budget."""
ERROR_HEADERS: Final[Mapping[int, tuple[tuple[str, bool], ...]]] = {
    401: (("WWW-Authenticate", True),),
    405: (("Allow", True),),
    429: (("Retry-After", True), ("X-Backoff-Ms", True)),
    503: (("Retry-After", True), ("X-Backoff-Ms", False)),
}
"""Status -> headers of its answers, and whether they are always there."""

IDS: Final[Mapping[str, tuple[Any, str]]] = {
    "session_id": (
        SessionId,
        "The session's id, chosen by the client. What is no UUID is none: 404.",
    ),
    "task_id": (TaskId, "The task's id, chosen by the client. What is no UUID is no task: 404."),
    "pool_id": (PoolId, "The pool's id in the configuration."),
    "model_id": (ModelId, "The model's id in the catalog."),
    "artifact_id": (ArtifactId, "The artifact's id, as its upload was answered."),
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
