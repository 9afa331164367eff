"""OrchQueue v1, data plane: what clients send and read. Field names are the contract's.

Frames of a stream are put into bytes by sse.py; what the control plane says is in control.py.
"""

from __future__ import annotations

import enum
from typing import Any

from attrs import field, frozen

from orchd.wire.errors import Envelope
from orchd.wire.ids import (
    Count,
    DeviceMask,
    EngineId,
    Int64,
    NonNegative,
    PoolId,
    Positive,
    ReplicaId,
    SessionId,
    TaskId,
    Text,
)


class Workload(enum.StrEnum):
    """What is asked of the model."""

    COMPLETION = "completion"
    EMBEDDING = "embedding"
    RERANK = "rerank"


class Priority(enum.StrEnum):
    """The two classes of a pool's queue; interactive goes first."""

    INTERACTIVE = "interactive"
    BATCH = "batch"


class Determinism(enum.StrEnum):
    """Strict: the same request gives the same bytes on any replica of the set [ORCH-3045]."""

    STRICT = "strict"
    BEST_EFFORT = "best_effort"


class KvHint(enum.StrEnum):
    """Whether the client would gain from a warm KV cache."""

    REUSE = "reuse"
    COLD = "cold"


class PlacementMode(enum.StrEnum):
    """How far the client chooses the pool itself."""

    AUTO = "auto"
    PIN = "pin"
    PREFER = "prefer"


class FinishReason(enum.StrEnum):
    """Why a stream ended well."""

    STOP = "stop"
    LENGTH = "length"
    CANCELED = "canceled"


class TaskState(enum.StrEnum):
    """Where a task is in its life (core/state/task.py has the table)."""

    QUEUED = "queued"
    RUNNING = "running"
    ENDED = "ended"
    FAILED = "failed"
    CANCELED = "canceled"


@frozen(kw_only=True)
class Placement:
    """The client's wishes about where the task runs."""

    mode: PlacementMode = PlacementMode.AUTO
    pin_pool_id: PoolId | None = None
    prefer_pools: tuple[PoolId, ...] = ()
    avoid_pools: tuple[PoolId, ...] = ()
    require_device_mask: DeviceMask | None = None
    allow_fallback: bool = True


@frozen(kw_only=True)
class TaskRequest:
    """The body of `POST /v1/tasks`."""

    task_id: TaskId
    session_id: SessionId
    workload: Workload
    model_ref: Text
    engine: EngineId
    ctx: Positive
    priority: Priority
    max_tokens: Positive
    deadline_ms: Positive
    seed: Int64 | None = None
    determinism: Determinism = Determinism.STRICT
    sampler_profile_version: Text | None = None
    prompt: str | None = field(default=None, repr=False)
    """Not in a repr, and so in no traceback; nor is anything else that a user or a model wrote."""
    inputs: tuple[str, ...] | None = field(default=None, repr=False)
    expected_tokens: Positive | None = None
    kv_hint: KvHint | None = None
    placement: Placement | None = None
    output_mode: str | None = None


@frozen(kw_only=True)
class TaskAccepted:
    """The body of the 202."""

    task_id: TaskId
    queue_position: Count
    """Tasks before it in its pool: 0 starts next, or at once."""
    predicted_start_ms: Count
    """Milliseconds from now until its first work on a GPU; 0 when a slot is free."""
    predicted_start_p90_ms: Count
    backoff_ms: Count
    """How long to wait before sending more work of this priority to this pool."""
    pool_id: PoolId
    stream_url: str


@frozen(kw_only=True)
class Started:
    """Data of the `started` frame: the first of every stream, written at admission."""

    queue_position: Count
    predicted_start_ms: Count
    correlation_id: str
    pool_id: PoolId
    replica_id: ReplicaId | None = None
    engine_version: str | None = None
    kv_warmth: bool = False
    kv_migrated: bool = False
    tokens_used: Count | None = None
    """By its session so far, in and out [ORCH-3105]."""
    tokens_remaining: Count | None = None
    """What its session may still ask for beside this task; only with a budget."""


@frozen(kw_only=True)
class Token:
    """Data of a `token` frame. sse.py writes it by hand: it is the hot path."""

    t: str = field(repr=False)
    """A piece of text: whole characters, not always a whole token of the model."""
    i: Count
    """Its index: 0, 1, 2, ..."""


@frozen(kw_only=True)
class MetricsFrame:
    """Data of a `metrics` frame. May be dropped; carries the id of the frame before it."""

    queue_depth: Count
    on_time_probability: float
    kv_warmth: bool = False
    queue_position: Count | None = None
    predicted_start_ms: Count | None = None
    predicted_start_p90_ms: Count | None = None
    """Nine in ten tasks start before this."""
    replica_id: ReplicaId | None = None
    tokens_per_s: float | None = None
    tokens_budget_remaining: Count | None = None
    """Of its session, as are the next two: what is neither used nor reserved [OC-METRICS-7111]."""
    time_budget_remaining_ms: Count | None = None
    cost_budget_remaining: NonNegative | None = None


