"""The core alone, in this process: a step by how many wait, and a crowd over many pools.

No daemon, no socket: what is measured is `Front.handle`. What a task costs in the daemons is in
admission.py and standing.py.
"""

from __future__ import annotations

import gc
import heapq
import os
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from functools import partial
from types import FrameType
from typing import Final

from attrs import define, field

from orchd.core.effects import Accepted, Break, Dispatch, Effect, Finish
from orchd.core.events import Cancel, Event, JobEnded, ReplicaSeen, Submit
from orchd.core.front import Front, PoolSpec
from orchd.wire import ids
from orchd.wire.link import End
from orchd.wire.shapes import FinishReason, Priority, TaskRequest, Workload
from orchd.wire.snapshot import Phase, Snapshot
from tools.bench import proc
from tools.bench.figures import Figure

CURVE: Final = "The core alone: CPU of a step, by how many are queued (us)"
CROWD: Final = "The core alone: a crowd"
SIZES: Final = (100_000, 10_000, 1_000, 100, 10)  # the largest first: memory that is fresh
STEPS: Final = 200
ROUNDS: Final = 5
MODEL: Final = "mock:lorem"
RATE: Final = 20_000.0
"""Tokens per second of a simulated slot: a job takes milliseconds, so snapshots stay few."""
AGE_S: Final = 4.0
"""So often a replica is heard of."""


def curve(_runs: int) -> list[Figure]:
    """What enqueue, dequeue and cancel cost with 10 to 100,000 waiting, and the memory of each."""
    figures = []
    for size in SIZES:
        kib, costs = cost_us(size)
        what = f"{size:,} queued"
        figures += [
            Figure(section=CURVE, what=what, who=step, runs=(least,))
            for step, least in costs.items()
        ]
        if size == SIZES[0]:
            memory = Figure(section=CURVE, what=what, who="memory of each (KiB)", runs=(kib,))
            figures.append(memory)
    return figures[::-1]


def crowd(_runs: int) -> list[Figure]:
    """A million tasks over a thousand pools."""
    began = time.process_time()
    done = Crowd(pools=1000).run(1_000_000)
    spent = time.process_time() - began
    told = {
        "tasks": float(done.admitted),
        "ended": float(done.ends["ended"]),
        "canceled": float(done.ends["canceled"]),
        "dropped or late": float(done.ends["broken"]),
        "refused": float(done.refused),
        "most waiting at once": float(done.most_waiting),
        "CPU of a task, with its simulation (us)": spent / (done.admitted + done.refused) * 1e6,
        "batch: longest wait, as a share of its bound": done.longest,
    }
    return [Figure(section=CROWD, what=w, who="core", runs=(v,)) for w, v in told.items()]


# one pool, many waiting


def cost_us(size: int) -> tuple[float, dict[str, float]]:
    """Return KiB of memory for each waiting task, and the CPU of each kind of step with so many.

    The least of several rounds: what else the machine does only adds to it.
    """
    gc.collect()
    before = proc.rss_kib(os.getpid())
    line = Line(size)
    kib = (proc.rss_kib(os.getpid()) - before) / size
    found: dict[str, list[float]] = defaultdict(list)
    for _ in range(ROUNDS):
        fresh = [line.next_request() for _ in range(2 * STEPS)]
        gone = [request.task_id for request in fresh[STEPS:]]
        for step, each in (
            ("enqueue", [partial(line.submit, request) for request in fresh]),
            ("dequeue", [line.end] * STEPS),
            ("cancel", [partial(line.cancel, task_id) for task_id in gone]),
        ):
            begin = time.process_time()
            for one in each:
                one()
            found[step].append((time.process_time() - begin) / len(each))
    return kib, {step: min(times) * 1e6 for step, times in found.items()}


def calls(size: int) -> dict[str, int]:
    """Return how many functions each kind of step calls with so many waiting: exact, not timed."""
    line = Line(size)
    line.submit(line.next_request())
    line.end()
    fresh = line.next_request()
    return {
        "enqueue": _counted(lambda: line.submit(fresh)),
        "cancel": _counted(lambda: line.cancel(fresh.task_id)),
        "dequeue": _counted(line.end),
    }


