"""The engines of a replica: the one that serves, and during a reload the one that is to.

Runs their steps (preload.py) and ends them; what each step's end means is decided in core/life.py,
and what a replica does besides is in replica.py.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import trio

from orchd.config.pool import Pool
from orchd.config.schema import Settings
from orchd.kit import log
from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import DeviceMask, ReplicaId
from poolmgr.core import life
from poolmgr.core import lifewords as lw
from poolmgr.edge.board import Board
from poolmgr.edge.health import Say
from poolmgr.edge.jobs import Jobs
from poolmgr.edge.preload import Preload
from poolmgr.edge.reports import Reports
from poolmgr.engines.base import Adapter
from poolmgr.provision.models.reloaded import remember, with_model

LAST_WORDS_S: Final = 1.0
"""How long the last messages may take to leave before the process does."""
Step = Callable[[Say], Awaitable[None]]


class Succession:
    """The engines of one replica: who serves, who follows. `say` tells the life what happened."""

    def __init__(
        self,
        settings: Settings,
        configured: Pool,
        replica_id: ReplicaId,
        mask: DeviceMask,
        adapter: Adapter,
        board: Board,
        jobs: Jobs,
        reports: Reports,
        say: Say,
    ) -> None:
        self.now = Preload(settings, board.pool, replica_id, mask, adapter, board, reports)
        """The engine that serves, or is to be the first."""
        self.work: trio.Nursery
        """What a stop or a failure ends."""
        self.services: trio.Nursery
        """What lasts until the exit."""
        self._new: Preload | None = None
        """The engine that a reload prepares."""
        self._old: Preload | None = None
        """The engine that a reload has replaced, while its last jobs run."""
        self._old_gone = trio.Event()
        self._steps_of: dict[Preload, set[trio.CancelScope]] = {}
        """What runs for each engine, to be ended with it."""
        self._settings = settings
        self._configured = configured
        self._replica_id = replica_id
        self._mask = mask
        self._adapter = adapter
        self._board = board
        self._jobs = jobs
        self._reports = reports
        self._say = say

    def all(self) -> list[Preload]:
        """Return every engine that may run."""
        return [engine for engine in (self.now, self._new, self._old) if engine is not None]

    def step(self, step: Step) -> None:
        """Run a step of the engine that serves."""
        self._run(self.now, step, self._say, lw.Broke)

    def _new_step(self, step: Step) -> None:
        """Run a step of the new engine."""
        assert self._new is not None
        self._run(self._new, step, self._say_new, lw.NewBroke)

    def _run(
        self,
        engine: Preload,
        step: Step,
        say: Say,
        broke: Callable[[OrchError], lw.Event],
    ) -> None:
        """Run a step of an engine until the engine is given up; what breaks in it is an event."""
        scope = trio.CancelScope()
        scopes = self._steps_of.setdefault(engine, set())
        scopes.add(scope)

        def tell(event: lw.Event) -> None:
            if not scope.cancel_called:
                # an engine that has taken over goes on with the steps that it began as the new one
                (self._say if engine is self.now else say)(event)

        async def run() -> None:
            try:
                with scope:
                    try:
                        await step(tell)
                    except OrchError as exc:
                        tell(lw.Broke(exc) if engine is self.now else broke(exc))
            finally:
                scopes.discard(scope)

        self.work.start_soon(run)

    def _say_new(self, event: lw.Event) -> None:
        """An event of the new engine's steps, in the words for it."""
        match event:
            case lw.StillLoading():
                pass
            case lw.Serving():
                self._say(lw.NewServing())
            case lw.Broke(error):
                self._say(lw.NewBroke(error))
            case _:
                self._say(event)

    def start(self) -> None:
        """Start the engine (or attach to it), and wait until it serves."""
        try:
            child = self.now.start()
        except OrchError as exc:
            self._say(lw.Broke(exc))
            return
        if child is not None:
            self.services.start_soon(child.listen)
            self.step(self.now.watch_child)
        self.step(self.now.load)

    def prepare(self, model_ref: str, digest: str | None) -> None:
        """Stage a model, and see whether its engine fits beside the one that serves. It must have
        `digest` where one is given."""
        pool = with_model(self._board.pool, model_ref, digest, self._configured)
        log.event(
            "reload_began",
            f"Reloading {self._replica_id} with {model_ref}; what serves now does so until that is "
            "ready, if both fit.",
            replica_id=self._replica_id,
            model_id=model_ref,
        )
        old, mask = self.now, self._mask
        new = Preload(
            self._settings,
            pool,
            self._replica_id,
            mask,
            self._adapter,
            self._board,
            self._reports,
            beside=old,
        )
        self._new = new

        async def make_room(say: Say) -> None:
            while self._old is not None:  # of the reload before this one: it has the other seat
                await self._old_gone.wait()
            await new.make_room(say)

        self._new_step(make_room)

    def stop_old(self) -> None:
        """End the engine that served, to make room; then OldStopped."""
        self._let_go(self.now)  # at once: its end is no failure
        self.work.start_soon(self._stop_old)

    async def _stop_old(self) -> None:
        with trio.move_on_after(LAST_WORDS_S):
            await self._jobs.wait_none()
        await self.now.stop()
        self._say(lw.OldStopped())

    def start_new(self) -> None:
        """Start the new engine, and wait until it serves."""
        new = self._new
        assert new is not None
        try:
            child = new.start()
        except OrchError as exc:
            self._say(lw.NewBroke(exc))
            return
        assert child is not None, "no external engine is reloaded"
        self.services.start_soon(child.listen)
        self._new_step(new.watch_child)
        self._new_step(new.load)

    def _take_new(self) -> Preload:
        new, self._new = self._new, None
        assert new is not None
        self._let_go(new)
        self._log_failed(new)
        return new

    def _log_failed(self, new: Preload) -> None:
        cause = self._board.last_error
        log.event(
            "reload_failed",
            f"Replica {self._replica_id} keeps {self._board.pool.model.ref}: {new.pool.model.ref} "
            f"failed: {cause.message if cause else 'the pool stops'}.",
            level="warning",
            replica_id=self._replica_id,
            model_id=new.pool.model.ref,
            reason=cause.kind if cause else None,
        )

    def self_test_new(self) -> None:
        """Put the new engine through the self-test, and let it answer the canary."""
        new = self._new
        assert new is not None

        async def prove(say: Say) -> None:
            proof = await new.tested()
            await new.compare(self._jobs.slots.tokens_per_s, say)
            say(lw.NewPassed(new.staging.name, proof))

        self._new_step(prove)

    def switch(self) -> None:
        """Send jobs to the new engine; the old one ends when its jobs have."""
        old, new = self.now, self._new
        assert new is not None
        assert new.engine is not None
        self._let_go(old)
        self.now, self._new, self._old = new, None, old
        self._old_gone = trio.Event()
        self._board.engine, self._board.pool = new.facts, new.pool
        self._jobs.slots.forget_speed()
        self._jobs.attach(new.engine.client, new.pool.model.ref)
        remember(self._settings.reloaded_file(self._replica_id), self._configured, new.pool.model)
        self.services.start_soon(self._retire, old)
        self.step(new.watch_health)

    async def _retire(self, old: Preload) -> None:
        """Let the last jobs of a replaced engine end, then end it."""
        assert old.engine is not None
        with trio.move_on_after(life.DRAIN_S):
            await self._jobs.wait_none(old.engine.client)
        late = OrchError(Kind.DRAINING, "its model was replaced, and the job took too long")
        self._jobs.stop_all(late, old.engine.client)
        await self._end(old)
        if self._old is old:
            self._old = None
            self._old_gone.set()

    def drop_new(self) -> None:
        """End the new engine."""
        self.services.start_soon(self._end, self._take_new())

    def restore(self) -> None:
        """End the new engine, then start the old one again."""
        self.work.start_soon(self._restore, self._take_new())

    async def _restore(self, new: Preload) -> None:
        await self._end(new)
        self.start()

    def _let_go(self, engine: Preload) -> None:
        """End what runs for an engine: what it does from now on is no news."""
        for scope in self._steps_of.pop(engine, ()):
            scope.cancel()

    async def _end(self, engine: Preload) -> None:
        if engine.engine is not None:
            with trio.move_on_after(LAST_WORDS_S):
                await self._jobs.wait_none(engine.engine.client)
        await engine.stop()
        engine.close()