@frozen(kw_only=True)
class Narration:
    """Data of a `narration` frame: one human sentence beside its machine-readable halves."""

    human: str
    actor: str
    action: str
    target: str


@frozen(kw_only=True)
class Ended:
    """Data of the `end` frame."""

    tokens_out: Count
    decode_time_ms: Count
    decode_ms: Count
    """The same number under its older name [ORCH-3310]."""
    finish_reason: FinishReason
    tokens_in: Count | None = None
    result: Any = field(default=None, repr=False)
    """Of an embedding `{dimension, embeddings: [[number]]}`, one vector for each input in order. Of
    a rerank `{ranking: [{index, score}]}`, the best first; `index` counts documents from 0, and
    document 0 is `inputs[1]`."""


@frozen(kw_only=True)
class Timings:
    """What `GET /v1/tasks/{id}` says of time, all in milliseconds."""

    queue_time_ms: Count | None = None
    first_token_ms: Count | None = None
    decode_time_ms: Count | None = None


@frozen(kw_only=True)
class Candidate:
    """One replica that placement looked at, and why it was not taken (None: it could be)."""

    replica_id: ReplicaId
    pool_id: PoolId | None = None
    excluded: str | None = None
    vram_free_bytes: Count | None = None
    active_slots: Count | None = None
    predicted_start_ms: Count | None = None
    predicted_end_ms: Count | None = None
    """Left out until the replica has measured its tokens per second."""


@frozen(kw_only=True)
class DecisionLog:
    """Why a task went where it went [ORCH-3906]."""

    selected: ReplicaId | None = None
    """None, and so left out: no replica could be taken at once."""
    pool_id: PoolId | None = None
    """Where it runs, or waits."""
    reason: str | None = None
    """Why no pool could be taken: no_capacity, pinned_pool_infeasible, no_preferred_feasible."""
    considered: tuple[Candidate, ...]
    filters_applied: tuple[str, ...]
    tie_breakers_applied: tuple[str, ...]
    pinned: bool = False
    fallback_used: bool = False
    snapshot_version: Count = Count(0)


class PlacementOutcome(enum.StrEnum):
    """What would become of a task."""

    ASSIGNED = "assigned"
    """It would run at once."""
    QUEUED = "queued"
    REFUSED = "refused"


@frozen(kw_only=True)
class PlacementExplained:
    """The body of `POST /v1/placement/explain`: what would become of a task that came now."""

    outcome: PlacementOutcome
    pool_id: PoolId | None = None
    replica_id: ReplicaId | None = None
    """None: it would wait, and its replica is chosen when a slot is free."""
    queue_position: Count | None = None
    predicted_start_ms: Count | None = None
    predicted_end_ms: Count | None = None
    """Left out until the replica has measured its tokens per second."""
    kv_warmth: bool = False
    refusal: Envelope | None = None
    """What `POST /v1/tasks` would answer."""
    decision: DecisionLog
    """Over all replicas of all pools, each with the reason why it cannot be taken."""


@frozen(kw_only=True)
class TaskStatus:
    """The body of `GET /v1/tasks/{id}`: never prompt or output."""

    task_id: TaskId
    session_id: SessionId
    state: TaskState
    pool_id: PoolId
    priority: Priority
    engine: EngineId
    model_ref: str
    queue_position: Count | None = None
    predicted_start_ms: Count | None = None
    predicted_start_p90_ms: Count | None = None
    replica_id: ReplicaId | None = None
    kv_warmth: bool = False
    """Its replica served the session last, and the job reads what that left in the KV cache."""
    kv_migrated: bool = False
    """Never: a session that goes elsewhere begins cold."""
    decision: DecisionLog | None = None
    timings: Timings = Timings()
    tokens_in: Count | None = None
    tokens_out: Count = Count(0)
    finish_reason: FinishReason | None = None
    error: str | None = None
    """The error code of a failed task."""
    correlation_id: str


@frozen(kw_only=True)
class TaskStatuses:
    """The body of `GET /v1/tasks`: the newest first. `next_cursor`: there may be older ones."""

    tasks: tuple[TaskStatus, ...]
    next_cursor: str | None = None


@frozen(kw_only=True)
class SessionStatus:
    """The body of `GET /v1/sessions/{id}`: metadata only."""

    ttl_ms_remaining: Count
    """Until it is forgotten, were no task sent; all of it while one waits or runs."""
    turns: Count
    """Tasks that were admitted."""
    kv_bytes: Count
    """Of its KV cache, as engines tell it; 0 where they tell nothing of one session."""
    kv_warmth: bool
    """A next turn like the last would find its KV cache."""
    tokens_budget_remaining: Count | None = None
    time_budget_remaining_ms: Count | None = None
    cost_budget_remaining: NonNegative | None = None