class Line:
    """One pool with one slot, which is taken, and `size` tasks that wait."""

    def __init__(self, size: int) -> None:
        self.front = Front([_spec("demo", size + 10 * STEPS)])
        self.front.handle(_seen("demo", 1), 0.0)
        self._number = 0
        self._running = ids.TaskId("")
        for _ in range(size + 1):
            self.submit(self.next_request())

    def next_request(self) -> TaskRequest:
        """Return a fresh task."""
        self._number += 1
        return _request(self._number, MODEL, Priority.INTERACTIVE, 10, 10**9)

    def submit(self, request: TaskRequest) -> None:
        """Admit it."""
        self._look(self.front.handle(Submit(request, b"", "c"), 0.0))

    def cancel(self, task_id: ids.TaskId) -> None:
        """Cancel one that waits."""
        self._look(self.front.handle(Cancel(task_id, "client"), 0.0))

    def end(self) -> None:
        """End what runs: the next one starts."""
        self._look(self.front.handle(JobEnded(self._running, _END), 0.0))

    def _look(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Dispatch):
                self._running = effect.task_id


# many pools


@define
class Crowd:
    """Pools under load: tasks of both classes, of all lengths, some canceled, some too late."""

    pools: int
    seed: int = 1
    admitted: int = 0
    refused: int = 0
    most_waiting: int = 0
    longest: float = 0.0
    """Of batch tasks: starts of the pool while one waited, as a share of the bound (specs/02)."""
    ends: Counter[str] = field(factory=Counter)
    batch_after: int = 16
    _now: float = 0.0
    _heard: float = -AGE_S
    _starts: Counter[str] = field(factory=Counter)
    _promised: dict[ids.TaskId, tuple[int, int]] = field(factory=dict)
    """Of a waiting batch task: starts of its pool at admission, and the most that it may see."""
    _running: list[tuple[float, ids.TaskId]] = field(factory=list)

    def run(self, tasks: int) -> Crowd:
        """Send so many tasks, and let all of them end. Raises RuntimeError when one is lost."""
        names = [f"p{number}" for number in range(self.pools)]
        front = Front([_spec(name, 64, 64, MODEL + name) for name in names])
        dice = random.Random(self.seed)  # noqa: S311  (a simulation)
        wave = max(1, tasks // 48)
        for number in range(tasks):
            # on the whole 1.2 times what the pools can do, in waves: queues fill up and drain
            self._now += dice.expovariate(self.pools * (350.0 if number // wave % 3 == 0 else 60.0))
            self._hear(front, names)
            self._end_due(front)
            name = dice.choice(names)
            priority = Priority.BATCH if dice.random() < 0.3 else Priority.INTERACTIVE
            tokens = min(1000, 1 + int(dice.paretovariate(1.5) * 30))
            deadline_ms = dice.choice((50, 600_000, 600_000, 600_000))
            request = _request(number, MODEL + name, priority, tokens, deadline_ms)
            self._submit(front, request, name)
            if dice.random() < 0.05:
                event = Cancel(request.task_id, "client")
                self._look(front.handle(event, self._now))
        while self._running:
            self._now = max(self._now, self._running[0][0])
            self._hear(front, names)
            self._end_due(front)
        if self.admitted != sum(self.ends.values()) or self._promised:
            raise RuntimeError(f"{self.admitted} were admitted, and ended: {dict(self.ends)}")
        return self

    def _hear(self, front: Front, names: list[str]) -> None:
        """Let every replica be heard of, if it is time."""
        if self._now - self._heard < AGE_S:
            return
        self._heard = self._now
        for name in names:
            self._look(front.handle(_seen(name, round(self._now), MODEL + name), self._now))

    def _submit(self, front: Front, request: TaskRequest, name: str) -> None:
        queue = front.world.pools[ids.PoolId(name)].queue
        before = len(queue.classes[Priority.BATCH])
        starts = self._starts[name]
        effects = front.handle(Submit(request, b"", "c"), self._now)
        if any(isinstance(effect, Accepted) for effect in effects):
            self.admitted += 1
            if request.priority is Priority.BATCH:
                bound = (self.batch_after + 1) * (before + 1)
                self._promised[request.task_id] = starts, bound
        else:
            self.refused += 1
        self._look(effects)  # also of one that was refused: what was due came with it
        self.most_waiting = max(self.most_waiting, self.admitted - sum(self.ends.values()))

    def _end_due(self, front: Front) -> None:
        while self._running and self._running[0][0] <= self._now:
            at, task_id = heapq.heappop(self._running)
            task = front.world.tasks.get(task_id)
            if task is None:
                continue
            self._look(front.handle(JobEnded(task_id, _END), at))

    def _look(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Dispatch(task_id, replica_id, request):
                    name = replica_id.partition(":")[0]
                    self._starts[name] += 1
                    if (promised := self._promised.pop(task_id, None)) is not None:
                        share = (self._starts[name] - promised[0]) / promised[1]
                        self.longest = max(self.longest, share)
                    ends_at = self._now + request.max_tokens / RATE
                    heapq.heappush(self._running, (ends_at, task_id))
                case Finish(task_id, ended):
                    self._promised.pop(task_id, None)
                    canceled = ended.finish_reason is FinishReason.CANCELED
                    self.ends["canceled" if canceled else "ended"] += 1
                case Break(task_id):
                    self._promised.pop(task_id, None)
                    self.ends["broken"] += 1


# what both are made of

_END: Final = End(
    tokens_in=ids.Count(3),
    tokens_out=ids.Count(1),
    first_token_ms=ids.Count(1),
    decode_ms=ids.Count(1),
    finish_reason=FinishReason.STOP,
)


def _counted(step: Callable[[], object]) -> int:
    count = 0

    def hear(_frame: FrameType, event: str, _arg: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(hear)
    try:
        step()
    finally:
        sys.setprofile(None)
    return count


def _spec(name: str, interactive: int, batch: int = 1, model: str = MODEL) -> PoolSpec:
    return PoolSpec(
        pool_id=ids.PoolId(name),
        engine=ids.EngineId("mock"),
        model_ref=model,
        ctx=8192,
        max_tokens=4096,
        slots=1,
        replica_ids=(ids.ReplicaId(f"{name}:0"),),
        queue_interactive=interactive,
        queue_batch=batch,
        sampler_profile_version="v1",
    )


def _seen(name: str, seq: int, model: str = MODEL) -> Event:
    return ReplicaSeen(
        Snapshot(
            seq=ids.Count(seq),
            pool_id=ids.PoolId(name),
            replica_id=ids.ReplicaId(f"{name}:0"),
            device_mask=ids.DeviceMask((0,)),
            phase=Phase.READY,
            ready=True,
            draining=False,
            status="ready",
            engine=ids.EngineId("mock"),
            engine_version="1",
            sampler_profile_version="v1",
            model_ref=model,
            ctx_max=ids.Positive(8192),
            slots_total=ids.Positive(1),
            slots_active=ids.Count(0),
            tokens_per_s=ids.NonNegative(RATE),
            first_token_ms=ids.NonNegative(0.0),
        )
    )


def _request(
    number: int, model: str, priority: Priority, tokens: int, deadline_ms: int
) -> TaskRequest:
    task_id = f"00000000-0000-4000-8000-{number:012d}"
    return TaskRequest(
        task_id=ids.TaskId(task_id),
        session_id=ids.SessionId(task_id),
        workload=Workload.COMPLETION,
        model_ref=ids.Text(model),
        engine=ids.EngineId("mock"),
        ctx=ids.Positive(4096),
        priority=priority,
        max_tokens=ids.Positive(tokens),
        deadline_ms=ids.Positive(deadline_ms),
        prompt=f"Say {number}.",
    )
