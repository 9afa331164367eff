"""What orchd leaves of a job that is over: figures and, on request, what its client was told.

Never a prompt. How it becomes an artifact is catalog/jobs.py's.
"""

from __future__ import annotations

from typing import Final

from attrs import field, frozen

from orchd.wire.errors import Envelope
from orchd.wire.ids import Count, EngineId, Int64, PoolId, Positive, ReplicaId, SessionId, TaskId
from orchd.wire.shapes import (
    DecisionLog,
    Determinism,
    FinishReason,
    Priority,
    TaskState,
    Timings,
    Workload,
)

OUTPUT_MODES: Final = frozenset({"text", "json", "edits"})
"""Values of `output_mode` that mean something: others are ignored, and so not kept [ORCH-3102]."""


@frozen(kw_only=True)
class JobRecord:
    """The content of a job's artifact [ORCH-3350]. What is not known is left out."""

    task_id: TaskId
    session_id: SessionId
    correlation_id: str
    state: TaskState
    """ended, failed or canceled."""
    workload: Workload
    priority: Priority
    engine: EngineId
    engine_version: str | None = None
    model_ref: str
    model_digest: str | None = None
    """Where the configuration names it."""
    pool_id: PoolId
    replica_id: ReplicaId | None = None
    """Where it ran last; none: it never left the queue."""
    ctx: Positive
    max_tokens: Positive
    deadline_ms: Positive
    seed: Int64 | None = None
    determinism: Determinism
    sampler_profile_version: str | None = None
    """As the client asked for it."""
    output_mode: str | None = None
    kv_warmth: bool
    attempts: Count
    """How often it was sent to a replica."""
    decision: DecisionLog | None = None
    timings: Timings
    tokens_in: Count | None = None
    tokens_out: Count
    finish_reason: FinishReason | None = None
    cancel_reason: str | None = None
    error: Envelope | None = None
    """What its client was told in the `error` frame."""
    transcript: str | None = field(default=None, repr=False)
    """The frames of its stream, as they went to readers; only where they are asked for."""
    transcript_cut: bool = False
    """Later frames are left out: they would have been too many bytes."""
