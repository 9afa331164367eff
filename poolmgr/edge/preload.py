"""The steps to Ready, one method each: devices, provision, start, load, self-test, and the watch.

Each step ends with an event for core/life.py, or raises OrchError, which becomes `Broke`. The
order of the steps is the table's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Final

import trio

from orchd.config.schema import Backend, Pool, Settings
from orchd.kit import log
from orchd.kit.client import PeerError
from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import DeviceMask, ReplicaId
from orchd.wire.snapshot import GpuProof
from poolmgr.core import fit, life
from poolmgr.core.gpus import named
from poolmgr.core.proof import prove
from poolmgr.edge import child as children
from poolmgr.edge import procs
from poolmgr.edge.board import Board
from poolmgr.edge.child import Child
from poolmgr.edge.devices import Devices, Nvml, Simulated, masked
from poolmgr.edge.engine import Engine, check_identity
from poolmgr.engines.base import Adapter, Load
from poolmgr.provision.models import stage
from poolmgr.provision.plan import Plan, plan

LOAD_S: Final = 25 * 60.0
"""140 GB at the 100 MB/s of a hard disk; below TimeoutStartSec= of units/poolmgr@.service, so that
the cause is told by us."""
PROBE_FIRST_S: Final = 0.01
PROBE_MAX_S: Final = 1.0
HEALTH_S: Final = 2.0
HEALTH_DOUBT_S: Final = 0.5
"""Until the next probe of an engine that did not answer the last one."""
HEALTH_LOST: Final = 3
"""Probes in a row without an answer before an engine is given up: one may meet a full queue."""
LAST_BYTES_S: Final = 0.2
"""After the engine's end: its last lines are still in the pipe, and its jobs see for themselves."""
LAST_LINE: Final = 160  # characters of it in a status line, which has to hold the advice too

Say = Callable[[life.Event], None]
_WAITED_OUT: Final = frozenset({Kind.ENGINE_UNHEALTHY, Kind.SELF_TEST_FAILED})


