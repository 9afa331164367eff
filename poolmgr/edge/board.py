"""What is told of the replica: snapshots to links and `GET /state`, STATUS= to systemd.

A change of phase is told at once; busy slots and figures of the GPUs at most every SETTLE_S, and
everything every HEARTBEAT_S. What a phase means is in core/life.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final
from uuid import uuid4

import trio
from attrs import define

from orchd.config.pool import Mode, Pool
from orchd.kit.notify import Notifier
from orchd.wire import link as wire
from orchd.wire.ids import Count, DeviceMask, Digest, NonNegative, Positive, ReplicaId, Text, known
from orchd.wire.snapshot import HEARTBEAT_S, Cause, Device, GpuProof, Phase, Snapshot
from poolmgr.core.gpus import Gpu
from poolmgr.core.life import Life
from poolmgr.core.slots import Slots
from poolmgr.core.xid import Ledger
from poolmgr.edge.link import Link
from poolmgr.edge.scrape import exposition
from poolmgr.engines.base import Adapter, Props, Tuning

SETTLE_S: Final = 0.05
"""How long a change of slots or figures waits for others. orchd counts its own leases, so this is
news about other links' jobs only; told at once, it would be in the way of the first token."""
START_S: Final = 3600.0
"""TimeoutStartSec= of units/poolmgr@.service: as much time after a fetch as without one."""
EXTEND_S: Final = 30.0
"""How often systemd is told so while a fetch goes on."""
STATUS_S: Final = 1.0
"""Every STATUS= is work for PID 1 and a signal on its bus; slots change many times a second."""


@define
class Facts:
    """What is known of one engine."""

    props: Props | None = None
    model_digest: str | None = None
    """What the engine says its model's digest is, else that of the files."""
    fetched_digest: Digest | None = None
    """Of the model's files, where a fetch brought them."""
    engine_digest: str | None = None
    """Of what was brought for it (provisioning)."""
    proof: GpuProof = GpuProof.PENDING
    pid: int | None = None
    kv_ratio: float | None = None
    kv_bytes_per_token: int | None = None
    """Of an engine that reserves its cache when it loads; None: not known."""
    embedding_dim: int | None = None
    """Numbers of a vector, as the self-test saw it."""


