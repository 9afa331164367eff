"""What can happen to the core (Event), and what it wants done about it (Effect): closed unions.

The edge turns bytes and timers into events, hands them to `Front.handle`, and carries out the
effects in their order. How the core decides is in the other modules of this room.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from attrs import frozen

from orchd.core.budgets import Left
from orchd.core.cards import ModelCard
from orchd.core.spec import PoolSpec
from orchd.core.workloads import Longest
from orchd.wire import link
from orchd.wire.errors import OrchError
from orchd.wire.ids import PoolId, ReplicaId, SessionId, TaskId
from orchd.wire.results import Ready
from orchd.wire.shapes import Ended, Started, TaskAccepted, TaskRequest
from orchd.wire.snapshot import Cause, Snapshot

CancelReason = Literal["client", "disconnect", "shutdown"]
Level = Literal["debug", "info", "warning", "error"]
Histogram = Literal["latency_first_token_ms", "latency_decode_ms", "predicted_start_error_ms"]


# Events


@frozen
class Submit:
    """A client sent a task. Among the effects is one Accepted or one Refused."""

    request: TaskRequest
    digest: bytes
    """A hash of the canonical body: the same id with the same digest is the same task."""
    correlation_id: str
    identity: str = ""
    """Who asked, for the log. Never a secret."""
    prompt_tokens: int | None = None
    """The exact length of the prompt, where it is known before admission."""
    longest: Longest | None = None
    """The same of the longest of several inputs."""


@frozen
class Cancel:
    """Somebody wants a task to end. Idempotent; an id that is not known gives Refused."""

    task_id: TaskId
    reason: CancelReason
    tokens_out: int = 0
    """Token frames in the stream's log at this instant: what the `end` frame will say."""


@frozen
class ReplicaSeen:
    """A STATE arrived on a replica's link; it refreshes the replica."""

    snapshot: Snapshot


@frozen
class ReplicaLost:
    """A replica's link is down: none of its jobs will be heard of again."""

    replica_id: ReplicaId
    cause: Cause


@frozen
class Progress:
    """A job has put out so many tokens since it began.

    The first one goes in with the first token, before that token is written to a reader: from then
    on the job is not run again elsewhere. The later ones are for prediction, a few a second.
    """

    task_id: TaskId
    tokens_out: int


@frozen
class JobEnded:
    """END: the job ran to its end and its slot is free."""

    task_id: TaskId
    end: link.End
    result: Ready | None = None
    """What came in RESULT before it."""


@frozen
class JobFailed:
    """FAIL: the job broke and its slot is free."""

    task_id: TaskId
    fail: link.Fail


@frozen
class JobFreed:
    """FREED: the answer to a CANCEL; the slot is free."""

    task_id: TaskId
    tokens_out: int = 0
    """What the engine put out in all, as FREED says it."""


@frozen
class EndSession:
    """A client is done with a session: it is forgotten, and its tasks go on. Idempotent."""

    session_id: SessionId


@frozen
class DrainPool:
    """Somebody wants a pool to take no more work. Refused: why not."""

    pool_id: PoolId
    deadline_ms: int


@frozen
class ReloadPool:
    """Somebody wants a pool to serve another model. Refused: why not."""

    pool_id: PoolId
    model_ref: str


@frozen
class ReloadRefused:
    """A replica did not take an AskReload."""

    replica_id: ReplicaId
    error: OrchError


@frozen
class Tick:
    """The time that WakeAt asked for has come. Early and extra ones do no harm."""


@frozen
class CatalogChanged:
    """The catalog is as these cards say from now on; tasks that were admitted go on."""

    cards: tuple[ModelCard, ...]


@frozen
class PoolsAdded:
    """The configuration was read again and has pools that are new."""

    specs: tuple[PoolSpec, ...]


@frozen
class DrainAll:
    """The daemon stops: nothing new is admitted, what was admitted goes on."""


Event = (
    Submit
    | Cancel
    | ReplicaSeen
    | ReplicaLost
    | Progress
    | JobEnded
    | JobFailed
    | JobFreed
    | EndSession
    | Tick
    | CatalogChanged
    | PoolsAdded
    | DrainAll
    | DrainPool
    | ReloadPool
    | ReloadRefused
)


# Effects


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
