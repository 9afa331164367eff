"""Which prompts must be counted before they are admitted, and which replica is asked for that.

Pure questions to the state; the edge asks the replica (edge/tokens.py), and admission.py refuses a
prompt that is too long.
"""

from __future__ import annotations

from typing import Final

from orchd.core import admission, models
from orchd.core.pool import Replica
from orchd.core.world import World
from orchd.wire.control import MAX_TEXT_BYTES
from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import ReplicaId
from orchd.wire.shapes import TaskRequest, Workload

ADDED_TOKENS: Final = 3
"""What a tokenizer adds to a text: a token of the beginning, one of the end, and the space that
SentencePiece puts before the first word."""


def may_overflow(request: TaskRequest) -> bool:
    """Return whether the prompt could be too long for `max_tokens` to fit into `ctx` behind it.

    Each token of a text stands for at least one of its bytes: byte-level BPE and SentencePiece have
    256 tokens for single bytes as their smallest. A special token that is written in the text
    (`<s>`) is one token for several bytes. A normaliser that makes a text longer could break this;
    the engine refuses what is too long even so, in the stream.
    """
    if request.workload is not Workload.COMPLETION or request.prompt is None:
        return False
    most = len(request.prompt.encode()) + ADDED_TOKENS
    return most + request.max_tokens > request.ctx


def most_tokens(request: TaskRequest) -> int:
    """Return how many tokens prompt or inputs have at most."""
    texts = request.inputs or () if request.prompt is None else (request.prompt,)
    return sum(len(text.encode()) + ADDED_TOKENS for text in texts)


def counted_by(
    world: World, request: TaskRequest, identity: str, now: float, *, tight: bool = False
) -> ReplicaId | None:
    """Return the replica that is to count the prompt; None: it need not, or cannot, be counted.

    `tight`: its session's budget hangs on it (turns.tight).
    Nothing is asked for a task that is known already or would be refused anyhow.
    """
    needed = tight or may_overflow(request)
    if not needed or request.task_id in world.tasks or world.draining:
        return None
    if request.prompt is None or len(request.prompt.encode()) > MAX_TEXT_BYTES:
        return None
    try:
        world.throttle.check(identity, request, None, now)
        admitted = admission.admit(world, models.resolved(world, request, now), None, now)
    except OrchError:
        return None  # Submit says it
    return _idlest(admitted.pool.servable(now))


def tokenized_by(world: World, model_ref: str, now: float) -> ReplicaId:
    """Return a replica that serves the model now. Raises OrchError(UNKNOWN_ID, POOL_UNREADY)."""
    model_ref = models.reference(world, model_ref)
    pools = [pool for pool in world.pools.values() if pool.spec.model_ref == model_ref]
    if not pools:
        served = ", ".join(sorted({model for _, model in world.serving})) or "nothing"
        raise OrchError(
            Kind.UNKNOWN_ID,
            f"$.model_ref: no pool serves {model_ref} (served: {served})",
            path="$.model_ref",
        )
    ready = [replica for pool in pools for replica in pool.servable(now)]
    if not ready:
        raise admission.unready(world, pools[0], now)
    return _idlest(ready)


def _idlest(replicas: list[Replica]) -> ReplicaId:
    return min(replicas, key=lambda r: (len(r.leases), r.replica_id)).replica_id
