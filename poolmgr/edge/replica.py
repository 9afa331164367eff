"""One replica at work: does the effects of core/life.py and answers with its events.

Every step is a task of one of two nurseries: `work` is what a stop or a failure ends (preload,
health watch), `services` last until the exit (socket, board, jobs). The steps are in preload.py.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Final, assert_never

import trio

from orchd.config.pool import Mode, Pool
from orchd.config.schema import Settings
from orchd.kit import http, log
from orchd.kit.client import Client, Target
from orchd.kit.notify import Notifier
from orchd.kit.run import started
from orchd.wire.control import WorkerRegistration, model_ref_fault
from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import DeviceMask, Positive, ReplicaId, Text
from orchd.wire.snapshot import Phase
from poolmgr.core import life
from poolmgr.core import lifewords as lw
from poolmgr.core.slots import Slots
from poolmgr.edge import door
from poolmgr.edge.board import Board
from poolmgr.edge.gpu_watch import GpuWatch
from poolmgr.edge.jobs import Jobs
from poolmgr.edge.link import Side
from poolmgr.edge.orphans import reap
from poolmgr.edge.register import keep_registered
from poolmgr.edge.reports import Reports
from poolmgr.edge.server import Server
from poolmgr.edge.sleep import SleepWatch
from poolmgr.edge.succession import LAST_WORDS_S, Succession
from poolmgr.engines.registry import adapter as adapter_of
from poolmgr.provision.models.reloaded import in_force
from poolmgr.provision.state import folder

STUCK_S: Final = 15.0
"""Past so long without a turn of the board or of the jobs, the watchdog is not fed any more."""


class Replica:
    """The replica of `pool` on `mask`."""

    def __init__(
        self, settings: Settings, pool: Pool, replica_id: ReplicaId, mask: DeviceMask
    ) -> None:
        self._settings = settings
        self._configured = pool
        pool = in_force(pool, settings.reloaded_file(replica_id))
        self._replica_id = replica_id
        self._notifier = Notifier()
        self._life = life.Life(trio.current_time())
        slots = Slots(pool.slots)
        adapter = adapter_of(self._configured)
        self._board = Board(pool, replica_id, mask, adapter, self._life, slots, self._notifier)
        self._board.configured(self._configured.model.ref)
        token = settings.auth_token
        self._front = Client(
            Target.unix(settings.front_socket),
            token=token.reveal() if token is not None else None,
        )
        self._reports = Reports(folder(settings) / f"{replica_id}.selftests", self._front)
        self._jobs = Jobs(adapter, slots, pool.workloads, self._board.changed, pool.watchdog)
        self._engines = Succession(
            settings,
            self._configured,
            replica_id,
            mask,
            adapter,
            self._board,
            self._jobs,
            self._reports,
            self._say,
        )
        self._emptying = trio.CancelScope()
        self._sleep = SleepWatch(replica_id, self._happened)
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
            self._configured.id, self._replica_id, self._jobs, self._board.state, self._board.links
        )
        gpus = GpuWatch(self._board, self._life, self._mask, self._engines, self._say)
        server = Server(side, self._board.snapshot, self._board.page, self._tokenize, self)
        try:
            async with trio.open_nursery() as services:
                self._services = self._engines.services = services
                await services.start(self._jobs.serve)
                await services.start(http.serve, listeners, server.handle)
                services.start_soon(self._board.serve, self._turned)
                services.start_soon(self._notifier.keep_beating, self._alive)
                services.start_soon(gpus.refresh)
                services.start_soon(gpus.listen)
                services.start_soon(self._sleep.watch)
                services.start_soon(self._register)
                services.start_soon(self._watch_door, listeners)
                services.start_soon(self._reports.keep_sending)
                await services.start(self._hold_work)
                services.start_soon(self._watch_stop, stop)
                await self._clear_the_place()
                if self._life.phase is Phase.DEVICES:  # and no stop came meanwhile
                    self._happened(lw.Begun())
                await self._exit.wait()
                services.cancel_scope.cancel()
        finally:
            for engine in self._engines.all():
                engine.close()
        if self._error is not None:
            raise self._error

    async def _clear_the_place(self) -> None:
        """Kill what an earlier life has left, and see its memory return. At most 10 s."""
        engine_socket = self._settings.engine_socket
        sockets = [engine_socket(self._replica_id, seat) for seat in (0, 1)]
        left = await reap(self._replica_id, sockets)
        await self._engines.now.memory_back(left)

    # events and effects

    def _happened(self, event: lw.Event) -> None:
        """Tell the life; do what it says."""
        effects = self._life.handle(event, trio.current_time())
        self._jobs.refusal = self._refusal()
        for effect in effects:
            self._do(effect)

    def _refusal(self) -> OrchError | None:
        if self._life.ready:
            return None
        if self._life.draining:
            return OrchError(Kind.DRAINING, self._board.status)
        return OrchError(Kind.POOL_UNREADY, self._board.status)

    async def _tokenize(self, text: str) -> tuple[int, ...]:
        """Return the tokens of a text. Raises OrchError: not Ready, what the engine says."""
        if self._jobs.refusal is not None:
            raise self._jobs.refusal
        assert self._engines.now.engine is not None, "Ready with an engine only"
        return await self._engines.now.engine.tokenize(text)

    def drain(self, deadline_s: float) -> None:
        """Begin to drain. Raises OrchError: RELOAD_UNDER_WAY, DRAINING when it stops already."""
        self._control(lw.DrainAsked(deadline_s))

    def reload(self, model_ref: str, digest: str | None) -> None:
        """Begin to reload; the model must have `digest` where one is given.

        Raises OrchError: RELOAD_UNDER_WAY, INVALID_PARAMS for an external engine, POOL_UNREADY,
        DRAINING.
        """
        fault = model_ref_fault(model_ref)
        if fault is not None:
            raise OrchError(Kind.INVALID_PARAMS, fault, path="$.new_model_ref")
        if self._configured.mode is Mode.EXTERNAL:
            raise OrchError(
                Kind.INVALID_PARAMS,
                f"the engine of pool {self._configured.id} is external: whoever started it gives "
                "it another model",
                path="$.new_model_ref",
            )
        self._control(lw.ReloadAsked(model_ref, digest))

    def _control(self, event: lw.Event) -> None:
        if self._life.reloading:
            raise OrchError(
                Kind.RELOAD_UNDER_WAY, f"{self._replica_id} reloads: {self._board.status}"
            )
        if (self._life.phase, type(event)) not in life.TABLE:
            refusal = self._refusal()
            raise refusal or OrchError(Kind.POOL_UNREADY, self._board.status)
        self._happened(event)

    def _do(self, effect: lw.Effect) -> None:
        match effect:
            case lw.Announce():
                self._board.announce()
            case lw.FailJobs(error):
                self._jobs.stop_all(error)
            case lw.Drain(deadline_s):
                self._emptying.cancel()
                self._notifier.stopping(self._board.status)
                self._services.start_soon(self._drain, deadline_s)
            case lw.StopEngine():
                self._work.cancel_scope.cancel()
                self._services.start_soon(self._stop_engine)
            case lw.Exit(error):
                self._error = error
                self._exit.set()
            case lw.LetSleep() | lw.Probe() | lw.Resume():
                self._do_sleep(effect)
            case (
                lw.FindDevices() | lw.Provision() | lw.StartEngine() | lw.WaitForHealth()
                | lw.SelfTest() | lw.BecomeReady()
            ):  # fmt: skip
                self._do_step(effect)
            case _:
                self._do_control(effect)

    def _do_step(self, effect: lw.StepEffect) -> None:
        engines = self._engines
        match effect:
            case lw.FindDevices():
                engines.step(engines.now.find_devices)
            case lw.Provision():
                engines.step(engines.now.provision)
            case lw.StartEngine():
                engines.start()
            case lw.WaitForHealth():
                engines.step(engines.now.load)
            case lw.SelfTest():
                engines.step(engines.now.self_test)
            case lw.BecomeReady():
                self._become_ready()
            case _:
                assert_never(effect)

    def _do_sleep(self, effect: lw.SleepEffect) -> None:
        match effect:
            case lw.LetSleep():
                self._sleep.let()
            case lw.Probe():
                self._engines.step(self._engines.now.probe_again)
            case lw.Resume():
                self._log_ready()
                self._became_ready.set()
            case _:
                assert_never(effect)

    def _do_control(self, effect: lw.ControlEffect) -> None:
        match effect:
            case lw.Empty(deadline_s):
                self._emptying.cancel()
                self._emptying = trio.CancelScope()
                self._work.start_soon(self._empty, deadline_s, self._emptying)
            case lw.PrepareNew(model_ref, digest):
                self._engines.prepare(model_ref, digest)
            case lw.StopOld():
                self._engines.stop_old()
            case lw.StartNew():
                self._engines.start_new()
            case lw.SelfTestNew():
                self._engines.self_test_new()
            case lw.Switch():
                self._engines.switch()
                self._log_ready()
                self._became_ready.set()
            case lw.DropNew():
                self._engines.drop_new()
            case lw.Restore():
                self._engines.restore()
            case _:
                assert_never(effect)

    def _say(self, event: lw.Event) -> None:
        """An event of the work, unless the work has been ended meanwhile."""
        if not self._work.cancel_scope.cancel_called:
            self._happened(event)

    def _become_ready(self) -> None:
        assert self._engines.now.engine is not None
        self._jobs.attach(self._engines.now.engine.client, self._board.pool.model.ref)
        self._notifier.ready(self._board.status)
        self._log_ready()
        self._became_ready.set()
        started()
        self._engines.step(self._engines.now.watch_health)

    def _log_ready(self) -> None:
        log.event(
            "pool_ready",
            f"Replica {self._replica_id} is ready: {self._board.status}.",
            replica_id=self._replica_id,
            pool_id=self._configured.id,
            engine_version=self._board.engine_version,
            gpu_proof=self._board.engine.proof,
        )

    # drain and reload

    async def _empty(self, deadline_s: float, scope: trio.CancelScope) -> None:
        with scope:
            with trio.move_on_after(deadline_s):
                await self._jobs.wait_none()
            self._say(lw.Emptied())

    async def _drain(self, deadline_s: float) -> None:
        with trio.move_on_after(deadline_s):
            await self._jobs.wait_none()
        self._happened(lw.Drained())

    async def _stop_engine(self) -> None:
        self._notifier.stopping(self._board.status)
        with trio.move_on_after(LAST_WORDS_S):
            await self._jobs.wait_none()
        async with trio.open_nursery() as nursery:
            for engine in self._engines.all():
                nursery.start_soon(engine.stop)
        with trio.move_on_after(LAST_WORDS_S):
            for link in list(self._board.links):
                await link.flush()
        self._happened(lw.EngineStopped())

    # services

    async def _hold_work(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Keep the nursery of the work open."""
        async with trio.open_nursery() as work:
            self._work = self._engines.work = work
            task_status.started()
            await trio.sleep_forever()

    async def _watch_stop(self, stop: trio.Event) -> None:
        await stop.wait()
        self._happened(lw.StopAsked())

    async def _watch_door(self, listeners: Sequence[socket.socket]) -> None:
        self._say(lw.Broke(await door.shut(listeners, lambda: bool(self._board.links))))

    async def _register(self) -> None:
        await keep_registered(
            self._front, self._registration, self._wait_ready, lambda: bool(self._board.links)
        )

    async def _wait_ready(self) -> None:
        while not self._life.ready:
            self._became_ready = trio.Event()
            await self._became_ready.wait()

    def _registration(self) -> WorkerRegistration | None:
        if not self._life.ready:
            return None
        board, pool, tuning = self._board, self._board.pool, self._board.tuning
        return WorkerRegistration(
            pool_id=pool.id,
            replica_id=self._replica_id,
            engine=pool.engine.id,
            engine_version=Text(self._board.engine_version),
            sampler_profile_version=pool.engine.sampler_profile_version,
            slots_total=Positive(pool.slots),
            model_ref=pool.model.ref,
            model_digest=None if board.model_digest is None else Text(board.model_digest),
            ubatch=None if tuning.ubatch is None else Positive(tuning.ubatch),
            flash_attention=(
                None if tuning.flash_attention is None else Text(tuning.flash_attention)
            ),
        )

    def _turned(self) -> None:
        self._turn_at = trio.current_time()

    def _alive(self) -> bool:
        """Whether the loop does its work: the board and the sweep of the jobs had their turns."""
        now = trio.current_time()
        return now - self._turn_at < STUCK_S and now - self._jobs.swept_at < STUCK_S
