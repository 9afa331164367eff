"""Runs of orchctl about tasks and pools: what it sends, what it needs, how it ends.

Those for vectors are in vector_runs.py; those about sessions, control of pools, the catalog and
artifacts in control_runs.py.
"""

from __future__ import annotations

import uuid
from typing import Any, Final

from pact import match

from orchd.wire import control, shapes
from orchd.wire.errors import TABLE, Kind
from tools.pactfile import control_runs, vector_runs
from tools.pactfile.asks import (
    CANCELED,
    ENDED,
    FULL,
    LISTED,
    QUEUED,
    READ,
    READY,
    SHOWN,
    UNKNOWN,
    UNREADY,
    WRONG_TOKEN,
    Ask,
    Run,
)
from tools.pactfile.matchers import STREAM, UUID, golden, needed, refusal


def _health(status: str, reasons: list[str]) -> Any:
    said = needed(control.Health, {"status": status, "reasons": reasons, "version": "0.1.0"})
    return said | {"status": status}


def _request(words: str, **changes: Any) -> Any:
    # of its own: the same id with another body is a 409, with the same one the same answer
    task_id = str(uuid.uuid5(uuid.NAMESPACE_URL, words))
    return {
        "task_id": match.regex(task_id, regex=f"^{UUID}$"),
        "session_id": match.regex(golden("TaskRequest")["session_id"], regex=f"^{UUID}$"),
        "workload": "completion",
        "model_ref": "mock:lorem",
        "engine": "mock",
        "ctx": 8192,
        "priority": "interactive",
        "max_tokens": 8,
        "deadline_ms": 3_600_000,
        "determinism": "best_effort",
        "prompt": "Say something.",
    } | changes


def _unready_pool() -> Any:
    said = golden("PoolHealth")
    # where no replica is ready no start can be predicted, and a replica may not have reported
    said["metrics"]["predicted_start_ms"] = {}
    return needed(control.PoolHealth, said) | {"ready": False}


def _pool(name: str = "PoolHealth") -> Any:
    return needed(control.PoolHealth, golden(name))


CAPABILITIES: Final = Ask(
    words="what can be asked for",
    state=READY,
    path="/v1/capabilities",
    answer=needed(control.Capabilities, golden("Capabilities") | {"api_version": "1.0.0"}),
)
IDLE: Final = {"concurrency": 0, "engine_version": ""}
"""What is configured is told also while none of it is ready."""
NO_CAPABILITIES: Final = Ask(
    words="what can be asked for while nothing is ready",
    state=UNREADY,
    path="/v1/capabilities",
    answer=needed(
        control.Capabilities,
        golden("Capabilities") | {"engines": [golden("Capabilities")["engines"][0] | IDLE]},
    ),
)
RETRY: Final = (
    ("Retry-After", match.regex("2", regex="^[0-9]+$")),
    ("X-Backoff-Ms", match.regex("1240", regex="^[0-9]+$")),
)
PROMPT: Final = ("run", "Say something.", "--max-tokens", "8")


def _submit(words: str, kind: Kind, state: str = READY, *, fields: Any = (), **changes: Any) -> Ask:
    status = TABLE[kind].status
    return Ask(
        words=words,
        state=state,
        method="POST",
        path="/v1/tasks",
        body=_request(words, **changes),
        status=status,
        answer=refusal(kind, **dict(fields)),
        headers=RETRY if status == 429 else RETRY[:1] if status == 503 else (),
    )


def _task(words: str, suffix: str = "", **more: Any) -> Ask:
    return Ask(words=words, path=f"/v1/tasks/{more['task']}{suffix}", **more)


UNKNOWN_TASK: Final[dict[str, Any]] = {
    "task": UNKNOWN,
    "status": 404,
    "answer": refusal(Kind.UNKNOWN_ID),
}