class Board:
    """The one place that builds snapshots."""

    def __init__(
        self,
        pool: Pool,
        replica_id: ReplicaId,
        mask: DeviceMask,
        adapter: Adapter,
        life: Life,
        slots: Slots,
        notifier: Notifier,
    ) -> None:
        self.links: set[Link] = set()
        self.gpus: tuple[Gpu, ...] = ()
        """Those of the mask, as last read."""
        self.engine = Facts()
        """Of the engine that serves."""
        self.gpus_known = trio.Event()
        """Set once they were read."""
        self.ledger = Ledger()
        """What the driver told of them."""
        self.ram_bytes = 0
        self.pool = pool
        """With the model that is served."""
        self._configured_ref = pool.model.ref
        self._instance = str(uuid4())
        self._replica_id = replica_id
        self._mask = mask
        self._adapter = adapter
        self._life = life
        self.slots = slots
        self._notifier = notifier
        self._seq = 0
        self._said = ""
        self._said_phase: Phase | None = None
        self._said_at = 0.0
        self._extended_at = -EXTEND_S
        self._changed = trio.Event()

    @property
    def status(self) -> str:
        """The sentence of now."""
        return self._life.status(trio.current_time(), self.slots.active, self.slots.total)

    @property
    def last_error(self) -> Cause | None:
        """Why it is not, or was not, ready."""
        return self._life.last_error

    @property
    def engine_version(self) -> str:
        """What the engine says it is; the configured pin, or `unknown`, until it does."""
        return self.version_of(self.engine)

    def version_of(self, engine: Facts) -> str:
        """The same of any engine of this replica."""
        props = engine.props
        return props.engine_version if props else self.pool.engine.version or "unknown"

    @property
    def model_digest(self) -> str | None:
        """Of the model that is served; the configured one until it is known."""
        return self.engine.model_digest or self.pool.model.digest

    @property
    def tuning(self) -> Tuning:
        """What else changes the output; nothing is known of an engine that others started."""
        if self.pool.mode is Mode.EXTERNAL:
            return Tuning()
        serving = self._adapter.serving(self.pool)
        return self._adapter.tuning((*serving, *self.pool.engine.args))

    def configured(self, model_ref: str) -> None:
        """The model of the configuration, where `pool` has that of an earlier reload."""
        self._configured_ref = Text(model_ref)

    def snapshot(self) -> Snapshot:
        """Return the replica as it is now."""
        self._seq += 1
        life, engine, pool, slots = self._life, self.engine, self.pool, self.slots
        tuning, reloaded = self.tuning, pool.model.ref != self._configured_ref
        return Snapshot(
            seq=Count(self._seq),
            pool_id=pool.id,
            replica_id=self._replica_id,
            device_mask=self._mask,
            phase=life.phase,
            ready=life.ready,
            draining=life.draining,
            status=self.status,
            engine=pool.engine.id,
            engine_version=self.engine_version,
            sampler_profile_version=pool.engine.sampler_profile_version,
            model_ref=pool.model.ref,
            engine_digest=engine.engine_digest,
            model_digest=self.model_digest,
            fetched_digest=engine.fetched_digest,
            ubatch=known(Positive, tuning.ubatch),
            flash_attention=tuning.flash_attention,
            configured_model_ref=self._configured_ref if reloaded else None,
            reload=life.reload,
            instance=self._instance,
            gates=life.gates,
            gpu_proof=engine.proof,
            workloads=pool.workloads,
            embedding_dim=known(Positive, engine.embedding_dim),
            strict=self._adapter.strict_slots is None or slots.total <= self._adapter.strict_slots,
            ctx_max=pool.ctx,
            slots_total=Positive(slots.total),
            slots_active=Count(slots.active),
            devices=tuple(map(_device, self.gpus)),
            vram_total_bytes=Count(sum(gpu.total_bytes for gpu in self.gpus)),
            vram_free_bytes=Count(sum(gpu.free_bytes for gpu in self.gpus)),
            ram_used_bytes=Count(self.ram_bytes),
            kv_bytes_per_token=(
                pool.engine.kv_bytes_per_token
                if engine.kv_bytes_per_token is None
                else Count(engine.kv_bytes_per_token)
            ),
            kv_reserved=None if engine.kv_bytes_per_token is None else True,
            kv_cache_usage_ratio=known(NonNegative, engine.kv_ratio),
            tokens_per_s=known(NonNegative, slots.tokens_per_s),
            first_token_ms=known(NonNegative, slots.first_token_ms),
            device_events=self.ledger.told() or None,
            last_error=life.last_error,
            engine_pid=known(Count, engine.pid),
        )

    def page(self) -> bytes:
        """Return the scrape page of now."""
        return exposition(self.snapshot(), self._life.preloads, self._life.drains)

    def state(self) -> bytes:
        """Return the STATE message of now."""
        return wire.encode_json(wire.Type.STATE, 0, self.snapshot())

    def not_yet(self) -> None:
        """Have systemd wait longer for Ready: something goes on that takes its time."""
        now = trio.current_time()
        if now - self._extended_at >= EXTEND_S:
            self._extended_at = now
            self._notifier.extend(START_S)

    def announce(self) -> None:
        """Tell systemd and every link, now."""
        self._tell_systemd()
        if self.links:
            message = self.state()
            for link in list(self.links):
                link.send(message)

    def _tell_systemd(self) -> None:
        """STATUS=, if it is another; within a phase at most every STATUS_S."""
        status, phase, now = self.status, self._life.phase, trio.current_time()
        if status == self._said or (phase is self._said_phase and now - self._said_at < STATUS_S):
            return
        self._said_phase, self._said_at = phase, now
        if self._notifier.status(status):
            self._said = status

    def changed(self) -> None:
        """Tell soon: slots or figures changed."""
        self._changed.set()

    async def serve(self, alive: Callable[[], None]) -> None:
        """Announce changes and heartbeats until cancelled. `alive` is called every time."""
        while True:
            with trio.move_on_after(HEARTBEAT_S):
                await self._changed.wait()
                await trio.sleep(SETTLE_S)
            self._changed = trio.Event()
            self.announce()
            alive()


def _device(gpu: Gpu) -> Device:
    return Device(
        index=Count(gpu.index),
        uuid=gpu.uuid,
        name=gpu.name,
        vram_total_bytes=Count(gpu.total_bytes),
        vram_used_bytes=Count(gpu.used_bytes),
        utilization_percent=known(Count, gpu.utilization_percent),
        compute_capability=gpu.compute_capability,
    )
