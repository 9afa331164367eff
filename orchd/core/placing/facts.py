"""What placement is asked, and what it may know of a replica to answer.

The answer is placement.py's; who gathers these is asking.py.
"""

from __future__ import annotations

from attrs import frozen

from orchd.wire.ids import DeviceMask, EngineId, PoolId, ReplicaId
from orchd.wire.shapes import Placement, PlacementMode, Workload


@frozen(kw_only=True)
class ReplicaFacts:
    """What placement may know of one replica. None: it cannot be seen, and is not guessed."""

    replica_id: ReplicaId
    pool_id: PoolId
    device_mask: DeviceMask
    engine: EngineId
    model_ref: str
    ready: bool
    draining: bool
    fresh: bool
    """Its last snapshot is not older than snapshot.FRESH_S [ORCH-3971]."""
    refusing: bool
    """It turned a job away since its last snapshot."""
    pins_differ: bool
    """Its engine_version or sampler_profile_version is not its set's [ORCH-3046]."""
    ctx_max: int
    max_tokens: int
    sampler_profile_version: str
    workloads: tuple[Workload, ...]
    embedding_dim: int | None = None
    """Numbers of one vector; None: it serves none."""
    strict: bool
    slots_total: int
    leases: int
    """Slots that orchd has given away: cancelled jobs count until their slot is free."""
    vram_free_bytes: int | None
    kv_bytes_per_token: int | None
    """None: the cache was reserved when the model was loaded, or cannot be seen."""
    tokens_per_s: float | None
    """Of one slot, measured; None until a job has run."""
    first_token_ms: float | None
    waiting: int = 0
    """Tasks of its pool that go before this one."""
    shedding: bool = False
    """Its pool refuses the task because it is too slow (shedding.py)."""
    full: bool = False
    """As many wait in its pool as may."""
    start_ms: int = 0
    """When this task would start here; 0: a slot is free and nobody is before it."""


@frozen(kw_only=True)
class Question:
    """What is asked of placement: a task, less what has no say in where it runs."""

    engine: EngineId
    model_ref: str
    workload: Workload
    ctx: int
    max_tokens: int
    expected_tokens: int
    strict: bool
    sampler_profile_version: str | None
    wishes: Placement
    warm_on: ReplicaId | None
    """The session's last good replica (affinity.py)."""
    vectors: int = 0
    """Vectors that an embedding gives back."""
    may_wait: bool
    """True at admission: a task may wait for a slot. False: it gets one now."""

    @property
    def pinned(self) -> bool:
        """Whether the client names the one pool that may take it."""
        return self.wishes.mode is PlacementMode.PIN
