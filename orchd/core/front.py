"""The one door of the core: `Front.handle(event, now) -> list[Effect]`, and read-only views.

`now` is monotonic seconds. Signatures first; the body is being written.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from attrs import frozen

from orchd.core.events import Effect, Event
from orchd.core.pool import PoolSpec
from orchd.wire.control import Capabilities, PoolHealth, QueueDepths
from orchd.wire.ids import PoolId, TaskId
from orchd.wire.shapes import MetricsFrame, TaskState, TaskStatus


@frozen(kw_only=True)
class Limits:
    """Bounds of the core that no pool has of its own."""

    retain_s: float = 600.0
    """An ended task is known for so long."""
    retain_max: int = 1000
    """And at most so many of them."""
    attempts_max: int = 3
    """Starts of one task that die before a token; then it fails."""
    moved_cap: int = 64
    """Queue positions that are told when they move."""
    moved_period_s: float = 0.25
    """A pool's queue is told at most this often."""
    unready_retry_s: float = 5.0
    """What a client of a pool that is not ready is told to wait."""


class Front:
    """The state of admission, queues, placement and tasks. One trio task owns it."""

    def __init__(self, specs: Sequence[PoolSpec], limits: Limits = Limits()) -> None:
        raise NotImplementedError

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take one event; return what is to be done, in order."""
        raise NotImplementedError

    # read-only views: no effects, nothing changes

    def task_status(self, task_id: TaskId, now: float) -> TaskStatus:
        """Raises OrchError(UNKNOWN_ID)."""
        raise NotImplementedError

    def metrics_frame(self, task_id: TaskId, now: float) -> MetricsFrame:
        """Return what a `metrics` frame of this task says now. Raises OrchError(UNKNOWN_ID)."""
        raise NotImplementedError

    def tasks(
        self, *, state: TaskState | None = None, after: int = 0, limit: int = 100
    ) -> Iterable[tuple[int, TaskId]]:
        """Return (cursor, id) by order of admission, past the cursor `after`, at most `limit`."""
        raise NotImplementedError

    def pool_health(self, pool_id: PoolId, now: float) -> PoolHealth:
        """Raises OrchError(UNKNOWN_ID)."""
        raise NotImplementedError

    def pools(self, now: float) -> tuple[PoolHealth, ...]:
        """Return the health of every pool, by id."""
        raise NotImplementedError

    def queue_depth(self, pool_id: PoolId) -> QueueDepths:
        """Raises OrchError(UNKNOWN_ID)."""
        raise NotImplementedError

    def capabilities(self, now: float) -> Capabilities:
        """Return what can be asked for, pools of one engine, model and version together."""
        raise NotImplementedError

    def counters(self) -> dict[str, dict[tuple[str, ...], float]]:
        """Return metric name -> label values (in the contract's order) -> count."""
        raise NotImplementedError

    def gauges(self, now: float) -> dict[str, dict[tuple[str, ...], float]]:
        """Return the same for gauges, from the queues, the leases and the snapshots."""
        raise NotImplementedError
