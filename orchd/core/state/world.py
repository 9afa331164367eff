"""All state of the core in one place: pools, tasks, timers, counts.

Nothing here decides: front.py and whom it calls change it, the views read it, the invariants check
it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

from attrs import frozen

from orchd.core.given.cards import Models
from orchd.core.given.spec import PoolSpec
from orchd.core.limits.budgets import UNBOUNDED, Budget
from orchd.core.limits.throttle import Rates, Throttle
from orchd.core.limits.timers import Timers
from orchd.core.placing.affinity import Affinity
from orchd.core.state.decisions import Decisions
from orchd.core.state.pool import Pool
from orchd.core.state.replica import Replica
from orchd.core.state.sessions import Sessions
from orchd.core.state.tally import Tally
from orchd.core.state.task import Task
from orchd.core.state.version import Version
from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import EngineId, PoolId, ReplicaId, TaskId
from orchd.wire.shapes import TaskRequest

TimerKind = Literal["deadline", "fresh", "moved", "retain", "reload", "session", "watch"]


@frozen(kw_only=True)
class Limits:
    """Bounds of the core that no pool has of its own."""

    retain_s: float = 600.0
    """An ended task is known for so long."""
    retain_max: int = 5000
    """And at most so many of them: seconds of one-token tasks at full speed, some 5 KiB each."""
    retain_tokens: int = 1_000_000
    """And at most so many tokens of theirs: their streams are kept for replay, some 60 bytes each
    [SSE-1001]. The last one that ended is kept whatever its length."""
    attempts_max: int = 3
    """Starts of one task that die before a token; then it fails: a prompt that kills engines
    must not go round for ever."""
    queued_bytes: int = 256 << 20
    """Memory that the prompts of all waiting tasks may take: 320 tasks of 8 MiB in each of some
    pools would be gigabytes. What comes back from a lost replica, and one prompt alone, may go over
    it."""
    rates: Rates = Rates()
    """Of each identity."""
    moved_cap: int = 64
    """Queue positions that are told when they move."""
    moved_period_s: float = 0.25
    """A pool's queue is told at most this often."""
    affinity_s: float = 600.0
    """A session is drawn to its last replica for so long: the default TTL of a session
    [ORCH-3021]."""
    affinity_max: int = 10_000
    """Sessions whose last replica is known: some 200 bytes each."""
    unready_retry_s: float = 5.0
    """What a client of a pool that is not ready is told to wait: a poolmgr's usual restart."""
    session_ttl_s: float = 600.0
    """A session is kept for so long without a task [ORCH-3021]."""
    session_turns: int = 8
    """And for at most so many tasks."""
    sessions_idle_max: int = 10_000
    """Sessions without a task that are kept, some 600 bytes each."""
    budget: Budget = UNBOUNDED
    """Of each session."""


class World:
    """The state. One door changes it."""

    def __init__(self, specs: Sequence[PoolSpec], limits: Limits) -> None:
        self.limits = limits
        self.version = Version()
        """Of the topology: bumped by what changes in pools and replicas."""
        self.pools: dict[PoolId, Pool] = {}
        """By id, and in the order of ids."""
        self.serving: dict[tuple[EngineId, str], list[Pool]] = {}
        self.home: dict[ReplicaId, Pool] = {}
        self.engines: frozenset[EngineId] = frozenset()
        self.add(specs)
        self.tasks: dict[TaskId, Task] = {}
        """All that are known, in the order of admission."""
        self.retained: OrderedDict[TaskId, float] = OrderedDict()
        """Tasks that are over, oldest first, and when each is forgotten."""
        self.retained_tokens = 0
        self.throttle = Throttle(limits.rates)
        self.queued_bytes = 0
        """Memory of the prompts of all waiting tasks."""
        self.timers: Timers[tuple[TimerKind, str]] = Timers()
        self.tally = Tally()
        self.models = Models()
        self.sessions = Sessions(limits.session_ttl_s, limits.sessions_idle_max)
        self.draining = False
        self.admitted = 0
        self.affinity = Affinity(limits.affinity_s, limits.affinity_max)
        self.decisions = Decisions()

    def add(self, specs: Sequence[PoolSpec]) -> None:
        """Take pools in. Raises ValueError when two share an id or a replica."""
        pools = [*self.pools.values(), *(Pool(spec=s, version=self.version) for s in specs)]
        by_id = {p.spec.pool_id: p for p in sorted(pools, key=lambda p: p.spec.pool_id)}
        if len(by_id) != len(pools):
            raise ValueError("two pools have the same id")
        home = {replica: pool for pool in by_id.values() for replica in pool.replicas}
        if len(home) != sum(len(pool.spec.replica_ids) for pool in pools):
            raise ValueError("two pools have the same replica")
        self.pools, self.home = by_id, home
        self.engines = frozenset(pool.spec.engine for pool in pools)
        self.index()
        self.version.bump()

    def index(self) -> None:
        """Find out anew which pools serve which model: at the start, and after a reload."""
        self.serving.clear()
        for pool in self.pools.values():
            self.serving.setdefault((pool.spec.engine, pool.spec.model_ref), []).append(pool)

    def serves(self, pool: Pool, request: TaskRequest) -> bool:
        """Return whether a pool serves the model that a task names."""
        return pool in self.serving.get((request.engine, request.model_ref), ())

    def task(self, task_id: TaskId) -> Task:
        """Raises OrchError(UNKNOWN_ID)."""
        task = self.tasks.get(task_id)
        if task is None:
            raise OrchError(Kind.UNKNOWN_ID, f"no task {task_id} is known")
        return task

    def pool(self, pool_id: PoolId) -> Pool:
        """Raises OrchError(UNKNOWN_NAME)."""
        pool = self.pools.get(pool_id)
        if pool is None:
            known = ", ".join(self.pools) or "none"
            shown = pool_id[:63]  # no pool's id is longer
            raise OrchError(Kind.UNKNOWN_NAME, f"no pool {shown} is configured (known: {known})")
        return pool

    def replica(self, replica_id: ReplicaId) -> Replica:
        """Raises KeyError: nothing but configured replicas is linked."""
        return self.home[replica_id].replicas[replica_id]
