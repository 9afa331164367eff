"""Why a replica cannot take a task: one table, and the first row that hits is the reason.

Which of those that can takes it is placement.py's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from orchd.core.placing.facts import Question, ReplicaFacts
from orchd.wire.results import MAX_NUMBERS

AVOIDED: Final = "avoided"
NOT_PINNED: Final = "not_pinned"
NOT_PREFERRED: Final = "not_preferred"
DEVICE_MASK: Final = "device_mask"
KV_BYTES: Final = "kv_bytes"
QUEUE_FULL: Final = "queue_full"
SHEDDING: Final = "shedding"
"""Why a replica is left out, where admission has more to say of it."""

Check = Callable[[ReplicaFacts, Question], bool]


def _kv_short(replica: ReplicaFacts, asked: Question) -> bool:
    each, free = replica.kv_bytes_per_token, replica.vram_free_bytes
    return each is not None and free is not None and each * asked.ctx > free


FILTERS: Final[tuple[tuple[str, Check], ...]] = (
    (AVOIDED, lambda r, q: r.pool_id in q.wishes.avoid_pools),
    (NOT_PINNED, lambda r, q: q.pinned and r.pool_id != q.wishes.pin_pool_id),
    ("engine_mismatch", lambda r, q: r.engine != q.engine),
    ("model_mismatch", lambda r, q: r.model_ref != q.model_ref),
    (DEVICE_MASK, lambda r, q: q.wishes.require_device_mask not in (None, r.device_mask)),
    ("draining", lambda r, _: r.draining),
    ("not_ready", lambda r, _: not r.ready),
    ("stale", lambda r, _: not r.fresh),
    ("pins_differ", lambda r, _: r.pins_differ),
    ("ctx", lambda r, q: r.ctx_max < q.ctx),
    ("max_tokens", lambda r, q: r.max_tokens < q.max_tokens),
    (
        "sampler_profile",
        lambda r, q: q.sampler_profile_version not in (None, r.sampler_profile_version),
    ),
    ("workload", lambda r, q: q.workload not in r.workloads),
    ("vectors", lambda r, q: q.vectors * (r.embedding_dim or 0) > MAX_NUMBERS),
    ("not_strict", lambda r, q: q.strict and not r.strict),
    (KV_BYTES, _kv_short),
    (SHEDDING, lambda r, q: r.shedding and q.may_wait),
    (QUEUE_FULL, lambda r, q: r.full and q.may_wait),
    ("refusing", lambda r, q: r.refusing and not q.may_wait),
    ("no_slot", lambda r, q: r.leases >= r.slots_total and not q.may_wait),
)
"""In this order; the first that hits is the reason that the log gives. A replica is one mask, and
only its own poolmgr touches it [ORCH-3011]: the filter is for a client that requires one."""
FILTER_NAMES: Final = (*(name for name, _ in FILTERS), NOT_PREFERRED)


def why_not(replica: ReplicaFacts, asked: Question) -> str | None:
    """Return why a replica cannot take the task, whatever the others are; None when it can."""
    for name, hits in FILTERS:
        if hits(replica, asked):
            return name
    return None