class Preload:
    """What is known of the engine so far, and the steps that find out more."""

    def __init__(
        self,
        settings: Settings,
        pool: Pool,
        replica_id: ReplicaId,
        mask: DeviceMask,
        adapter: Adapter,
        board: Board,
    ) -> None:
        self.engine: Engine | None = None
        self._settings = settings
        self._pool = pool
        self._replica_id = replica_id
        self._mask = mask
        self._adapter = adapter
        self._board = board
        self._child: Child | None = None
        self._plan: Plan | None = None
        self._external_pid: int | None = None
        self._was_ready = False
        self.devices: Devices = (
            Simulated(settings.devices, mask, self._simulated_bytes)
            if settings.devices.backend is Backend.SIMULATED
            else Nvml(mask)
        )

    @property
    def _external(self) -> bool:
        return self._plan is not None and self._plan.argv is None

    def _simulated_bytes(self) -> int:
        return self._pool.engine.vram_mb << 20 if self._child is not None else 0

    def engine_pids(self) -> frozenset[int]:
        """Return the engine's processes; empty when there is none or it cannot be found."""
        child = self._child  # once: ram_bytes runs in a thread
        if child is not None:
            return child.pids()
        return procs.tree(self._external_pid) if self._external_pid else frozenset()

    def ram_bytes(self) -> int:
        """Return the resident memory of the engine's processes."""
        return procs.resident_bytes(self.engine_pids())

    async def find_devices(self, say: Say) -> None:
        """Read the GPUs of the mask. Raises DRIVER_UNAVAILABLE, DEVICE_MISSING."""
        self._board.gpus = masked(await self.devices.read(), self._mask)
        say(life.DevicesFound(named(self._board.gpus)))

    async def provision(self, say: Say) -> None:
        """Stage the model, find the engine's program, compare needs with what is free.

        Raises MODEL_MISSING, ENGINE_MISSING, VRAM_SHORT, RAM_SHORT, CONFIG_INVALID.
        """
        pool, gpus = self._pool, self._board.gpus
        model = await stage(self._settings, pool)
        socket = self._settings.engine_socket(self._replica_id)
        self._plan = plan(pool, self._adapter, model, socket, tuple(gpu.uuid for gpu in gpus))
        if self._plan.need is not None:
            words = fit.check(
                model.name, self._plan.need, gpus, pool.tensor_split, procs.available_bytes()
            )
            log.event(
                "model_fits",
                f"{words}.",
                replica_id=self._replica_id,
                model_bytes=model.size_bytes,
            )
        say(life.Provisioned(model.name))

    def start(self) -> Child | None:
        """Start the engine; None when it is external. Raises ENGINE_START_FAILED."""
        plan_ = self._plan
        assert plan_ is not None, "the table has provisioning first"
        self.engine = Engine(plan_.target, self._adapter, self._pool.slots)
        if plan_.argv is None or plan_.socket is None:
            return None
        try:
            plan_.socket.parent.mkdir(parents=True, exist_ok=True)
            plan_.socket.unlink(missing_ok=True)  # a stale file makes llama-server's bind fail
        except OSError as exc:
            words = f"the engine cannot have its socket {plan_.socket}: {exc.strerror}"
            raise OrchError(Kind.ENGINE_START_FAILED, words) from exc
        self._child = children.start(plan_.argv, plan_.env)
        self._board.engine_pid = self._child.pid
        log.event(
            "engine_started",
            f"Started the engine as process {self._child.pid}.",
            replica_id=self._replica_id,
            engine_pid=self._child.pid,
            argv=" ".join(plan_.argv),
        )
        return self._child

    async def watch_child(self, say: Say) -> None:
        """Wait for the engine's end; any end is a failure, also with code 0."""
        child = self._child
        assert child is not None
        ending = await child.wait()
        await trio.sleep(LAST_BYTES_S)
        when, kind = (
            ("", Kind.ENGINE_DIED)
            if self._was_ready
            else (" before it served", Kind.ENGINE_START_FAILED)
        )
        last = f"; its last line: {child.last_lines[-1][:LAST_LINE]}" if child.last_lines else ""
        log.event(
            "engine_ended",
            f"The engine {ending}{when}.",
            level="error",
            replica_id=self._replica_id,
            engine_pid=child.pid,
            last_lines="\n".join(child.last_lines) or None,
        )
        say(life.Broke(OrchError(kind, f"the engine {ending}{when}{last}")))

    async def load(self, say: Say) -> None:
        """Probe until the engine serves. An external one may take for ever."""
        engine = self.engine
        assert engine is not None
        if self._external:  # it may be another one by now
            self._external_pid = self._board.engine_pid = None
            self._board.proof = GpuProof.PENDING
        give_up_at = trio.current_time() + LOAD_S
        pause = PROBE_FIRST_S
        while True:
            error: OrchError | None = None
            try:
                state, words = await engine.probe()
            except PeerError as exc:
                state, words = Load.LOADING, "it does not answer yet"
                if self._external:
                    words = f"it does not answer at {engine.target}"
                    error = OrchError(Kind.ENGINE_UNHEALTHY, f"{words}: {exc}")
            if state is Load.SERVING:
                say(life.Serving())
                return
            if state is Load.BROKEN:
                error = OrchError(Kind.ENGINE_UNHEALTHY, words)
                if not self._external:
                    raise error
            if trio.current_time() > give_up_at and not self._external:
                raise OrchError(
                    Kind.ENGINE_UNHEALTHY,
                    f"the engine does not serve after {LOAD_S:.0f} s: {words}",
                )
            say(life.StillLoading(words, error))
            await trio.sleep(pause)
            pause = min(pause * 1.5, PROBE_MAX_S)

    async def self_test(self, say: Say) -> None:
        """Compare, prove, generate. What breaks with an external engine is waited out."""
        lost: OrchError | None = None
        try:
            await self._self_test()
        except OrchError as exc:
            if not self._external or exc.kind not in _WAITED_OUT:
                raise
            lost = exc
        if lost is not None:
            await trio.sleep(HEALTH_S)
            say(life.HealthLost(lost))
            return
        self._was_ready = True
        say(life.SelfTestPassed(self._board.proof))

    async def _self_test(self) -> None:
        engine = self.engine
        assert engine is not None
        props = await engine.props()
        check_identity(self._pool, props)
        self._board.props = props
        self._board.proof = await self._proof(engine)
        for workload in self._pool.workloads:
            dimension = await engine.try_out(workload)
            self._board.embedding_dim = dimension or self._board.embedding_dim

    async def _proof(self, engine: Engine) -> GpuProof:
        """Where the engine runs. Raises CPU_FALLBACK, GPU_MISMATCH, NOT_ATTESTED."""
        gpus = await self.devices.read()
        self._board.gpus = masked(gpus, self._mask)
        if self.devices.simulated:
            return GpuProof.SIMULATED
        if self._child is None:
            self._external_pid = await trio.to_thread.run_sync(procs.server_pid, engine.target)
            self._board.engine_pid = self._external_pid
        return prove(
            gpus,
            self.engine_pids() or None,
            self._mask,
            attested=self._pool.provisioning.gpu_attested,
        )

    async def watch_health(self, say: Say) -> None:
        """Probe while Ready. An external engine may come back, ours is started anew.

        One that comes back is proven anew, also when it is there before the next probe.
        """
        engine = self.engine
        assert engine is not None
        lost = 0
        while True:
            with trio.move_on_after(HEALTH_DOUBT_S if lost else HEALTH_S):
                ended = await self._external_end()
                say(life.HealthLost(OrchError(Kind.ENGINE_UNHEALTHY, ended)))
                return
            try:
                state, words = await engine.probe()
            except PeerError as exc:
                state, words = Load.BROKEN, f"it does not answer: {exc}"
                if exc.phase == "connect":
                    lost = HEALTH_LOST  # nobody listens any more
            lost = 0 if state is Load.SERVING else lost + 1
            if lost < HEALTH_LOST:
                self._board.kv_ratio = await engine.kv_ratio() if not lost else None
                continue
            error = OrchError(Kind.ENGINE_UNHEALTHY, f"the engine stopped serving: {words}")
            if not self._external:
                raise error
            say(life.HealthLost(error))
            return

    async def _external_end(self) -> str:
        """Return, in words, that the external engine's process has ended; never if it is unseen."""
        pid = self._external_pid
        if pid is None:
            await trio.sleep_forever()
        await procs.wait_gone(pid)
        await trio.sleep(LAST_BYTES_S)
        return f"the engine's process {pid} has ended"

    async def stop(self) -> None:
        """End the engine. Takes at most some ten seconds."""
        if self.engine is not None:
            self.engine.close()
        child = self._child
        if child is None:
            return
        was_running = child.running
        ending = await child.stop()
        self._child = self._board.engine_pid = None
        if not was_running:
            return  # watch_child has told it
        log.event(
            "engine_stopped",
            f"The engine {ending}.",
            replica_id=self._replica_id,
            engine_pid=child.pid,
        )

    def close(self) -> None:
        """Leave nothing of the engine behind, however poolmgr ends: a bug and a second SIGTERM come
        without stop()."""
        if self._child is not None:
            self._child.kill()
        if self._plan is not None and self._plan.socket is not None:
            with contextlib.suppress(OSError):
                self._plan.socket.unlink()
