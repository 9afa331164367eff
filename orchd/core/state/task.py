"""A task's life as a table (state x step -> state), and what the core keeps of one task.

The table is drawn in specs/machines/task.md. Which step a given event is, front.py decides.
"""

from __future__ import annotations

import enum
from operator import attrgetter
from types import MappingProxyType
from typing import Final

from attrs import define, field, fields

from orchd.core.effects import Accepted
from orchd.core.events import CancelReason
from orchd.core.learning.predict import Promise
from orchd.core.state.sessions import Turn
from orchd.wire.ids import PoolId, ReplicaId, TaskId
from orchd.wire.shapes import (
    DecisionLog,
    FinishReason,
    TaskRequest,
    TaskState,
    Workload,
)


class Life(enum.StrEnum):
    """Where a task is, more finely than clients are told."""

    QUEUED = "queued"
    STARTING = "starting"
    """Sent to a replica, no token yet: it may still run elsewhere."""
    STREAMING = "streaming"
    """A token is out: it ends here or fails."""
    RELEASING = "releasing"
    """Canceled for the client; the replica has not said yet that its slot is free."""
    STOPPING = "stopping"
    """Stopped by a watchdog, which its client was told; the slot is not free yet."""
    ENDED = "ended"
    FAILED = "failed"
    CANCELED = "canceled"


class Step(enum.StrEnum):
    """What can happen to a task."""

    DISPATCH = "dispatch"
    TOKEN = "token"  # noqa: S105  (a token of text)
    END = "end"
    FAIL = "fail"
    REQUEUE = "requeue"
    """Its replica was lost, or refused it, before a token."""
    CANCEL = "cancel"
    FREE = "free"
    """Its slot is free after a cancel or a stop, however that came to be known."""
    EXPIRE = "expire"
    """Its deadline passed while it waited."""
    ORPHAN = "orphan"
    """Its pool serves another model now."""
    STOP = "stop"
    """A watchdog took it from its replica."""
    DROP = "drop"
    """It gave its place in a full queue to another."""


TOKEN_BYTES: Final = 60  # of the frame of a token, on the average
FINAL: Final = frozenset({Life.ENDED, Life.FAILED, Life.CANCELED})
RUNNING: Final = frozenset({Life.STARTING, Life.STREAMING})
LEAVING: Final = frozenset({Life.RELEASING, Life.STOPPING})
"""Over for the client, while the slot is not free yet."""
LEASED: Final = RUNNING | LEAVING
"""States in which the task holds a slot."""

TABLE: Final = MappingProxyType(
    {
        (Life.QUEUED, Step.DISPATCH): Life.STARTING,
        (Life.QUEUED, Step.CANCEL): Life.CANCELED,
        (Life.QUEUED, Step.EXPIRE): Life.FAILED,
        (Life.QUEUED, Step.DROP): Life.FAILED,
        (Life.QUEUED, Step.ORPHAN): Life.FAILED,
        (Life.STARTING, Step.TOKEN): Life.STREAMING,
        (Life.STARTING, Step.END): Life.ENDED,
        (Life.STARTING, Step.FAIL): Life.FAILED,
        (Life.STARTING, Step.REQUEUE): Life.QUEUED,
        (Life.STARTING, Step.CANCEL): Life.RELEASING,
        (Life.STARTING, Step.STOP): Life.STOPPING,
        (Life.STREAMING, Step.TOKEN): Life.STREAMING,
        (Life.STREAMING, Step.END): Life.ENDED,
        (Life.STREAMING, Step.FAIL): Life.FAILED,
        (Life.STREAMING, Step.CANCEL): Life.RELEASING,
        (Life.STREAMING, Step.STOP): Life.STOPPING,
        (Life.RELEASING, Step.TOKEN): Life.RELEASING,
        (Life.RELEASING, Step.CANCEL): Life.RELEASING,
        (Life.RELEASING, Step.FREE): Life.CANCELED,
        (Life.STOPPING, Step.TOKEN): Life.STOPPING,
        (Life.STOPPING, Step.CANCEL): Life.STOPPING,
        (Life.STOPPING, Step.FREE): Life.FAILED,
        (Life.ENDED, Step.CANCEL): Life.ENDED,
        (Life.FAILED, Step.CANCEL): Life.FAILED,
        (Life.CANCELED, Step.CANCEL): Life.CANCELED,
    }
)

