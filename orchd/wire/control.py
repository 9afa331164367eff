"""OrchQueue v1, control plane: capabilities, pool health, worker registration."""

from __future__ import annotations

from typing import Final

from attrs import field, frozen

from orchd.wire.ids import Count, Digest, EngineId, PoolId, Positive, ReplicaId, Text
from orchd.wire.shapes import Priority, Workload
from orchd.wire.snapshot import Cause, Snapshot

API_VERSION: Final = "1.0.0"
"""Of OrchQueue: `info.version` of the OpenAPI documents."""
MAX_TEXT_BYTES: Final = 1 << 20
"""Of a text whose tokens are asked for, in UTF-8: about 256k tokens. Its escaped JSON fits into a
body, and its answer does not hold up the streams for long."""


MAX_DRAIN_MS: Final = 24 * 3_600_000
"""A day: longer than any job, and a slip of a few zeros is noticed."""


@frozen(kw_only=True)
class QueueDepths:
    """Tasks waiting, and how many may."""

    interactive: Count
    batch: Count


@frozen(kw_only=True)
class Capability:
    """One engine and model as they can be used now."""

    engine: EngineId
    engine_version: str
    sampler_profile_version: str
    model_ref: str
    ctx_max: Positive
    max_tokens_out: Positive
    supported_workloads: tuple[Workload, ...]
    concurrency: Count
    """Jobs that run at the same time over the ready replicas [HME-012]."""
    slots_total: Count
    rate_limits: dict[str, float]
    """Of each identity: requests_per_s and burst, tokens_per_min; empty when nothing is throttled
    [ORCH-3006]."""
    features: tuple[str, ...]
    pools: tuple[PoolId, ...]


@frozen(kw_only=True)
class Capabilities:
    """The body of `GET /v1/capabilities`."""

    api_version: str
    engines: tuple[Capability, ...]


@frozen(kw_only=True)
class ReplicaHealth:
    """One replica in a pool's health."""

    replica_id: ReplicaId
    live: bool
    """Its poolmgr answers and its snapshots are fresh."""
    snapshot: Snapshot | None = None
    last_error: Cause | None = None


@frozen(kw_only=True)
class PoolMetrics:
    """The figures of a pool's health."""

    queue_depth: QueueDepths
    queue_capacity: QueueDepths
    slots_total: Count
    slots_active: Count
    vram_total_bytes: Count
    vram_free_bytes: Count
    tokens_per_s: float | None = None
    first_token_ms: float | None = None
    predicted_start_ms: dict[Priority, int]


@frozen(kw_only=True)
class SloHealth:
    """What a pool promises, and whether it holds it."""

    first_token_ms: Positive
    """From admission to the first token."""
    state: str
    """`closed`; `open`: load is shed; `half_open`: a few tasks are let in as a test."""
    late_share: float | None = None
    """Of the first tokens of the window, 0 to 1; None: too few say anything."""
    opened: Count
    """How often load was shed since orchd started."""
    retry_after_ms: Count | None = None
    """Until the next test; None while closed."""


@frozen(kw_only=True)
class PoolHealth:
    """The body of `GET /v1/pools/{id}/health`, and one item of `GET /v1/pools`."""

    pool_id: PoolId
    engine: EngineId
    model_ref: str
    live: bool
    ready: bool
    draining: bool
    metrics: PoolMetrics
    reloading: str | None = None
    """The model that it is being reloaded with."""
    slo: SloHealth | None = None
    """None: it promises nothing."""
    last_error: Cause | None = None
    replicas: tuple[ReplicaHealth, ...]


@frozen(kw_only=True)
class Pools:
    """The body of `GET /v1/pools`."""

    pools: tuple[PoolHealth, ...]


@frozen(kw_only=True)
class WorkerRegistration:
    """The body of `POST /v1/workers/register`: a poolmgr is Ready and asks for its link."""

    pool_id: PoolId
    replica_id: ReplicaId
    engine: EngineId
    engine_version: Text
    sampler_profile_version: Text
    slots_total: Positive
    model_ref: Text | None = None
    model_digest: Text | None = None
    ubatch: Positive | None = None
    flash_attention: Text | None = None


@frozen(kw_only=True)
class Registered:
    """The answer to a registration: the link is being made."""

    status: str = "registered"


@frozen(kw_only=True)
class TokenizeRequest:
    """The body of `POST /v1/tokenize`."""

    model_ref: Text
    text: str = field(repr=False)


@frozen(kw_only=True)
class PoolTokenize:
    """The body of `POST /tokenize` on a pool's socket."""

    text: str = field(repr=False)
    tokens: bool = True
    """False: only the count is wanted."""


@frozen(kw_only=True)
class Tokens:
    """The answer to both: the tokens of a text as the engine would read it as a prompt."""

    count: Count
    tokens: tuple[Count, ...] | None = None


@frozen(kw_only=True)
class Health:
    """The body of `/health`, `/healthz` and `/readyz`."""

    status: str
    reasons: tuple[str, ...] = ()
    version: str


@frozen(kw_only=True)
class DrainRequest:
    """The body of `POST /v1/pools/{id}/drain`, and of `POST /drain` on a pool's socket."""

    deadline_ms: Positive
    """For running jobs; at most MAX_DRAIN_MS."""


@frozen(kw_only=True)
class ReloadRequest:
    """The body of `POST /v1/pools/{id}/reload`, and of `POST /reload` on a pool's socket."""

    new_model_ref: Text
    digest: Digest | None = None
    """That the model's files must have, else the reload fails and the old model serves on. None:
    whatever they have; of the model that the configuration names, what that says."""


def model_ref_fault(model_ref: str) -> str | None:
    """Return what is wrong with the model of a reload: it becomes an argument of a program."""
    if model_ref.isprintable() and not model_ref.startswith("-"):
        return None
    return "$.new_model_ref: must be printable characters, the first of them no -"


@frozen(kw_only=True)
class PoolControl:
    """The answer to both: it has begun."""

    pool_id: PoolId
    status: str
    """`draining` or `reloading`."""
