"""What is left of jobs that are over: each record waits its turn here and is written by a thread.

Only with `artifacts.jobs`. No stream waits for the disk: what comes faster than it writes is
dropped, counted and told. What a record says is core's, how it is stored artifacts.py's.
"""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from typing import Final

import trio
from attrs import evolve, frozen

from orchd.catalog import artifacts
from orchd.catalog.jobs import MAX_TRANSCRIPT_BYTES, upload_of, with_transcript
from orchd.core.front import Front
from orchd.edge.artifacts import Registry
from orchd.edge.relay import Stream
from orchd.kit import log
from orchd.wire.artifacts import ArtifactRecord
from orchd.wire.errors import Envelope, OrchError
from orchd.wire.ids import TaskId
from orchd.wire.jobs import JobRecord
from orchd.wire.words import many

MAX_WAITING: Final = 256
"""Records: two seconds of a disk that takes 8 ms to write one."""
MAX_WAITING_BYTES: Final = 32 << 20
"""Of transcripts that wait to be written."""
_ENOUGH: Final = MAX_TRANSCRIPT_BYTES + 1
"""Bytes of a stream: one more than are kept, so that what is cut is known to be."""
REST_S: Final = 0.5
"""After one that the disk did not take: the next would fail as well, and each failure is told."""
TELL_S: Final = 60.0
"""Between two lines of the log on what was dropped."""


@frozen
class _Left:
    """A job that waits to be written."""

    job: JobRecord
    frames: bytearray | None
    """Of its stream; None: no transcript is kept."""

    @property
    def cost(self) -> int:
        return len(self.frames or b"")


class JobRecords:
    """The jobs whose records are to be kept."""

    def __init__(
        self, front: Front, registry: Registry, counts: Counter[tuple[str, ...]], *, frames: bool
    ) -> None:
        """`counts` counts by result; `frames`: transcripts are kept too."""
        self._front, self._registry, self._counts = front, registry, counts
        self._frames = frames
        self._sealed: dict[TaskId, bytearray] = {}
        """What the streams of jobs that are being canceled held: they let go of their tokens."""
        self._waiting: deque[_Left] = deque()
        self._bytes = 0
        self._busy = False
        self._some = trio.Event()
        self._idle = trio.Event()
        self._dropped = 0
        self._told_at = -math.inf

    def sealing(self, stream: Stream) -> None:
        """A job is canceled: in this step its stream lets go of its tokens, and ends."""
        if self._frames:
            self._sealed[stream.task_id] = stream.log[:_ENOUGH]

    def over(self, stream: Stream, error: Envelope | None = None) -> None:
        """A job is over for its client, `error`: with this. Its stream has all its frames."""
        frames = self._frames_of(stream) if self._frames else None
        try:
            job = evolve(self._front.job_record(stream.task_id, trio.current_time()), error=error)
        except OrchError:  # so many ended at once that this one is forgotten already
            self._drop("too many jobs ended at once")
            return
        left = _Left(job, frames)
        if len(self._waiting) >= MAX_WAITING or self._bytes + left.cost > MAX_WAITING_BYTES:
            self._drop("jobs end faster than the disk takes their records")
            return
        self._waiting.append(left)
        self._bytes += left.cost
        self._some.set()

    async def run(self) -> None:
        """Write what waits, one after another."""
        while True:
            while self._waiting:
                self._busy = True
                left = self._waiting.popleft()
                self._bytes -= left.cost
                await self._write(left)
            self._busy = False
            self._idle.set()
            self._some = trio.Event()
            await self._some.wait()

    async def settle(self, deadline_s: float) -> None:
        """Give what waits `deadline_s` to be written; tell what is lost."""
        with trio.move_on_after(deadline_s):
            while self._waiting or self._busy:
                self._idle = trio.Event()
                await self._idle.wait()
        for _ in range(len(self._waiting)):
            self._waiting.popleft()
            self._drop("orchd stops")
        self._tell("orchd stops")

    async def _write(self, left: _Left) -> None:
        try:
            record, content = await trio.to_thread.run_sync(_artifact_of, left)
            await self._registry.leave(record, content)
        except OrchError as exc:
            self._drop(exc.message)
            await trio.sleep(REST_S)
        else:
            self._counts["stored",] += 1

    def _frames_of(self, stream: Stream) -> bytearray:
        before = self._sealed.pop(stream.task_id, None)
        if before is not None:
            return before + stream.log[stream.tail_at :]
        # nothing changes the log of a stream that is done
        return stream.log if len(stream.log) < _ENOUGH else stream.log[:_ENOUGH]

    def _drop(self, why: str) -> None:
        self._counts["dropped",] += 1
        self._dropped += 1
        if trio.current_time() - self._told_at >= TELL_S:
            self._tell(why)

    def _tell(self, why: str) -> None:
        if not self._dropped:
            return
        log.event(
            "job_records_dropped",
            f"Records of {many(self._dropped, 'job')} are not kept: {why}.",
            level="warning",
            dropped=self._dropped,
        )
        self._dropped, self._told_at = 0, trio.current_time()


def _artifact_of(left: _Left) -> tuple[ArtifactRecord, str]:
    """Raises OrchError for one that is too large."""
    job = left.job if left.frames is None else with_transcript(left.job, bytes(left.frames))
    upload = artifacts.plain(upload_of(job))
    record = artifacts.name(upload, time.time_ns() // 1_000_000)
    return evolve(record, job=job.task_id), upload.content