_PUBLIC: Final = {
    Life.QUEUED: TaskState.QUEUED,
    Life.STARTING: TaskState.RUNNING,
    Life.STREAMING: TaskState.RUNNING,
    Life.RELEASING: TaskState.CANCELED,
    Life.STOPPING: TaskState.FAILED,
    Life.ENDED: TaskState.ENDED,
    Life.FAILED: TaskState.FAILED,
    Life.CANCELED: TaskState.CANCELED,
}


class IllegalStepError(Exception):
    """A step that the table does not have. Nothing was changed."""

    def __init__(self, state: Life, step: Step) -> None:
        super().__init__(f"a task that is {state} cannot take the step {step}")
        self.state = state
        self.step = step


def step(state: Life, taken: Step) -> Life:
    """Return the state after `taken`. Raises IllegalStepError."""
    after = TABLE.get((state, taken))
    if after is None:
        raise IllegalStepError(state, taken)
    return after


_KEPT: Final = tuple(a.name for a in fields(TaskRequest) if a.name not in ("prompt", "inputs"))
_kept: Final = attrgetter(*_KEPT)


def expected_tokens(request: TaskRequest) -> int:
    """Return how many tokens the task will probably put out; at least 1.

    The client's own estimate, or its limit. Embedding and rerank put out none: they count as one.
    """
    if request.workload is not Workload.COMPLETION:
        return 1
    return min(request.expected_tokens or request.max_tokens, request.max_tokens)


def content_bytes(request: TaskRequest) -> int:
    """Return the memory that prompt and inputs take. O(1) for a prompt of any length.

    That is up to four times their bytes on the wire: a str of Python has 1, 2 or 4 for a character.
    """
    inputs = request.inputs or ()
    texts = inputs if request.prompt is None else (request.prompt, *inputs)
    return sum(text.__sizeof__() for text in texts) + inputs.__sizeof__()


@define(kw_only=True, eq=False)
class Task:
    """What the core keeps of one task. Times are of the clock of `now`, in seconds."""

    number: int
    """Order of admission, from 1; also the cursor of listings."""
    request: TaskRequest
    task_id: TaskId = field(init=False)
    """Its id, also the job's id [ORCH-3024]."""
    digest: bytes
    correlation_id: str
    pool_id: PoolId
    turn: Turn
    answer: Accepted | None = None
    """What its submitter was told: a repeat is told the same."""
    admitted_at: float
    life: Life = Life.QUEUED
    expected: int = field(init=False)
    """Tokens as its queue counts them: the client's estimate, or what forecast.py makes of it."""
    content_bytes: int = field(init=False)
    """Memory of its prompt or inputs."""
    replica_id: ReplicaId | None = None
    """Where it runs, or ran last."""
    engine_version: str = ""
    kv_warm: bool = False
    """Its replica was the session's last, and the job may read what is left of it there."""
    decision: DecisionLog | None = None
    promise: Promise | None = None
    """What was said at admission of a start that was not at once; None once it has started."""
    attempts: int = 0
    dispatched_at: float | None = None
    first_token_at: float | None = None
    progress_at: float = 0.0
    ended_at: float | None = None
    tokens_in: int | None = None
    tokens_out: int = 0
    result_bytes: int = 0
    """Of the result that its stream keeps."""
    decode_ms: int | None = None
    finish_reason: FinishReason | None = None
    cancel_reason: CancelReason | None = None
    error: str | None = None
    """The code that its client was told."""
    told: tuple[int, float] | None = None
    """Position and predicted start (absolute) that its stream was told last."""

    def __attrs_post_init__(self) -> None:
        self.task_id = self.request.task_id
        self.expected = expected_tokens(self.request)
        self.content_bytes = content_bytes(self.request)

    @property
    def state(self) -> TaskState:
        """Its state as clients are told."""
        return _PUBLIC[self.life]

    @property
    def kept(self) -> int:
        """What its stream holds for replay, in tokens: a result counts by its bytes."""
        return self.tokens_out + self.result_bytes // TOKEN_BYTES

    @property
    def deadline_at(self) -> float:
        """When its deadline passes."""
        return self.admitted_at + self.request.deadline_ms / 1000

    def take(self, taken: Step) -> None:
        """Go to the next state. Raises IllegalStepError."""
        self.life = step(self.life, taken)

    def drop_content(self) -> None:
        """Let go of prompt and inputs: an ended task is metadata only."""
        kept = dict(zip(_KEPT, _kept(self.request), strict=True))  # three times as fast as evolve
        self.request = TaskRequest(**kept)
