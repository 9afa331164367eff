"""The app of orchd: one Front, its links, and the loop that carries out effects.

Everything here runs in one trio thread and `handle` never waits, so an event and its effects are
one step. Routes ask it; links report to it. What becomes of streams is in streams.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import trio
from attrs import evolve

from orchd.config.folders import models_dir
from orchd.config.pool import Mode, Pool
from orchd.config.schema import Settings
from orchd.config.serving import JobTrace
from orchd.core.effects import (
    Accepted,
    AskDrain,
    AskReload,
    CancelJob,
    Effect,
    Note,
    Observe,
    Refused,
    WakeAt,
)
from orchd.core.events import (
    Cancel,
    DrainAll,
    DrainPool,
    EndSession,
    Event,
    PoolsAdded,
    ReloadPool,
    Submit,
    Tick,
)
from orchd.core.front import Front
from orchd.edge import limits
from orchd.edge.adoption import Adoption
from orchd.edge.artifacts import Registry
from orchd.edge.catalog import Catalog
from orchd.edge.control import Control
from orchd.edge.disk import Disk
from orchd.edge.gather import Gather
from orchd.edge.jobs import JobRecords
from orchd.edge.links import Link
from orchd.edge.policies import Policies
from orchd.edge.relay import Stream
from orchd.edge.reread import Change, compare
from orchd.edge.scrape import Tally
from orchd.edge.streams import Streams
from orchd.edge.tokens import Counted, Tokenizers
from orchd.edge.units import units
from orchd.edge.whereabouts import Whereabouts
from orchd.kit import log
from orchd.wire.control import Capabilities, PoolHealth, WorkerRegistration
from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import PoolId, ReplicaId, SessionId, TaskId
from orchd.wire.shapes import (
    PlacementExplained,
    PlacementOutcome,
    SessionStatus,
    TaskRequest,
    TaskState,
    TaskStatus,
    TaskStatuses,
)

SETTLE_S: Final = 2.0
"""At the end, for the records of jobs that are not written yet."""


class App:
    """All of orchd's state. Made once; `run` is its service."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.front = Front(
            [limits.spec(pool, str(settings.base)) for pool in settings.pools],
            limits.limits(settings),
        )
        self.policies = Policies(settings.policy)
        self.tally = Tally(self.front, self.policies.counts)
        self.tokenizers = Tokenizers(self.front, settings)
        self.disk = Disk(settings.state_dir)
        self.catalog = Catalog(
            self.disk,
            Whereabouts(self.disk, str(settings.base), self._caches),
            self.handle,
            self.front.served_by,
            self.tally.verifications,
        )
        self._adoption = Adoption(self.catalog)
        self.artifacts = Registry(self.disk, settings.artifacts)
        self._jobs = self._records_of_jobs(settings.artifacts.jobs)
        batch_ms = settings.sse.microbatch_ms
        self._gather = Gather(batch_ms / 1000) if batch_ms else None
        self._links = self._links_of(settings.pools)
        self.streams = Streams(
            self.front, self.tally, self._links, self._jobs, self.handle, settings.sse
        )
        self._nursery: trio.Nursery | None = None
        """Of the links, while they run."""
        self._control = Control(settings, self.handle)
        self._wake_at: float | None = None
        self._alarm = trio.Event()

    # what routes ask for

    def submit(
        self,
        request: TaskRequest,
        digest: bytes,
        correlation_id: str,
        identity: str,
        counted: Counted,
    ) -> Accepted:
        """Admit a task; `counted` is what Tokenizers.count told. Raises OrchError: refused."""
        told = (counted.prompt_tokens, counted.longest)
        answer = self.handle(Submit(request, digest, correlation_id, identity, *told))
        assert answer is not None, "core answers every Submit"
        return answer

    def knows(self, task_id: TaskId) -> bool:
        """Return whether it has been admitted before, and is not forgotten."""
        return task_id in self.front.world.tasks

    async def explain(self, request: TaskRequest, identity: str) -> PlacementExplained:
        """Return where a task would go. Raises OrchError when it contradicts itself."""
        denied = await self.policies.denied(request, identity)
        explained = self.front.explain(request, trio.current_time(), identity)
        if denied is None:
            return explained
        return evolve(explained, outcome=PlacementOutcome.REFUSED, refusal=denied.envelope())

    async def cancel(self, task_id: TaskId) -> None:
        """Cancel a task. When this returns, no token frame of it leaves any more [ORCH-3026]."""
        stream = self.stream(task_id)
        self.handle(Cancel(task_id, "client", stream.tokens))
        await stream.settle()

    def reader_left(self, stream: Stream) -> None:
        """A client hung up before the end: the last one takes the task with it [SSE-1003]."""
        if self.settings.cancel_on_disconnect and not stream.readers and not stream.done:
            self.handle(Cancel(stream.task_id, "disconnect", stream.tokens))

    def stream(self, task_id: TaskId) -> Stream:
        """Return a task's stream. Raises OrchError(UNKNOWN_ID)."""
        return self.streams.get(task_id)

    def task_status(self, task_id: TaskId) -> TaskStatus:
        """Raises OrchError(UNKNOWN_ID)."""
        return self.front.task_status(task_id, trio.current_time())

    def tasks(self, state: TaskState | None, cursor: str | None, limit: int) -> TaskStatuses:
        """Return the newest `limit` tasks behind `cursor`. Raises OrchError for none of ours."""
        if cursor is not None and not (cursor.isascii() and cursor.isdigit() and len(cursor) < 20):
            raise OrchError(
                Kind.INVALID_PARAMS, "cursor must be one that an answer gave", path="cursor"
            )
        found = list(self.front.tasks(state=state, after=int(cursor or 0), limit=limit + 1))
        return TaskStatuses(
            tasks=tuple(self.task_status(task_id) for _, task_id in found[:limit]),
            next_cursor=str(found[limit - 1][0]) if len(found) > limit else None,
        )

    def session(self, session_id: SessionId) -> SessionStatus:
        """Raises OrchError(UNKNOWN_ID)."""
        return self.front.session(session_id, trio.current_time())

    def end_session(self, session_id: SessionId) -> None:
        """Forget a session, known or not; its tasks go on."""
        self.handle(EndSession(session_id))

    def pools(self) -> tuple[PoolHealth, ...]:
        """Return the health of every pool."""
        return self.front.pools(trio.current_time())

    def pool_health(self, pool_id: PoolId) -> PoolHealth:
        """Raises OrchError(UNKNOWN_NAME)."""
        return self.front.pool_health(pool_id, trio.current_time())

    def capabilities(self) -> Capabilities:
        """Return what can be asked for."""
        return self.front.capabilities(trio.current_time())

    def unready_reasons(self) -> tuple[str, ...]:
        """Return why orchd could not serve a task now; empty when a pool is ready."""
        return self.front.unready_reasons(trio.current_time())

    def register(self, worker: WorkerRegistration) -> None:
        """A poolmgr is Ready: link to it now. Raises OrchError when core does not know it."""
        self.front.check_worker(worker)
        self._links[worker.replica_id].nudge()

    def drain_pool(self, pool_id: PoolId, deadline_ms: int) -> None:
        """Begin to drain a pool. Raises OrchError."""
        self.handle(DrainPool(pool_id, deadline_ms))

    def reload_pool(self, pool_id: PoolId, model_ref: str, digest: str | None) -> None:
        """Begin to reload a pool; the model must have `digest` where one is given. Raises
        OrchError."""
        for pool in self.settings.pools:
            if pool.id == pool_id and pool.mode is Mode.EXTERNAL:
                raise OrchError(
                    Kind.INVALID_PARAMS,
                    f"the engine of pool {pool_id} is external: whoever started it gives it "
                    "another model",
                    path="$.new_model_ref",
                    pool_id=pool_id,
                )
        self.handle(ReloadPool(pool_id, model_ref, digest))

    def reread(self, settings: Settings) -> Change:
        """Put into effect what can change while streams run; return what did, and what did not."""
        change = compare(self.settings, settings)
        self.settings = change.settings
        self.streams.sse = change.settings.sse
        if change.added:
            self.handle(PoolsAdded(tuple(limits.spec(p, str(settings.base)) for p in change.added)))
            self.tokenizers.add(settings, change.added)
            links = self._links_of(change.added)
            self._links.update(links)
            if self._nursery is not None:
                for link in links.values():
                    self._nursery.start_soon(link.run)
        return change

    def _records_of_jobs(self, trace: JobTrace) -> JobRecords | None:
        if trace is JobTrace.OFF:
            return None
        frames, counts = trace is JobTrace.TRANSCRIPT, self.tally.job_records
        return JobRecords(self.front, self.artifacts, counts, frames=frames)

    def _links_of(self, pools: Iterable[Pool]) -> dict[ReplicaId, Link]:
        return {
            replica: Link(
                replica,
                self.settings.pool_socket(replica),
                self.handle,
                self._gather,
                units(self.settings.run_dir),
                self._adoption.hear,
            )
            for pool in pools
            for replica in pool.replica_ids
        }

    def _caches(self) -> list[Path]:
        """Return the folders of fetched models."""
        given = [pool.model.cache_dir for pool in self.settings.pools]
        return [models_dir(os.environ), *(Path(each) for each in given if each is not None)]

    # the one door

    def handle(self, event: Event) -> Accepted | None:
        """Hand an event to core and carry out what it wants. Raises the error of a Refused."""
        answer: Accepted | None = None
        refused: OrchError | None = None
        for effect in self.front.handle(event, trio.current_time()):
            if isinstance(effect, Accepted):
                answer = effect
            if isinstance(effect, Refused):
                refused = effect.error
            else:
                self._do(effect)
        if refused is not None:
            raise refused
        return answer

    def _do(self, effect: Effect) -> None:
        match effect:
            case WakeAt(when):
                self._wake_at = when
                self._alarm.set()
            case Note(name, human, level, fields):
                log.event(name, human, level=level, **fields)
            case Observe():
                self.tally.observe(effect)
            case Refused():
                pass  # handle() raises it
            case AskDrain() | AskReload():
                self._control.ask(effect)
            case CancelJob(task_id, replica_id):
                self._links[replica_id].cancel(task_id)
            case _:
                self.streams.write(effect)

    # services

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the links up, wake core when it asked for it, and keep streams informed."""
        self.streams.beat()
        try:
            await self.disk.open()
            await self.catalog.open()
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                for link in self._links.values():
                    nursery.start_soon(link.run)
                nursery.start_soon(self._control.run)
                nursery.start_soon(self._keep_time)
                nursery.start_soon(self.streams.pulse)
                if self._gather is not None:
                    nursery.start_soon(self._gather.run)
                nursery.start_soon(self.catalog.run)
                nursery.start_soon(self._adoption.run)
                nursery.start_soon(self.artifacts.open)
                if self._jobs is not None:
                    nursery.start_soon(self._jobs.run)
                task_status.started()
        finally:
            self.tokenizers.close()
            self.disk.close()

    def alive(self) -> bool:
        """Return whether the pulse beats: what systemd's watchdog is to know."""
        return self.streams.alive()

    @property
    def unfinished(self) -> int:
        """How many tasks wait or run."""
        return len(self.streams.open)

    async def drain(self, deadline_s: float) -> None:
        """Admit nothing more; give running tasks `deadline_s`, then cancel what is left."""
        self.handle(DrainAll())
        await self.streams.ended(deadline_s)
        for task_id in list(self.streams.open):
            self.handle(Cancel(task_id, "shutdown", self.streams.get(task_id).tokens))
        if self._jobs is not None:
            await self._jobs.settle(SETTLE_S)

    async def _keep_time(self) -> None:
        while True:
            self._alarm = trio.Event()
            with trio.CancelScope() as wait:
                if self._wake_at is not None:
                    wait.deadline = self._wake_at
                await self._alarm.wait()
            if wait.cancelled_caught:
                self._wake_at = None
                self.handle(Tick())
