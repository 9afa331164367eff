"""What the core wants done: a closed union. The edge carries effects out in their order.

What makes the core want them is in events.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from attrs import frozen

from orchd.core.events import CancelReason
from orchd.core.limits.budgets import Left
from orchd.wire.errors import OrchError
from orchd.wire.ids import ReplicaId, TaskId
from orchd.wire.shapes import Ended, Started, TaskAccepted, TaskRequest

Level = Literal["debug", "info", "warning", "error"]
Histogram = Literal["latency_first_token_ms", "latency_decode_ms", "predicted_start_error_ms"]


@frozen
class Accepted:
    """Answer 202. When `fresh`, make the task's stream and write `started` as its first frame."""

    task_id: TaskId
    accepted: TaskAccepted
    started: Started
    fresh: bool
    """False: this repeats an earlier admission; the stream is there already."""
    left: Left = Left()
    """What its session may ask for beside it: headers of the 202."""


@frozen
class Refused:
    """Answer the submitter, or the canceller, with this error."""

    error: OrchError


@frozen
class Dispatch:
    """Send OPEN on the replica's link. One slot is leased to the task from now on."""

    task_id: TaskId
    replica_id: ReplicaId
    request: TaskRequest
    correlation_id: str


@frozen
class CancelJob:
    """Send CANCEL on the replica's link. Its answer is JobFreed (or JobEnded, if they crossed)."""

    task_id: TaskId
    replica_id: ReplicaId


@frozen
class Seal:
    """From now on write no token frame of this task to any reader [ORCH-3026]. Finish follows."""

    task_id: TaskId
    reason: CancelReason


@frozen
class Finish:
    """Write the `end` frame; the stream is complete."""

    task_id: TaskId
    ended: Ended


@frozen
class Break:
    """Write the `error` frame; the stream is complete."""

    task_id: TaskId
    error: OrchError


@frozen
class Moved:
    """The numbers of a queued task changed: a `metrics` frame, which may be dropped.

    Only the first `Limits.moved_cap` tasks of a pool's queue are told, and not more often than
    `Limits.moved_period_s`: the cost of a start or an end does not grow with the queue.
    """

    task_id: TaskId
    queue_position: int
    predicted_start_ms: int
    queue_depth: int
    """Tasks waiting in the pool, both classes."""
    on_time_probability: float
    """0 to 1: that it ends within its deadline."""
    predicted_start_p90_ms: int
    """Nine in ten tasks start before this."""


@frozen
class Forget:
    """The task's retention is over: drop its stream."""

    task_id: TaskId


@frozen
class AskDrain:
    """Send `POST /drain` to the replica's poolmgr."""

    replica_id: ReplicaId
    deadline_ms: int


@frozen
class AskReload:
    """Send `POST /reload` to the replica's poolmgr. Its snapshots tell the rest, or ReloadRefused
    that it did not take it."""

    replica_id: ReplicaId
    model_ref: str
    digest: str | None = None
    """That the model must have; None: what the configuration says of it, or whatever it has."""


@frozen
class WakeAt:
    """Send a Tick at `when` (the clock of `now`). It replaces the wish before it."""

    when: float


@frozen
class Note:
    """Something worth a line in the log: one sentence, and its fields by their names [ORCH-3027].

    A value of None is not known and is left out of the log.
    """

    name: str
    human: str
    level: Level
    fields: Mapping[str, object]


@frozen
class Observe:
    """One observation of a histogram, labels in the order of the metrics contract.

    The first token counts from admission, decoding from OPEN, the error of the prediction is the
    real start minus the predicted one.
    """

    metric: Histogram
    engine: str
    engine_version: str
    pool_id: str
    priority: str
    value_ms: float


Effect = (
    Accepted
    | Refused
    | Dispatch
    | CancelJob
    | Seal
    | Finish
    | Break
    | Moved
    | Forget
    | AskDrain
    | AskReload
    | WakeAt
    | Note
    | Observe
)
