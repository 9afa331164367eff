"""What can happen to the core: a closed union.

The edge turns bytes and timers into events and hands them to `Front.handle`. What the core wants
done about them is in effects.py, how it decides in the other modules of this room.
"""

from __future__ import annotations

from typing import Literal

from attrs import frozen

from orchd.core.given.cards import ModelCard
from orchd.core.given.spec import PoolSpec
from orchd.core.limits.workloads import Longest
from orchd.wire import link
from orchd.wire.errors import OrchError
from orchd.wire.ids import PoolId, ReplicaId, SessionId, TaskId
from orchd.wire.results import Ready
from orchd.wire.shapes import TaskRequest
from orchd.wire.snapshot import Cause, Snapshot

CancelReason = Literal["client", "disconnect", "shutdown"]


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
    digest: str | None = None
    """That the model must have; None: whatever it has."""


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
