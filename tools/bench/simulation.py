"""A pool in time that is made up: jobs come, run and end, and the core is told. Nothing waits.

Drives the pure core (`Front.handle`) from a heap of moments, with poolmgr's own measuring of rates
(`poolmgr.core.slots`), and keeps what was promised to each task beside what became of it. The
workloads are in workloads.py, what is made of the records in calibration.py.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Sequence
from typing import Final

from attrs import define, field, frozen

from orchd.core.effects import Accepted, Break, CancelJob, Dispatch, Effect, Finish, WakeAt
from orchd.core.events import JobEnded, JobFreed, Progress, ReplicaSeen, Submit, Tick
from orchd.core.front import Front, Limits, PoolSpec
from orchd.wire import link
from orchd.wire.ids import Count, EngineId, PoolId, ReplicaId, SessionId, TaskId
from orchd.wire.shapes import FinishReason, Priority, TaskRequest, Workload
from orchd.wire.snapshot import Phase, Snapshot
from poolmgr.core.slots import Slots

POOL: Final = "sim"
MODEL: Final = "mock:lorem"
BEAT_S: Final = 1.0
"""Snapshots, and the progress of running jobs."""
ASK_S: Final = 20.0
"""Every so often some waiting and running tasks are asked for their probability."""
NOISE: Final = 0.05
"""Standard deviation of a job's own rate about its replica's."""
FREED_S: Final = 0.05
"""From a cancel to the free slot."""
MAX_TOKENS: Final = 100_000


@frozen(kw_only=True)
class Job:
    """One task as it will come."""

    at: float
    tokens: int
    """What it will put out."""
    max_tokens: int
    expected_tokens: int | None = None
    priority: Priority = Priority.INTERACTIVE
    deadline_s: float = 36_000.0


@frozen(kw_only=True)
class Machine:
    """One replica."""

    slots: int
    rate: Callable[[float], float]
    """Tokens per second of one slot, at a time."""
    first_token_s: float = 0.2


@define(kw_only=True)
class Record:
    """What was said of a task, and what became of it. Times since the beginning, in seconds."""

    job: Job
    start_at: float
    p90_at: float
    chance: float
    """on_time_probability at its admission."""
    jobs_ahead: int
    started_at: float | None = None
    ended_at: float | None = None
    broken_at: float | None = None
    """When its deadline took it out of the queue."""
    asked: list[float] = field(factory=list)
    """What it was told later of its chance."""

    @property
    def waited(self) -> bool:
        """Whether it was told to wait: what starts at once needs no prediction."""
        return self.p90_at > self.job.at

    @property
    def covered(self) -> bool | None:
        """Whether it started before p90; None when its deadline took it before that was known."""
        if self.started_at is not None:
            return self.started_at <= self.p90_at
        return False if self.broken_at is not None and self.broken_at >= self.p90_at else None

    @property
    def in_time(self) -> bool:
        """Whether it ended by its deadline."""
        return self.ended_at is not None and self.ended_at <= self.job.at + self.job.deadline_s


class Simulation:
    """One run."""

    def __init__(self, machines: Sequence[Machine], jobs: Sequence[Job], seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311  (a simulation, no secret)
        self.machines = {ReplicaId(f"{POOL}:{i}"): m for i, m in enumerate(machines)}
        self.slots = {replica: Slots(m.slots) for replica, m in self.machines.items()}
        spec = PoolSpec(
            pool_id=PoolId(POOL),
            engine=EngineId("mock"),
            model_ref=MODEL,
            ctx=2 * MAX_TOKENS,
            max_tokens=MAX_TOKENS,
            slots=max(m.slots for m in machines),
            replica_ids=tuple(self.machines),
            queue_interactive=len(jobs) + 1,
            queue_batch=len(jobs) + 1,
            sampler_profile_version="v1",
        )
        self.front = Front([spec], Limits(moved_period_s=1e9, retain_max=len(jobs) + 1))
        self.records: dict[TaskId, Record] = {}
        self.running: dict[TaskId, tuple[float, float]] = {}
        """When each put out its first token, and tokens per second from then."""
        self.refused = 0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0
        self.now = 0.0
        self._open = len(jobs)
        self._sequence = 0
        for number, job in enumerate(jobs):
            self._at(job.at, lambda number=number, job=job: self._come(number, job))  # type: ignore[misc]
        self._beat()

    def run(self) -> list[Record]:
        """Go on until every job is over."""
        while self._open:
            self.now, _, act = heapq.heappop(self._heap)
            act()
        return list(self.records.values())

    def _at(self, when: float, act: Callable[[], None]) -> None:
        self._order += 1
        heapq.heappush(self._heap, (when, self._order, act))

    def _come(self, number: int, job: Job) -> None:
        task_id = TaskId(f"00000000-0000-4000-8000-{number:012d}")
        request = TaskRequest(
            task_id=task_id,
            session_id=SessionId(task_id),
            workload=Workload.COMPLETION,
            model_ref=MODEL,  # type: ignore[arg-type]
            engine=EngineId("mock"),
            ctx=2 * MAX_TOKENS,  # type: ignore[arg-type]
            priority=job.priority,
            max_tokens=job.max_tokens,  # type: ignore[arg-type]
            expected_tokens=job.expected_tokens,  # type: ignore[arg-type]
            deadline_ms=round(job.deadline_s * 1000),  # type: ignore[arg-type]
            prompt="",
        )
        effects = self.front.handle(Submit(request, b"", "c"), self.now)
        accepted = next((e.accepted for e in effects if isinstance(e, Accepted)), None)
        if accepted is None:
            self.refused += 1
            self._open -= 1
        else:
            self.records[task_id] = Record(
                job=job,
                start_at=self.now + accepted.predicted_start_ms / 1000,
                p90_at=self.now + accepted.predicted_start_p90_ms / 1000,
                chance=self.front.metrics_frame(task_id, self.now).on_time_probability,
                jobs_ahead=accepted.queue_position,
            )
        self._do(effects)

    def _do(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Dispatch():
                    self._start(effect)
                case CancelJob(task_id):
                    self._cancel(task_id)
                case Finish(task_id):
                    self.records[task_id].ended_at = self.now
                    self._open -= 1
                case Break(task_id):
                    self.records[task_id].broken_at = self.now
                    self._open -= 1
                case WakeAt(when):
                    self._at(when, lambda: self._do(self.front.handle(Tick(), self.now)))
                case _:
                    pass

    def _start(self, sent: Dispatch) -> None:
        record, machine = self.records[sent.task_id], self.machines[sent.replica_id]
        record.started_at = self.now
        rate = machine.rate(self.now) * max(0.2, self.random.gauss(1.0, NOISE))
        first = machine.first_token_s * max(0.2, self.random.gauss(1.0, 2 * NOISE))
        self._at(self.now + first, lambda: self._first(sent.task_id, rate))
        done = self.now + first + (record.job.tokens - 1) / rate
        self._at(done, lambda: self._end(sent, first, done))

    def _first(self, task_id: TaskId, rate: float) -> None:
        if self.records[task_id].broken_at is None:
            self.running[task_id] = (self.now, rate)
            self._do(self.front.handle(Progress(task_id, 1), self.now))

    def _cancel(self, task_id: TaskId) -> None:
        since, rate = self.running.pop(task_id, (self.now, 0.0))
        tokens = int((self.now - since) * rate)
        freed = JobFreed(task_id, tokens)
        self._at(self.now + FREED_S, lambda: self._do(self.front.handle(freed, self.now)))

    def _end(self, sent: Dispatch, first: float, done: float) -> None:
        if self.records[sent.task_id].broken_at is not None:
            return  # it was stopped before its end
        self.running.pop(sent.task_id, None)
        record = self.records[sent.task_id]
        assert record.started_at is not None
        tokens = record.job.tokens
        self.slots[sent.replica_id].measured(tokens, first, done - record.started_at)
        said = link.End(
            tokens_in=Count(1),
            tokens_out=Count(tokens),
            first_token_ms=Count(round(first * 1000)),
            decode_ms=Count(round((done - record.started_at) * 1000)),
            finish_reason=FinishReason.STOP,
        )
        self._do(self.front.handle(JobEnded(sent.task_id, said), self.now))

    def _beat(self) -> None:
        self._sequence += 1
        for replica, slots in self.slots.items():
            snapshot = Snapshot(
                seq=Count(self._sequence),
                pool_id=PoolId(POOL),
                replica_id=replica,
                device_mask=replica.partition(":")[2],  # type: ignore[arg-type]
                phase=Phase.READY,
                ready=True,
                draining=False,
                status="ready",
                engine=EngineId("mock"),
                engine_version="1.0",
                sampler_profile_version="v1",
                model_ref=MODEL,
                ctx_max=2 * MAX_TOKENS,  # type: ignore[arg-type]
                slots_total=slots.total,  # type: ignore[arg-type]
                slots_active=Count(0),
                tokens_per_s=slots.tokens_per_s,  # type: ignore[arg-type]
                first_token_ms=slots.first_token_ms,  # type: ignore[arg-type]
            )
            self._do(self.front.handle(ReplicaSeen(snapshot), self.now))
        for task_id, (since, rate) in list(self.running.items()):
            tokens = 1 + int((self.now - since) * rate)
            self._do(self.front.handle(Progress(task_id, tokens), self.now))
        if self._sequence % int(ASK_S / BEAT_S) == 0:
            waiting = self.front.world.pools[PoolId(POOL)].queue.first(4)
            for task_id in [*waiting, *list(self.running)[:4]]:
                frame = self.front.metrics_frame(task_id, self.now)
                self.records[task_id].asked.append(frame.on_time_probability)
        self._at(self.now + BEAT_S, self._beat)
