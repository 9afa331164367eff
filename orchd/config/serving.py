"""What can be configured of what orchd itself serves: streams, artifacts, throttles, sessions, TLS.

The top-level keys are in schema.py.
"""

from __future__ import annotations

import enum

from attrs import frozen

from orchd.wire.ids import Count, NonNegative, Positive, Text


@frozen(kw_only=True)
class Sse:
    """Streams to clients."""

    channel_cap: Positive = Positive(32)
    """Only 32 in this version: a slow reader is caught up from its task's log, by no channel."""
    microbatch_ms: Count = Count(0)
    """Milliseconds that a token may wait for the next, 0 to 50, so that both leave in one write; 0:
    none does. The first of a stream never waits."""
    heartbeat_ms: Positive = Positive(15_000)
    """Milliseconds of silence after which a comment keeps a stream alive."""
    narration_period_ms: Count = Count(0)
    """Milliseconds between sentences on how a running task stands, in steps of 250 up to an hour;
    0: narration comes at start, cancel and end only."""
    metrics_period_ms: Positive = Positive(1000)
    """Milliseconds between metrics frames of a running task, in steps of 250; a waiting one is told
    when its place or its time has changed."""


class JobTrace(enum.StrEnum):
    """What is kept of a job that is over."""

    OFF = "off"
    RECORD = "record"
    TRANSCRIPT = "transcript"


@frozen(kw_only=True)
class ArtifactBounds:
    """What is stored in state_dir of agents' work: with POST /v1/artifacts, and by orchd itself."""

    max_mb: Positive = Positive(1024)
    """MiB that all of them together may take; what does not fit is refused (507)."""
    max_count: Positive = Positive(10_000)
    """How many there may be; one more is refused (507). Each takes up to 8 KiB of memory."""
    jobs: JobTrace = JobTrace.OFF
    """What orchd leaves of each job that is over, as an artifact with the tag job:TASK_ID. record:
    its figures, never a prompt. transcript: also the frames of its stream, the model's words."""
    max_jobs: Positive = Positive(1000)
    """Records of jobs that are kept; the oldest makes room for the next, and for what agents
    store."""


@frozen(kw_only=True)
class Throttle:
    """How fast one identity (the token, a user of the socket, loopback) may send tasks."""

    requests_per_s: NonNegative = NonNegative(0.0)
    """Tasks a second that are let in; 0: no limit."""
    burst: Positive = Positive(10)
    """Tasks that may come at once after a while of silence."""
    tokens_per_min: Count = Count(0)
    """Tokens a minute, of prompts and max_tokens together; 0: no limit."""


@frozen(kw_only=True)
class Budget:
    """What one session may use in its life; without a key there is no bound."""

    tokens: Positive | None = None
    """Tokens of prompts and of answers together."""
    time_ms: Positive | None = None
    """Milliseconds on a GPU."""
    cost: NonNegative | None = None
    """In the unit of the pools' prices."""


@frozen(kw_only=True)
class Sessions:
    """Sessions: tasks with the same session_id."""

    ttl_ms: Positive = Positive(600_000)
    """Milliseconds without a task after which a session is forgotten."""
    max_turns: Positive = Positive(8)
    """Tasks of a session; the next one ends it and is refused."""
    max_idle: Positive = Positive(10_000)
    """Sessions without a task that are kept; the one idle longest makes room."""
    budget: Budget = Budget()


@frozen(kw_only=True)
class Tls:
    """TLS on the TCP address: HTTP/2 by ALPN, and HTTP/1.1. Unix sockets stay plain."""

    cert: Text
    """PEM file with the certificate chain, the server's own first."""
    key: Text
    """PEM file with its private key, without a passphrase; readable by the user of orchd."""