RUNS: Final = (
    Run(
        arguments=("explain", "--max-tokens", "8", "--prefer", "demo"),
        asks=(
            CAPABILITIES,
            Ask(
                words="where a task would go",
                method="POST",
                path="/v1/placement/explain",
                body=_request(
                    "where a task would go",
                    prompt="?",
                    placement={
                        "mode": "prefer",
                        "prefer_pools": ["demo"],
                        "avoid_pools": [],
                        "allow_fallback": True,
                    },
                ),
                answer=needed(shapes.PlacementExplained, golden("PlacementExplained")),
            ),
        ),
        out="assigned: it would run at once",
    ),
    Run(
        arguments=PROMPT,
        asks=(
            CAPABILITIES,
            Ask(
                words="a task for a free slot",
                method="POST",
                path="/v1/tasks",
                body=_request("a task for a free slot"),
                status=202,
                answer=needed(shapes.TaskAccepted, golden("TaskAccepted")),
            ),
            Ask(
                words="the stream of a task",
                state=ENDED,
                task=READ,
                path=match.regex(f"/v1/tasks/{READ}/stream", regex=f"^/v1/tasks/{UUID}/stream$"),
                answer=STREAM,
            ),
        ),
        out="Hello there",
    ),
    Run(
        arguments=PROMPT,
        asks=(
            CAPABILITIES,
            _submit(
                "a task for a full queue",
                Kind.QUEUE_FULL,
                FULL,
                fields={
                    "policy_label": "reject",
                    "retry_after_ms": match.int(1240),
                    "pool_id": match.str("demo"),
                },
            ),
        ),
        exit_code=TABLE[Kind.QUEUE_FULL].exit_code,
    ),
    Run(
        arguments=(*PROMPT, "--ctx", "1000000"),
        asks=(
            CAPABILITIES,
            _submit("a task with too much context", Kind.INVALID_PARAMS, ctx=1_000_000),
        ),
        exit_code=TABLE[Kind.INVALID_PARAMS].exit_code,
    ),
    Run(
        arguments=(*PROMPT, "--engine", "mock", "--model", "mock:none"),
        asks=(
            CAPABILITIES,
            _submit(
                "a task for a model that no pool has",
                Kind.POOL_UNAVAILABLE,
                model_ref="mock:none",
                ctx=4096,
            ),
        ),
        exit_code=TABLE[Kind.POOL_UNAVAILABLE].exit_code,
    ),
    Run(
        arguments=PROMPT,
        asks=(
            NO_CAPABILITIES,
            _submit(
                "a task for a pool that is not ready",
                Kind.POOL_UNREADY,
                UNREADY,
                fields={"pool_id": match.str("demo")},
            ),
        ),
        exit_code=TABLE[Kind.POOL_UNREADY].exit_code,
    ),
    Run(
        arguments=("status", "--json"),
        asks=(
            Ask(
                words="whether it is ready",
                path="/readyz",
                answer=_health("ready", []),
            ),
            Ask(
                words="every pool",
                path="/v1/pools",
                answer={"pools": match.each_like(_pool(), min=1)},
            ),
            Ask(
                words="every task",
                state=QUEUED,
                task=LISTED,
                path="/v1/tasks",
                answer={
                    "tasks": match.each_like(needed(shapes.TaskStatus, golden("TaskStatus")), min=1)
                },
            ),
        ),
        out='"status":"ready"',
    ),
    Run(
        arguments=("status", "--json"),
        asks=(
            Ask(
                words="whether it is ready while nothing is",
                state=UNREADY,
                path="/readyz",
                status=503,
                answer=_health("unready", ["pool demo: no replica has reported yet"]),
            ),
            Ask(
                words="every pool while none is ready",
                state=UNREADY,
                path="/v1/pools",
                answer={"pools": match.each_like(_unready_pool(), min=1)},
            ),
            Ask(words="no task", state=UNREADY, path="/v1/tasks", answer={"tasks": []}),
        ),
        out='"status":"unready"',
    ),
    Run(
        arguments=("status", SHOWN, "--json"),
        asks=(
            _task(
                "one task",
                task=SHOWN,
                state=QUEUED,
                answer=needed(shapes.TaskStatus, golden("TaskStatus"))
                | {"task_id": SHOWN, "queue_position": match.int(1)},
            ),
        ),
        out=SHOWN,
    ),
    Run(
        arguments=("status", UNKNOWN),
        asks=(_task("a task that is unknown", **UNKNOWN_TASK),),
        exit_code=TABLE[Kind.UNKNOWN_ID].exit_code,
    ),
    Run(
        arguments=("cancel", CANCELED),
        asks=(
            _task(
                "to cancel a task",
                "/cancel",
                task=CANCELED,
                state=QUEUED,
                method="POST",
                status=204,
            ),
        ),
    ),
    Run(
        arguments=("cancel", UNKNOWN),
        asks=(_task("to cancel a task that is unknown", "/cancel", method="POST", **UNKNOWN_TASK),),
        exit_code=TABLE[Kind.UNKNOWN_ID].exit_code,
    ),
    Run(
        arguments=("pools", "demo", "--json"),
        asks=(
            Ask(
                words="one pool",
                path="/v1/pools/demo/health",
                answer=_pool() | {"pool_id": "demo", "ready": True},
            ),
        ),
        out='"pool_id":"demo"',
    ),
    Run(
        arguments=("pools", "none"),
        asks=(
            Ask(
                words="a pool that is unknown",
                path="/v1/pools/none/health",
                status=404,
                answer=refusal(Kind.UNKNOWN_ID),
            ),
        ),
        exit_code=TABLE[Kind.UNKNOWN_ID].exit_code,
    ),
    Run(
        arguments=("pools",),
        asks=(
            Ask(
                words="every pool, with another token",
                path="/v1/pools",
                token=WRONG_TOKEN,
                status=401,
                answer=refusal(Kind.BAD_TOKEN),
            ),
        ),
        exit_code=TABLE[Kind.BAD_TOKEN].exit_code,
        token=WRONG_TOKEN,
    ),
    *vector_runs.RUNS,
    *control_runs.RUNS,
)
