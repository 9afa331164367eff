"""What a poolmgr says of its replica: the STATE message of the link, `GET /state` and `/health`.

A snapshot is whole: it replaces the one before it. It is sent on every change and as a heartbeat.
"""

from __future__ import annotations

import enum
from typing import Final

from attrs import frozen

from orchd.wire.errors import Kind
from orchd.wire.ids import (
    Count,
    DeviceMask,
    Digest,
    EngineId,
    NonNegative,
    PoolId,
    Positive,
    ReplicaId,
)
from orchd.wire.shapes import Workload

HEARTBEAT_S: Final = 1.0
FRESH_S: Final = 5.0
"""A snapshot older than this is not placed on [ORCH-3971]: five heartbeats lost."""


class Phase(enum.StrEnum):
    """Where a replica is on its way to Ready, and past it (poolmgr/core/life.py has the table)."""

    DEVICES = "devices"
    PROVISIONING = "provisioning"
    LOADING = "loading"
    SELF_TEST = "self_test"
    READY = "ready"
    EMPTYING = "emptying"
    """Drained on request: running jobs end."""
    DRAINED = "drained"
    """Drained on request: no job runs, the model stays loaded."""
    RELOADING = "reloading"
    """A new engine loads beside the one that serves."""
    REPLACING = "replacing"
    """The engine makes room for one with the new model."""
    RESTORING = "restoring"
    """The new model failed: the old one is loaded again."""
    SLEEPING = "sleeping"
    """The machine is about to sleep, or sleeps: no job is taken, the model stays loaded."""
    WAKING = "waking"
    """The machine is awake again: driver, GPUs and engine are probed."""
    DRAINING = "draining"
    STOPPING = "stopping"
    FAILED = "failed"


class GpuProof(enum.StrEnum):
    """How we know that the engine runs on the masked GPUs."""

    VERIFIED = "verified"
    """NVML lists the engine's process on exactly these devices."""
    ATTESTED = "attested, not verified"
    """The operator says so; the process cannot be seen."""
    SIMULATED = "simulated"
    """There is no GPU: demo devices, mock engine."""
    PENDING = "pending"


@frozen(kw_only=True)
class Cause:
    """Why a replica is not, or was not, ready: the last error."""

    kind: Kind
    message: str
    advice: str


class Outcome(enum.StrEnum):
    """How a reload went."""

    RUNNING = "running"
    READY = "ready"
    """The new model serves."""
    FAILED = "failed"
    """The old model stays; `last_error` says why."""


class Gate(enum.StrEnum):
    """Where one of the three gates to Ready stands [ORCH-3421]."""

    PENDING = "pending"
    PASSED = "passed"
    FAILED = "failed"
    """`last_error` says why."""


@frozen(kw_only=True)
class Gates:
    """The three gates to Ready, each after the one before it."""

    model: Gate = Gate.PENDING
    """The model is staged, and has its digest where one is given."""
    engine: Gate = Gate.PENDING
    """The engine's program is there, the model fits, and it was started (or is attached to)."""
    health: Gate = Gate.PENDING
    """It serves, and has passed the self-test."""


@frozen(kw_only=True)
class Canary:
    """What a reload's new engine did with the golden prompt, before jobs were sent to it."""

    tokens: Count
    """That it generated; 0 in a pool without completions."""
    sha256: str | None = None
    """Of its answer, in UTF-8: what `canary.expect_sha256` is compared with."""
    tokens_per_s: NonNegative | None = None
    """None: the answer was too short, or came too fast, to be measured."""
    old_tokens_per_s: NonNegative | None = None
    """Of one slot of the engine that it is to replace; None until that has run a job."""
    vram_bytes: Count | None = None
    """What it holds on its GPUs; None where NVML does not say."""
    vram_planned_bytes: Count | None = None
    """What the check before its start counted; None where a part of it is not known."""


@frozen(kw_only=True)
class Reload:
    """The last reload in one life of a poolmgr."""

    number: Positive
    """Grows by one with each."""
    model_ref: str
    """What was asked for."""
    outcome: Outcome
    gap: bool = False
    """There is no room for both engines: nothing is served from the old one's end until the new
    one, or the old one again, is ready."""
    canary: Canary | None = None
    """None until the new engine has answered it."""


@frozen(kw_only=True)
class Device:
    """One GPU of the mask."""

    index: Count
    uuid: str
    name: str
    vram_total_bytes: Count
    vram_used_bytes: Count
    utilization_percent: Count | None = None
    compute_capability: str | None = None


@frozen(kw_only=True)
class DeviceEvents:
    """What the driver told of one GPU in one life of a poolmgr."""

    index: Count
    reason: str
    """`driver_reset`, `gpu_xid`, `gpu_ecc`, or `application_xid`: a program's fault."""
    count: Positive


@frozen(kw_only=True)
class Snapshot:
    """One replica at one moment."""

    seq: Count
    """Grows by one with each snapshot of one life of a poolmgr."""
    pool_id: PoolId
    replica_id: ReplicaId
    device_mask: DeviceMask
    phase: Phase
    ready: bool
    draining: bool
    status: str
    """One sentence: what systemctl status shows."""
    engine: EngineId
    engine_version: str
    sampler_profile_version: str
    model_ref: str
    engine_digest: str | None = None
    """`sha256:<hex>` of the program or image that was brought for it; None: nobody hashed one."""
    model_digest: str | None = None
    fetched_digest: Digest | None = None
    """Of the model's files where `model_ref` was fetched, once it is in the cache; from before its
    engine starts. None: it is a file, or not here yet."""
    ubatch: Positive | None = None
    """Micro-batch size; it changes the output, as flash attention does. None: not known."""
    flash_attention: str | None = None
    """`on`, `off` or `auto`, as the engine was told. None: not known."""
    configured_model_ref: str | None = None
    """The model of its configuration, where a reload gave it another."""
    reload: Reload | None = None
    instance: str | None = None
    """A UUID of this life of the poolmgr."""
    gates: Gates | None = None
    gpu_proof: GpuProof = GpuProof.PENDING
    workloads: tuple[Workload, ...] = (Workload.COMPLETION,)
    embedding_dim: Positive | None = None
    """Numbers of one vector, as the self-test saw it; None: no embeddings are served."""
    strict: bool = True
    """Whether strict jobs are taken: jobs beside them cannot change their bytes [ORCH-3045]."""
    ctx_max: Positive
    slots_total: Positive
    slots_active: Count
    devices: tuple[Device, ...] = ()
    vram_total_bytes: Count = Count(0)
    vram_free_bytes: Count = Count(0)
    """Of the mask: the sum over its devices."""
    ram_used_bytes: Count = Count(0)
    """Of the engine's process tree."""
    kv_bytes_per_token: Count | None = None
    """What the KV cache takes for each token of context. None: it cannot be seen."""
    kv_reserved: bool | None = None
    """True: the engine reserved the cache when it loaded the model (llama.cpp does), so a job takes
    none of the free VRAM, and ctx_max says it all. None: it takes its cache as it goes."""
    kv_cache_usage_ratio: NonNegative | None = None
    tokens_per_s: NonNegative | None = None
    """Of one slot, smoothed; None until one job has run."""
    first_token_ms: NonNegative | None = None
    device_events: tuple[DeviceEvents, ...] | None = None
    """None: the driver told nothing."""
    last_error: Cause | None = None
    engine_pid: Count | None = None
