"""The steps to Ready, one method each: devices, provision, start, load, self-test, and the watch.

Each step ends with an event for core/life.py, or raises OrchError, which becomes `Broke`. The
order of the steps is the table's. What a step does is in its own module: staging,
process, health, trial.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import trio

from orchd.config.devices import Backend
from orchd.config.pool import Pool
from orchd.config.schema import Settings
from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import DeviceMask, ReplicaId
from orchd.wire.shapes import Workload
from orchd.wire.snapshot import GpuProof
from poolmgr.core import canary, fit
from poolmgr.core import lifewords as lw
from poolmgr.core.gpus import Gpu, named
from poolmgr.core.proof import prove
from poolmgr.edge import health
from poolmgr.edge.blame import explained
from poolmgr.edge.board import Board, Facts
from poolmgr.edge.child import Child
from poolmgr.edge.devices import Devices, Nvml, Simulated, masked
from poolmgr.edge.engine import DOUBT_S, Engine
from poolmgr.edge.health import Say
from poolmgr.edge.process import LAST_LINE, Process
from poolmgr.edge.reports import Reports
from poolmgr.edge.room import Room
from poolmgr.edge.staging import Staging
from poolmgr.edge.trial import Trial
from poolmgr.engines.base import Adapter
from poolmgr.engines.mock import held_bytes
from poolmgr.provision.models import lessons

UVM: Final = Path("/dev/nvidia-uvm")
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
        reports: Reports,
        beside: Preload | None = None,
    ) -> None:
        """`beside`: the one that serves, while this one prepares to take its place."""
        self.engine: Engine | None = None
        self.pool = pool
        self.facts = Facts()
        self._mask = mask
        self._adapter = adapter
        self._board = board
        self._reports = reports
        self._replica_id = replica_id
        self._seat: int = 1 - beside._seat if beside is not None else 0
        self._room = Room(lessons.file_of(settings, replica_id), replica_id, mask)
        self.process = Process(replica_id, adapter, self._room, self._seat)
        self.staging = Staging(settings, pool, replica_id, mask, adapter, self._room, self._seat)
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
        plan = self.staging.plan
        return plan is not None and plan.argv is None

    def _simulated_bytes(self) -> int:
        return sum(held_bytes(each.pool) for each in self._running)

    async def find_devices(self, say: Say) -> None:
        """Read the GPUs of the mask. Raises DRIVER_UNAVAILABLE, DEVICE_MISSING."""
        self._board.gpus = masked(await self.devices.read(), self._mask)
        self._board.gpus_known.set()
        say(lw.DevicesFound(named(self._board.gpus)))

    async def provision(self, say: Say) -> None:
        """Stage the model, find the engine's program, compare needs with what is free.

        Raises VRAM_SHORT, RAM_SHORT, and what Staging.stage raises.
        """
        await self._stage(say)
        self.staging.check(self._board.gpus)
        say(lw.Provisioned(self.staging.name))

    async def _stage(self, say: Say) -> None:
        def fetching(words: str) -> None:
            say(lw.Fetching(words))
            self._board.not_yet()

        try:
            need = (await self.staging.stage(self._board.gpus, fetching)).need
        finally:  # a model that is here is told of, also where its engine is not
            self.facts.fetched_digest = self.staging.fetched_digest
        self.facts.engine_digest = self.staging.engine_digest
        if need is not None:
            self.facts.kv_bytes_per_token = need.kv_bytes_per_token

    async def make_room(self, say: Say) -> None:
        """Stage the model, and say whether its engine fits beside the one that runs.

        Raises what `provision` raises; VRAM_SHORT only where it would not fit without the other
        either.
        """
        old = self._beside
        assert old is not None, "a reload has somebody to replace"
        await self._stage(say)
        gpus = masked(await self.devices.read(), self._mask)
        roomy = self.staging.fits_beside(old.staging, old.held_bytes(gpus), gpus)
        say(lw.Roomy() if roomy else lw.Cramped())

    def held_bytes(self, gpus: tuple[Gpu, ...]) -> tuple[int, ...] | None:
        """Return what the engine holds of each GPU; None where NVML does not say."""
        if self.devices.simulated:
            return (held_bytes(self.pool) // len(gpus),) * len(gpus)
        pids, held = self.process.pids(), []
        for gpu in gpus:
            mine = [process for process in gpu.processes or () if process.pid in pids]
            sizes = [process.used_bytes for process in mine if process.used_bytes is not None]
            if not mine or len(sizes) != len(mine):
                return None
            held.append(sum(sizes))
        return tuple(held)

    def start(self) -> Child | None:
        """Start the engine; None when it is external. Raises ENGINE_START_FAILED."""
        plan = self.staging.plan
        assert plan is not None, "the table has provisioning first"
        self.engine = Engine(
            plan.target,
            self._adapter,
            self.pool.slots,
            key=plan.key,
            services=plan.services,
            gate=self.staging.gate,
        )
        child = self.process.start(plan)
        if child is not None:
            self.facts.pid = child.pid
            self._running.add(self)
        return child

    async def watch_child(self, say: Say) -> None:
        """Wait for the engine's end, which is a failure however it came."""
        ended = await self.process.ended(self.devices)
        say(lw.Broke(await explained(ended, self.devices, self._mask, self._board.ledger)))

    async def load(self, say: Say) -> None:
        """Probe until the engine serves. An external one may take for ever."""
        assert self.engine is not None
        if self._external:  # it may be another one by now
            self.process.external_pid = self.facts.pid = None
            self.facts.proof = GpuProof.PENDING
        await health.loaded(self.engine, say, external=self._external)

    async def self_test(self, say: Say) -> None:
        """Test it before it serves. What breaks with an external engine is waited out."""
        lost: OrchError | None = None
        try:
            await self.tested()
        except OrchError as exc:
            if not self._external or exc.kind not in _WAITED_OUT:
                raise
            lost = exc
        if lost is not None:
            await trio.sleep(health.HEALTH_S)
            say(lw.HealthLost(lost))
            return
        say(lw.SelfTestPassed(self.facts.proof))

    async def tested(self) -> GpuProof:
        """Put the engine through the self-test, and keep the report. Raises OrchError."""
        engine, board = self.engine, self._board
        assert engine is not None
        # during a reload the slots are those of the engine that serves
        slots = board.slots if self._beside is None else None
        trial = Trial(
            self._replica_id,
            self.pool,
            self.facts,
            engine,
            self._model_digest,
            self._proof,
            board.page,
            slots,
        )
        broke: OrchError | None = None
        try:
            await trial.run()
        except OrchError as exc:
            broke = exc
        self._reports.take(trial.report(self._mask, board.version_of(self.facts), broke))
        if broke is not None:
            await self._reports.save()  # this life may end with it
            raise broke
        self.process.was_ready = True
        return self.facts.proof

    async def compare(self, old_tokens_per_s: float | None, say: Say) -> None:
        """Let the new engine answer the canary. Raises OrchError(CANARY_FAILED)."""
        assert self.engine is not None
        asked, answer = self.pool.canary, None
        if Workload.COMPLETION in self.pool.workloads:
            answer = await self.engine.sing(asked.prompt, asked.max_tokens)
        gpus = masked(await self.devices.read(), self._mask)
        held, need = self.held_bytes(gpus), self.staging.need
        seen = canary.figures(
            answer,
            old_tokens_per_s,
            None if held is None else sum(held),
            None if need is None else canary.planned_bytes(need, len(gpus)),
        )
        say(lw.Compared(seen))
        wanted = canary.Wanted(
            expect=asked.expect,
            expect_sha256=asked.expect_sha256,
            min_rate_ratio=asked.min_rate_ratio,
            vram_margin_bytes=asked.vram_margin_mb << 20,
        )
        canary.judge(wanted, answer, seen)

    async def _model_digest(self) -> str | None:
        return await self.staging.digest(self._board.not_yet)

    async def _proof(self, engine: Engine) -> GpuProof:
        """Where the engine runs. Raises CPU_FALLBACK, GPU_MISMATCH, NOT_ATTESTED."""
        gpus = await self.devices.read()
        self._board.gpus = masked(gpus, self._mask)
        if self.devices.simulated:
            return GpuProof.SIMULATED
        plan = self.staging.plan
        if self.process.child is None or (plan is not None and plan.sweep):
            # a container is a child of its own supervisor (conmon, dockerd), not of ours
            self.facts.pid = await self.process.find_external(engine.target)
        need = self.staging.need
        floors: tuple[int, ...] = ()
        if need is not None:
            floors = fit.floors(need, self._board.gpus, self.pool.tensor_split)
        return prove(
            gpus,
            self.process.pids() or None,
            self._mask,
            attested=self.pool.provisioning.gpu_attested,
            floors=floors,
            floor=(need.floor_bytes or 0) if need is not None else 0,
            why=self._why_on_cpu(),
        )

    def _why_on_cpu(self) -> str | None:
        """Return what may keep an engine off the GPUs: its own word, else what is missing here."""
        said = self._adapter.why_on_cpu(self.process.telling_lines())
        if said is None and not UVM.exists():
            return f"there is no {UVM} (modprobe nvidia_uvm)"
        return None if said is None else said[-LAST_LINE:]

    async def watch_health(self, say: Say) -> None:
        """Probe while Ready. An external engine may come back, ours is started anew.

        One that comes back is proven anew, also when it is there before the next probe.
        """
        assert self.engine is not None
        lost = await health.lost(self.engine, self.facts, self.process.external_end)
        if not self._external:
            await trio.sleep(DOUBT_S)  # it may be ending, which its own watch tells better
        error = await explained(lost, self.devices, self._mask, self._board.ledger)
        if not self._external:
            raise error
        say(lw.HealthLost(error))

    async def probe_again(self, say: Say) -> None:
        """See whether the engine is still what it was, after the machine slept: the driver and the
        GPUs answer, it serves, it holds its memory there, and it computes.

        Raises RESUME_FAILED.
        """
        assert self.engine is not None, "it was ready before the sleep"
        try:
            await health.answers(self.engine)
            self.facts.proof = await self._proof(self.engine)
            for workload in self.pool.workloads:
                await self.engine.try_out(workload)
        except OrchError as exc:
            raise OrchError(
                Kind.RESUME_FAILED, f"after the machine's sleep {exc.kind}: {exc.message}"
            ) from exc
        say(lw.Awake())

    async def stop(self) -> None:
        """End the engine, and see its memory return. Takes at most some 15 seconds."""
        if self.engine is not None:
            self.engine.close()
        if self.process.child is None:
            return
        pids = await self.process.stop()
        self.facts.pid = None
        self._running.discard(self)
        await self.memory_back(pids)

    async def memory_back(self, pids: frozenset[int]) -> None:
        """Return when these processes, which have ended, hold no memory of the mask's GPUs."""
        if pids and not self.devices.simulated:
            await self._room.wait_back(self.devices, pids)

    def close(self) -> None:
        """Leave nothing of the engine behind, however poolmgr ends."""
        self.process.leave_nothing(self.staging.plan)
