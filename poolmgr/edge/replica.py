"""One replica at work: does the effects of core/life.py and answers with its events.

Every step is a task of one of two nurseries: `work` is what a stop or a failure ends (preload,
health watch), `services` last until the exit (socket, board, jobs). The steps are in preload.py.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, assert_never

import trio

from orchd.config.schema import Pool, Settings
from orchd.kit import http, log
from orchd.kit.client import Client, Target
from orchd.kit.notify import Notifier
from orchd.kit.run import started
from orchd.wire.control import WorkerRegistration
from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import DeviceMask, Positive, ReplicaId, Text
from orchd.wire.snapshot import HEARTBEAT_S
from poolmgr.core import life
from poolmgr.core.slots import Slots
from poolmgr.edge.board import Board
from poolmgr.edge.devices import masked
from poolmgr.edge.jobs import Jobs
from poolmgr.edge.link import Side
from poolmgr.edge.preload import Preload
from poolmgr.edge.register import keep_registered
from poolmgr.edge.server import Server
from poolmgr.engines.registry import adapter as adapter_of

LAST_WORDS_S: Final = 1.0
"""How long the last messages may take to leave before the process does."""
STUCK_S: Final = 15.0
"""Past so long without a turn of the board or of the jobs, the watchdog is not fed any more."""


class Replica:
    """The replica of `pool` on `mask`."""

    def __init__(
        self, settings: Settings, pool: Pool, replica_id: ReplicaId, mask: DeviceMask
    ) -> None:
        self._settings = settings
        self._pool = pool
        self._replica_id = replica_id
        self._notifier = Notifier()
        self._life = life.Life(trio.current_time())
        slots = Slots(pool.slots)
        adapter = adapter_of(pool.engine.id)
        self._board = Board(pool, replica_id, mask, adapter, self._life, slots, self._notifier)
        self._jobs = Jobs(adapter, slots, self._board.changed, pool.watchdog)
        self._steps = Preload(settings, pool, replica_id, mask, adapter, self._board)
        self._mask = mask
        self._work: trio.Nursery
        self._services: trio.Nursery
        self._exit = trio.Event()
        self._became_ready = trio.Event()
        self._error: OrchError | None = None
        self._turn_at = trio.current_time()

    async def run(self, listeners: Sequence[socket.socket], stop: trio.Event) -> None:
        """Serve on `listeners` until `stop` or a failure, which is raised as OrchError."""
        side = Side(
            self._pool.id, self._replica_id, self._jobs, self._board.state, self._board.links
        )
        server = Server(side, self._board.snapshot, self._board.page, self._tokenize)
        try:
            async with trio.open_nursery() as services:
                self._services = services
                await services.start(self._jobs.serve)
                await services.start(http.serve, listeners, server.handle)
                services.start_soon(self._board.serve, self._turned)
                services.start_soon(self._notifier.keep_beating, self._alive)
                services.start_soon(self._refresh)
                services.start_soon(self._register)
                await services.start(self._hold_work)
                services.start_soon(self._watch_stop, stop)
                self._happened(life.Begun())
                await self._exit.wait()
                services.cancel_scope.cancel()
        finally:
            self._steps.close()
        if self._error is not None:
            raise self._error

    # events and effects

    def _happened(self, event: life.Event) -> None:
        """Tell the life; do what it says."""
        effects = self._life.handle(event, trio.current_time())
        self._jobs.refusal = self._refusal()
        for effect in effects:
            self._do(effect)

    def _refusal(self) -> OrchError | None:
        if self._life.ready:
            return None
        if self._life.draining:
            return OrchError(Kind.DRAINING, "the pool is stopping")
        return OrchError(Kind.POOL_UNREADY, self._board.status)

    async def _tokenize(self, text: str) -> tuple[int, ...]:
        """Return the tokens of a text. Raises OrchError: not Ready, what the engine says."""
        if self._jobs.refusal is not None:
            raise self._jobs.refusal
        assert self._steps.engine is not None, "Ready with an engine only"
        return await self._steps.engine.tokenize(text)

    def _do(self, effect: life.Effect) -> None:
        match effect:
            case life.Announce():
                self._board.announce()
            case life.FindDevices():
                self._step(self._steps.find_devices)
            case life.Provision():
                self._step(self._steps.provision)
            case life.StartEngine():
                self._start_engine()
                self._step(self._steps.load)
            case life.WaitForHealth():
                self._step(self._steps.load)
            case life.SelfTest():
                self._step(self._steps.self_test)
            case life.BecomeReady():
                self._become_ready()
            case life.FailJobs(error):
                self._jobs.stop_all(error)
            case life.Drain(deadline_s):
                self._notifier.stopping(self._board.status)
                self._services.start_soon(self._drain, deadline_s)
            case life.StopEngine():
                self._work.cancel_scope.cancel()
                self._services.start_soon(self._stop_engine)
            case life.Exit(error):
                self._error = error
                self._exit.set()
            case _:
                assert_never(effect)

    def _step(self, step: Callable[[Callable[[life.Event], None]], Awaitable[None]]) -> None:
        self._work.start_soon(self._stepped, step)

    async def _stepped(
        self, step: Callable[[Callable[[life.Event], None]], Awaitable[None]]
    ) -> None:
        """Run a step of the work; what breaks in it is an event."""
        try:
            await step(self._say)
        except OrchError as exc:
            self._say(life.Broke(exc))

    def _say(self, event: life.Event) -> None:
        """An event of the work, unless the work has been ended meanwhile."""
        if not self._work.cancel_scope.cancel_called:
            self._happened(event)

    def _start_engine(self) -> None:
        try:
            child = self._steps.start()
        except OrchError as exc:
            self._say(life.Broke(exc))
            return
        if child is not None:
            self._services.start_soon(child.listen)
            self._step(self._steps.watch_child)

    def _become_ready(self) -> None:
        assert self._steps.engine is not None
        self._jobs.attach(self._steps.engine.client)
        self._notifier.ready(self._board.status)
        log.event(
            "pool_ready",
            f"Replica {self._replica_id} is ready: {self._board.status}.",
            replica_id=self._replica_id,
            pool_id=self._pool.id,
            engine_version=self._board.engine_version,
            gpu_proof=self._board.proof,
        )
        self._became_ready.set()
        started()
        self._step(self._steps.watch_health)

    async def _drain(self, deadline_s: float) -> None:
        with trio.move_on_after(deadline_s):
            await self._jobs.wait_none()
        self._happened(life.Drained())

    async def _stop_engine(self) -> None:
        self._notifier.stopping(self._board.status)
        with trio.move_on_after(LAST_WORDS_S):
            await self._jobs.wait_none()
        await self._steps.stop()
        with trio.move_on_after(LAST_WORDS_S):
            for link in list(self._board.links):
                await link.flush()
        self._happened(life.EngineStopped())

    # services

    async def _hold_work(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Keep the nursery of the work open."""
        async with trio.open_nursery() as work:
            self._work = work
            task_status.started()
            await trio.sleep_forever()

    async def _watch_stop(self, stop: trio.Event) -> None:
        await stop.wait()
        self._happened(life.StopAsked())

    async def _refresh(self) -> None:
        """Read the GPUs and the engine's memory every heartbeat, once they are known."""
        while True:
            await trio.sleep(HEARTBEAT_S)
            if not self._board.gpus:
                continue
            try:
                self._board.gpus = masked(await self._steps.devices.read(), self._mask)
            except OrchError as exc:
                self._say(life.Broke(exc))
                return
            # in a thread: an engine with hundreds of threads has as many files to read
            self._board.ram_bytes = await trio.to_thread.run_sync(self._steps.ram_bytes)

    async def _register(self) -> None:
        token = self._settings.auth_token
        client = Client(
            Target.unix(self._settings.front_socket),
            token=token.reveal() if token is not None else None,
        )
        await keep_registered(
            client, self._registration, self._wait_ready, lambda: bool(self._board.links)
        )

    async def _wait_ready(self) -> None:
        while not self._life.ready:
            self._became_ready = trio.Event()
            await self._became_ready.wait()

    def _registration(self) -> WorkerRegistration | None:
        if not self._life.ready:
            return None
        pool = self._pool
        return WorkerRegistration(
            pool_id=pool.id,
            replica_id=self._replica_id,
            engine=pool.engine.id,
            engine_version=Text(self._board.engine_version),
            sampler_profile_version=pool.engine.sampler_profile_version,
            slots_total=Positive(pool.slots),
        )

    def _turned(self) -> None:
        self._turn_at = trio.current_time()

    def _alive(self) -> bool:
        """Whether the loop does its work: the board and the sweep of the jobs had their turns."""
        now = trio.current_time()
        return now - self._turn_at < STUCK_S and now - self._jobs.swept_at < STUCK_S
