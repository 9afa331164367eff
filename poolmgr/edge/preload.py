"""The steps to Ready, one method each: devices, provision, start, load, self-test, and the watch.

Each step ends with an event for core/life.py, or raises OrchError, which becomes `Broke`. The
order of the steps is the table's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

import trio
from attrs import evolve

from orchd.config.devices import Backend
from orchd.config.pool import Pool
from orchd.config.schema import Settings
from orchd.kit import log
from orchd.kit.client import PeerError
from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import DeviceMask, ReplicaId
from orchd.wire.snapshot import GpuProof
from poolmgr.core import fit
from poolmgr.core import lifewords as lw
from poolmgr.core.ending import Ending, judge
from poolmgr.core.gpus import Gpu, named
from poolmgr.core.proof import prove
from poolmgr.edge import child as children
from poolmgr.edge import procs
from poolmgr.edge.board import Board, Facts
from poolmgr.edge.cgroup import ENGINE
from poolmgr.edge.child import Child
from poolmgr.edge.devices import Devices, Nvml, Simulated, masked
from poolmgr.edge.engine import Engine, check_identity
from poolmgr.edge.room import Room
from poolmgr.engines.base import Adapter, Load
from poolmgr.provision import lessons
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
UVM: Final = Path("/dev/nvidia-uvm")
LAST_LINE: Final = 160  # characters of it in a status line, which has to hold the advice too

Say = Callable[[lw.Event], None]
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
        beside: Preload | None = None,
    ) -> None:
        """`beside`: the one that serves, while this one prepares to take its place."""
        self.engine: Engine | None = None
        self.pool = pool
        self.facts = Facts()
        self.name = ""
        """The model's short name, once it is staged."""
        self.weights_bytes: int | None = None
        self._settings = settings
        self._replica_id = replica_id
        self._mask = mask
        self._adapter = adapter
        self._board = board
        self._child: Child | None = None
        self._plan: Plan | None = None
        self._external_pid: int | None = None
        self._room = Room(lessons.file_of(settings, replica_id), replica_id, mask)
        self._was_ready = False
        self._seat: int = 1 - beside._seat if beside is not None else 0
        self._beside = beside
        self._running: set[Preload] = beside._running if beside is not None else set()
        """Those whose engine runs: two during a reload."""
        if beside is not None:
            self.devices: Devices = beside.devices
            return
        self.devices = (
            Simulated(settings.devices, mask, self._simulated_bytes)
            if settings.devices.backend is Backend.SIMULATED
            else Nvml(mask, settings.devices)
        )
        board.engine = self.facts

    @property
    def _external(self) -> bool:
        return self._plan is not None and self._plan.argv is None

    def _simulated_bytes(self) -> int:
        return sum(each.pool.engine.vram_mb << 20 for each in self._running)

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
        say(lw.DevicesFound(named(self._board.gpus)))

    async def provision(self, say: Say) -> None:
        """Stage the model, find the engine's program, compare needs with what is free.

        Raises MODEL_MISSING, ENGINE_MISSING, VRAM_SHORT, RAM_SHORT, CONFIG_INVALID.
        """
        pool, gpus = self.pool, self._board.gpus
        plan_ = await self._stage()
        if plan_.need is not None:
            said = fit.check(
                self.name, plan_.need, gpus, pool.tensor_split, procs.available_bytes()
            )
            self._say_fits(said)
        self._room.begin(gpus)
        say(lw.Provisioned(self.name))

    async def _stage(self) -> Plan:
        pool, gpus = self.pool, self._board.gpus
        model = await stage(self._settings, pool)
        self.name = model.name
        socket = self._settings.engine_socket(self._replica_id, self._seat)
        self._plan = plan(pool, self._adapter, model, socket, tuple(gpu.uuid for gpu in gpus))
        need, argv = self._plan.need, self._plan.argv
        if need is not None and argv is not None:
            self.weights_bytes = need.weights_bytes
            self.facts.kv_bytes_per_token = need.kv_bytes_per_token
            key = lessons.key_of(pool, self._mask, model, argv)
            self._plan = evolve(self._plan, need=self._room.taught(need, key))
        return self._plan

    async def make_room(self, say: Say) -> None:
        """Stage the model, and say whether its engine fits beside the one that runs.

        Raises what `provision` raises; VRAM_SHORT only where it would not fit without the other
        either.
        """
        old = self._beside
        assert old is not None, "a reload has somebody to replace"
        plan_ = await self._stage()
        need = plan_.need
        assert need is not None, "what is reloaded is started by us"
        gpus = masked(await self.devices.read(), self._mask)
        held, ram_bytes = old.held_bytes(gpus), procs.available_bytes()
        self._room.begin(gpus if held is None else fit.without(gpus, held))
        split = self.pool.tensor_split
        if held is not None:
            fit.check(self.name, need, fit.without(gpus, held), split, ram_bytes)
            both = fit.beside(need, sum(held), old.weights_bytes)
            try:
                self._say_fits(
                    f"beside {old.name}: " + fit.check(self.name, both, gpus, split, ram_bytes)
                )
                self._room.begin(gpus)
                say(lw.Roomy())
                return
            except OrchError as exc:
                why = exc.message
        else:
            why = f"what {old.name} holds of the GPU is not known"
        log.event(
            "reload_in_place",
            f"{old.name} stops before {self.name} is loaded: {why}.",
            replica_id=self._replica_id,
        )
        say(lw.Cramped())

    def held_bytes(self, gpus: tuple[Gpu, ...]) -> tuple[int, ...] | None:
        """Return what the engine holds of each GPU; None where NVML does not say."""
        if self.devices.simulated:
            return (self._simulated_bytes() // len(gpus),) * len(gpus)
        pids, held = self.engine_pids(), []
        for gpu in gpus:
            mine = [process for process in gpu.processes or () if process.pid in pids]
            sizes = [process.used_bytes for process in mine if process.used_bytes is not None]
            if not mine or len(sizes) != len(mine):
                return None
            held.append(sum(sizes))
        return tuple(held)

    def _say_fits(self, said: str) -> None:
        log.event(
            "model_fits", f"{said}.", replica_id=self._replica_id, model_bytes=self.weights_bytes
        )

    def start(self) -> Child | None:
        """Start the engine; None when it is external. Raises ENGINE_START_FAILED."""
        plan_ = self._plan
        assert plan_ is not None, "the table has provisioning first"
        self.engine = Engine(plan_.target, self._adapter, self.pool.slots, key=plan_.key)
        if plan_.argv is None or plan_.socket is None:
            return None
        try:
            plan_.socket.parent.mkdir(parents=True, exist_ok=True)
            plan_.socket.unlink(missing_ok=True)  # a stale file makes llama-server's bind fail
        except OSError as exc:
            words = f"the engine cannot have its socket {plan_.socket}: {exc.strerror}"
            raise OrchError(Kind.ENGINE_START_FAILED, words) from exc
        self._child = children.start(
            plan_.argv, plan_.env, f"{ENGINE}{self._seat or ''}", self._adapter.telling
        )
        self.facts.pid = self._child.pid
        self._was_ready = False
        self._running.add(self)
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
        words = await child.wait()
        await trio.sleep(LAST_BYTES_S)
        oom_line = self._adapter.out_of_vram(tuple(child.telling_lines))
        own, machine = child.oom_kills()
        ending = Ending(
            words=words,
            code=child.code,
            was_ready=self._was_ready,
            oom_line=None if oom_line is None else oom_line[-LAST_LINE:],
            own_oom_kills=own,
            machine_oom_kills=machine,
            ram_free_bytes=procs.available_bytes(),
        )
        kind, said = judge(ending)
        last = ""
        if oom_line is not None:
            await self._room.ran_out(self.devices, oom_line, (child.pid,))
        elif child.last_lines:
            last = f"; its last line: {child.last_lines[-1][:LAST_LINE]}"
        log.event(
            "engine_ended",
            f"The engine {said}.",
            level="error",
            replica_id=self._replica_id,
            engine_pid=child.pid,
            last_lines="\n".join(child.last_lines) or None,
        )
        say(lw.Broke(OrchError(kind, f"the engine {said}{last}")))

    async def load(self, say: Say) -> None:
        """Probe until the engine serves. An external one may take for ever."""
        engine = self.engine
        assert engine is not None
        if self._external:  # it may be another one by now
            self._external_pid = self.facts.pid = None
            self.facts.proof = GpuProof.PENDING
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
                say(lw.Serving())
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
            say(lw.StillLoading(words, error))
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
            say(lw.HealthLost(lost))
            return
        self._was_ready = True
        say(lw.SelfTestPassed(self.facts.proof))

    async def _self_test(self) -> None:
        engine = self.engine
        assert engine is not None
        props = await engine.props()
        check_identity(self.pool, props)
        self.facts.props = props
        self.facts.proof = await self._proof(engine)
        for workload in self.pool.workloads:
            dimension = await engine.try_out(workload)
            self.facts.embedding_dim = dimension or self.facts.embedding_dim

    async def _proof(self, engine: Engine) -> GpuProof:
        """Where the engine runs. Raises CPU_FALLBACK, GPU_MISMATCH, NOT_ATTESTED."""
        gpus = await self.devices.read()
        self._board.gpus = masked(gpus, self._mask)
        if self.devices.simulated:
            return GpuProof.SIMULATED
        if self._child is None:
            self._external_pid = await trio.to_thread.run_sync(procs.server_pid, engine.target)
            self.facts.pid = self._external_pid
        need = self._plan.need if self._plan is not None else None
        floors: tuple[int, ...] = ()
        if need is not None:
            floors = fit.floors(need, self._board.gpus, self.pool.tensor_split)
        return prove(
            gpus,
            self.engine_pids() or None,
            self._mask,
            attested=self.pool.provisioning.gpu_attested,
            floors=floors,
            floor=(need.floor_bytes or 0) if need is not None else 0,
            why=self._why_on_cpu(),
        )

    def _why_on_cpu(self) -> str | None:
        """Return what may keep an engine off the GPUs: its own word, else what is missing here."""
        lines = tuple(self._child.telling_lines) if self._child else ()
        said = self._adapter.why_on_cpu(lines)
        if said is None and not UVM.exists():
            return f"there is no {UVM} (modprobe nvidia_uvm)"
        return None if said is None else said[-LAST_LINE:]

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
                say(lw.HealthLost(OrchError(Kind.ENGINE_UNHEALTHY, ended)))
                return
            try:
                state, words = await engine.probe()
            except PeerError as exc:
                state, words = Load.BROKEN, f"it does not answer: {exc}"
                if exc.phase == "connect":
                    lost = HEALTH_LOST  # nobody listens any more
            lost = 0 if state is Load.SERVING else lost + 1
            if lost < HEALTH_LOST:
                self.facts.kv_ratio = await engine.kv_ratio() if not lost else None
                continue
            error = OrchError(Kind.ENGINE_UNHEALTHY, f"the engine stopped serving: {words}")
            if not self._external:
                raise error
            say(lw.HealthLost(error))
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
        """End the engine, and see its memory return. Takes at most some 15 seconds."""
        if self.engine is not None:
            self.engine.close()
        child = self._child
        if child is None:
            return
        was_running, pids = child.running, child.pids()
        ending = await child.stop()
        self._child = self.facts.pid = None
        self._running.discard(self)
        if was_running:  # else watch_child has told it
            log.event(
                "engine_stopped",
                f"The engine {ending}.",
                replica_id=self._replica_id,
                engine_pid=child.pid,
            )
        if not self.devices.simulated:
            await self._room.wait_back(self.devices, pids | {child.pid})

    def close(self) -> None:
        """Leave nothing of the engine behind, however poolmgr ends: a bug and a second SIGTERM come
        without stop()."""
        if self._child is not None:
            self._child.kill()
        if self._plan is not None and self._plan.socket is not None:
            with contextlib.suppress(OSError):
                self._plan.socket.unlink()
