"""One pool as orchd sees it: what was configured, and its replicas with their leases.

Queues are in queue.py, the choice among replicas in placement.py.
"""

from __future__ import annotations

from attrs import frozen

from orchd.wire.ids import EngineId, PoolId, ReplicaId


@frozen(kw_only=True)
class PoolSpec:
    """What the configuration says of a pool."""

    pool_id: PoolId
    engine: EngineId
    model_ref: str
    ctx: int
    """Tokens of context that one task may ask for."""
    max_tokens: int
    slots: int
    """Of each replica, as configured; what a replica really has is in its snapshot."""
    replica_ids: tuple[ReplicaId, ...]
    queue_interactive: int
    """Tasks that may wait."""
    queue_batch: int
    sampler_profile_version: str
