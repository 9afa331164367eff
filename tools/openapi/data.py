"""Each route of the data plane: its shapes, errors and prose.

A route is added by a row here beside the one in orchd/edge/routes.py, and by an entry in
examples.yaml; schemas, error answers and headers follow.
"""

from __future__ import annotations

from typing import Final

from orchd.wire import control, pages, shapes
from orchd.wire.errors import Kind
from tools.openapi.table import (
    BUDGETS,
    EVENTS,
    Cursor,
    EventId,
    Operation,
    PageSize,
    Parameter,
    Reply,
)

_TASK_LINKS: Final = {
    name: {"to": to, "task_id": "task_id"}
    for name, to in (("Status", "getTask"), ("Stream", "streamTask"), ("Cancel", "cancelTask"))
}

ROWS: Final = (
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
                perhaps=BUDGETS,
                links=_TASK_LINKS,
            )
        },
        kinds=(
            Kind.DEADLINE_UNMET,
            Kind.POLICY_DENIED,
            Kind.MODEL_DEPRECATED,
            Kind.UNTRUSTED_ARTIFACT,
            Kind.TASK_ID_REUSED,
            Kind.SESSION_OVER,
            Kind.BUDGET_SHORT,
            Kind.UNSUPPORTED_MEDIA,
            Kind.QUEUE_FULL,
            Kind.QUEUE_FULL_DROP_LRU,
            Kind.SLO_BREACHED,
            Kind.THROTTLED,
            Kind.POOL_UNREADY,
            Kind.POOL_UNAVAILABLE,
            Kind.PINNED_POOL_INFEASIBLE,
            Kind.NO_PREFERRED_FEASIBLE,
            Kind.REPLICA_EXHAUSTED,
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
            Parameter("query", "limit", PageSize, "Tasks on a page; without it 100."),
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
        id="getSession",
        plane="data",
        tag="sessions",
        method="GET",
        path="/v1/sessions/{session_id}",
        summary="Show a session",
        words="Turns, time to live, KV cache, and what is left of its budgets. Asking does not "
        "prolong it.",
        replies={200: Reply("The session.", shapes.SessionStatus)},
        kinds=(Kind.UNKNOWN_ID, Kind.UNKNOWN_ROUTE),
    ),
    Operation(
        id="endSession",
        plane="data",
        tag="sessions",
        method="DELETE",
        path="/v1/sessions/{session_id}",
        summary="End a session",
        words="Its turns, budgets and place are forgotten, also when they are already. Its tasks "
        "go on: cancel them by their own ids. A task with the same id begins a new session.",
        replies={204: Reply("It is forgotten.")},
        kinds=(Kind.UNKNOWN_ID, Kind.UNKNOWN_ROUTE),
    ),
    Operation(
        id="explainPlacement",
        plane="data",
        tag="tasks",
        method="POST",
        path="/v1/placement/explain",
        summary="Explain a placement",
        words="Where this task would go if it came now, and why: every replica of every pool with "
        "the reason that excludes it, the tie-breakers that decided, and what `POST /v1/tasks` "
        "would refuse it with. Nothing is admitted, queued or counted, and it answers also when "
        "nothing is ready.",
        body=shapes.TaskRequest,
        replies={200: Reply("What would become of it.", shapes.PlacementExplained)},
        kinds=(Kind.UNSUPPORTED_MEDIA,),
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
        kinds=(Kind.UNKNOWN_NAME, Kind.UNSUPPORTED_MEDIA, Kind.POOL_UNREADY),
    ),
    Operation(
        id="fetchPage",
        plane="data",
        tag="pages",
        method="POST",
        path="/v1/fetch",
        summary="Fetch a page",
        words="For clients that have no network of their own, by the rules of `policy.fetch` and "
        "`policy.outbound`; off by default. Only GET over https, every redirect is asked about, "
        "and nothing of the client's goes along. The page's own status is in the answer.",
        body=pages.FetchRequest,
        replies={200: Reply("What the other server answered.", pages.Page)},
        kinds=(
            Kind.UNSUPPORTED_MEDIA,
            Kind.FETCH_DENIED,
            Kind.THROTTLED,
            Kind.PAGE_FAILED,
        ),
    ),
)
