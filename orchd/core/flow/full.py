"""What a pool without room does: the policies `reject`, `drop-lru` and `shed-low-priority`.

Pure questions. Under the two latter a pool's places are shared: batch has at most its own,
interactive may take all, and nothing is dropped while a place is free. Who leaves is taken out by
endings.py; whether there is room is queue.py's.
"""

from __future__ import annotations

from orchd.core.state.pool import Pool
from orchd.core.state.task import Task, content_bytes
from orchd.core.state.world import World
from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import TaskId
from orchd.wire.policy import FullPolicy
from orchd.wire.shapes import Priority, TaskRequest


def victim(pool: Pool, priority: Priority) -> TaskId | None:
    """Return the waiting batch task that would make room; None: nothing may be dropped. O(1)."""
    batch = pool.queue.classes[Priority.BATCH]
    if not pool.queue.room(priority, gone=1):
        return None  # tasks that came back from a lost replica take more than the places
    match pool.spec.full_policy:
        case FullPolicy.DROP_LRU:
            return next(iter(batch), None)  # [ORCH-3904]
        case FullPolicy.SHED_LOW_PRIORITY if priority is Priority.INTERACTIVE:
            return next(reversed(batch), None)
    return None


def refusal(pool: Pool, priority: Priority, wait_ms: int) -> OrchError:
    """Return the 429 of a task that finds no room; a place is free in `wait_ms`."""
    policy, queue = pool.spec.full_policy, pool.queue
    waiting = len(queue.classes[priority])
    other = ", and nothing may be dropped for it" if queue.shared else ""
    return OrchError(
        Kind.QUEUE_FULL_DROP_LRU if policy is FullPolicy.DROP_LRU else Kind.QUEUE_FULL,
        f"the {priority} queue of pool {pool.spec.pool_id} is full ({waiting} {priority} of "
        f"{len(queue)} tasks wait){other}; a place is free in about {wait_ms} ms",
        engine=pool.spec.engine,
        pool_id=pool.spec.pool_id,
        retry_after_ms=wait_ms,
        policy_label=policy,
    )


def dropped(pool: Pool, task: Task, wait_ms: int) -> OrchError:
    """Return what a task's stream is told that gives its place to another."""
    lru = pool.spec.full_policy is FullPolicy.DROP_LRU
    return OrchError(
        Kind.DROPPED if lru else Kind.SHED,
        f"it was the {'oldest' if lru else 'newest'} batch task that waited in pool "
        f"{task.pool_id} when {'a' if lru else 'an interactive'} task found no room there; "
        f"there may be room in about {wait_ms} ms",
        engine=pool.spec.engine,
        pool_id=task.pool_id,
        retry_after_ms=wait_ms,
        policy_label=pool.spec.full_policy,
    )


def check_memory(
    world: World, pool: Pool, request: TaskRequest, leaves: TaskId | None, wait_ms: int
) -> None:
    """Raise OrchError(QUEUE_FULL) when the prompt would be too much beside those that wait.

    `leaves`: the task that would make room. One prompt alone is never too much: its size has a
    bound of its own, that of a body.
    """
    size, limit = content_bytes(request), world.limits.queued_bytes
    held = world.queued_bytes - (world.tasks[leaves].content_bytes if leaves else 0)
    if held and held + size > limit:
        raise OrchError(
            Kind.QUEUE_FULL,
            f"the prompts that wait take {world.queued_bytes >> 20} MiB of the "
            f"{limit >> 20} MiB that they may take in all pools (queued_prompts_mb), and this one "
            f"needs {size >> 10} KiB; the next task of pool {pool.spec.pool_id} starts in about "
            f"{wait_ms} ms",
            engine=pool.spec.engine,
            pool_id=pool.spec.pool_id,
            retry_after_ms=wait_ms,
            policy_label=FullPolicy.REJECT,
        )
