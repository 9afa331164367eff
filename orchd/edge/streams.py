"""All streams: one for each task, told what core wants and, while tasks run, how they stand.

What one stream is and how its frames reach readers is relay.py's; which tasks there are is core's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final, assert_never

import trio

from orchd.config.serving import Sse
from orchd.core.effects import Accepted, Break, Dispatch, Finish, Forget, Moved, Seal
from orchd.core.events import CancelReason, Event, Progress
from orchd.core.front import Front
from orchd.edge.jobs import JobRecords
from orchd.edge.links import Link
from orchd.edge.relay import Stream
from orchd.edge.scrape import Tally
from orchd.kit.message import envelope_of
from orchd.kit.redact import redact
from orchd.wire.errors import Envelope, Kind, OrchError
from orchd.wire.ids import Count, ReplicaId, TaskId
from orchd.wire.shapes import Ended, MetricsFrame, Narration
from orchd.wire.words import many

PULSE_S: Final = 0.25
"""How often core hears of progress and streams get what is due: often enough for a prediction."""
ALIVE_S: Final = 5.0
"""A pulse that is later than this by its own clock beats no more: twenty of them were missed."""
StreamEffect = Accepted | Dispatch | Seal | Finish | Break | Moved | Forget
_WHY: Final[dict[CancelReason, str]] = {
    "client": "Canceled on request.",
    "disconnect": "Canceled because its last reader left.",
    "shutdown": "Canceled because orchd stops.",
}


class Streams:
    """Every stream that is kept. `handle` is the app's door to core."""

    def __init__(
        self,
        front: Front,
        tally: Tally,
        links: Mapping[ReplicaId, Link],
        jobs: JobRecords | None,
        handle: Callable[[Event], object],
        sse: Sse,
    ) -> None:
        self._front, self._tally, self._links, self._handle = front, tally, links, handle
        self._jobs = jobs
        self.sse = sse
        """Replaced when the configuration is read again."""
        self.all: dict[TaskId, Stream] = {}
        self.running: dict[TaskId, Stream] = {}
        self.open: set[TaskId] = set()
        """Tasks whose streams are not at their end."""
        self._all_done = trio.Event()
        self._beat_at = -math.inf

    def get(self, task_id: TaskId) -> Stream:
        """Return a task's stream. Raises OrchError(UNKNOWN_ID)."""
        stream = self.all.get(task_id)
        if stream is None:
            raise OrchError(Kind.UNKNOWN_ID, f"there is no task {task_id}", path="task_id")
        return stream

    def beat(self) -> None:
        """Say that the pulse beats, or is about to."""
        self._beat_at = trio.current_time()

    def alive(self) -> bool:
        """Return whether the pulse beats: what systemd's watchdog is to know."""
        return trio.current_time() - self._beat_at < ALIVE_S

    async def ended(self, deadline_s: float) -> None:
        """Wait until no stream is open, at most so long."""
        if self.open:
            self._all_done = trio.Event()
            with trio.move_on_after(deadline_s):
                await self._all_done.wait()

    def write(self, effect: StreamEffect) -> None:
        """Carry out what core wants of a task's stream."""
        match effect:
            case Accepted(task_id, accepted, started, fresh):
                if fresh:
                    now, pool_id = trio.current_time(), accepted.pool_id
                    stream = self.all[task_id] = Stream(task_id, pool_id, now)
                    stream.say(("started", started))
                    self.open.add(task_id)
            case Dispatch(task_id, replica_id, request, correlation_id):
                stream = self.running[task_id] = self.all[task_id]
                stream.say(_told("start", replica_id, f"Starts on {replica_id}."))
                stream.narrated_at = trio.current_time()
                self._links[replica_id].open(request, correlation_id, stream)
            case Seal(task_id, reason):
                stream = self.all[task_id]
                if self._jobs is not None:
                    self._jobs.sealing(stream)
                stream.seal()
                stream.say(_told("cancel", task_id, _WHY[reason]))
            case Finish(task_id, ended):
                human = f"Ended ({ended.finish_reason}) after {many(ended.tokens_out, 'token')}."
                words = () if self.all[task_id].sealed else (_told("end", task_id, human),)
                self._over(task_id, *words, ("end", ended))
            case Break(task_id, error):
                told = envelope_of(error)
                self._over(task_id, ("error", told), error=told)
            case Moved():
                self._moved(effect)
            case Forget(task_id):
                self.all.pop(task_id, None)
            case _:
                assert_never(effect)

    def _over(
        self,
        task_id: TaskId,
        *frames: tuple[str, Narration | Ended | Envelope],
        error: Envelope | None = None,
    ) -> None:
        self.running.pop(task_id, None)
        self.open.discard(task_id)
        if not self.open:
            self._all_done.set()
        stream = self.all[task_id]
        stream.finish(*frames)
        if self._jobs is not None:
            self._jobs.over(stream, error)

    def _moved(self, effect: Moved) -> None:
        stream = self.all[effect.task_id]
        if stream.readers:
            frame = MetricsFrame(
                queue_depth=Count(effect.queue_depth),
                on_time_probability=effect.on_time_probability,
                queue_position=Count(effect.queue_position),
                predicted_start_ms=Count(effect.predicted_start_ms),
                predicted_start_p90_ms=Count(effect.predicted_start_p90_ms),
            )
            self._hint(stream, self._front.with_budgets(effect.task_id, frame))

    def _hint(self, stream: Stream, frame: MetricsFrame) -> None:
        missed = stream.hint(frame)
        if missed:
            self._tally.dropped(stream.pool_id, "metrics", missed)

    async def pulse(self) -> None:
        """Tell core of progress and readers how tasks stand, four times a second."""
        next_metrics = next_beat = trio.current_time()
        while True:
            metrics_s = self.sse.metrics_period_ms / 1000
            narration_s = self.sse.narration_period_ms / 1000
            heartbeat_s = self.sse.heartbeat_ms / 1000
            self.beat()
            await trio.sleep(PULSE_S)
            now = trio.current_time()
            for stream in list(self.running.values()):
                # a job that a slow reader holds back is not stuck
                if stream.tokens != stream.told or stream.held:
                    stream.told = stream.tokens
                    self._handle(Progress(stream.task_id, stream.tokens))
            if now >= next_metrics:
                next_metrics = now + metrics_s
                for stream in self.running.values():
                    if stream.readers:
                        self._hint(stream, self._front.metrics_frame(stream.task_id, now))
            if narration_s:
                self._narrate(now, narration_s)
            if now >= next_beat:
                next_beat = now + heartbeat_s / 4
                self._heartbeats(now, heartbeat_s)

    def _narrate(self, now: float, period_s: float) -> None:
        """Say how far each running task is that was not spoken of for so long [ORCH-3308]."""
        for stream in self.running.values():
            if stream.readers and now - stream.narrated_at >= period_s:
                stream.narrated_at = now
                human = f"Running: {many(stream.tokens, 'token')} so far."
                stream.murmur(_told("progress", stream.task_id, human)[1])

    def _heartbeats(self, now: float, heartbeat_s: float) -> None:
        for stream in self.all.values():
            if stream.touched:
                stream.touched, stream.silent_since = False, now
            elif stream.readers and not stream.done and now - stream.silent_since >= heartbeat_s:
                stream.heartbeat()
                stream.silent_since = now


def _told(action: str, target: str, human: str) -> tuple[str, Narration]:
    return "narration", Narration(human=redact(human), actor="orchd", action=action, target=target)
