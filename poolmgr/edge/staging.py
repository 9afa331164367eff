"""Before an engine starts: its model on the disk, its program, and whether what it needs is free.

The comparison is core/fit.py's, files and programs are poolmgr/provision's.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import evolve

from orchd.config.pool import Pool
from orchd.config.schema import Settings
from orchd.kit import log
from orchd.kit.client import Gate
from orchd.wire.errors import OrchError
from orchd.wire.ids import DeviceMask, Digest, ReplicaId
from orchd.wire.modelref import is_remote
from poolmgr.core import fit
from poolmgr.core.fit import Need
from poolmgr.core.gpus import Gpu
from poolmgr.edge import procs
from poolmgr.edge.room import Room
from poolmgr.engines.base import Adapter
from poolmgr.provision.models import lessons
from poolmgr.provision.models.models import Staged, digest_of, stage
from poolmgr.provision.starting.brought import brought
from poolmgr.provision.starting.outward import gate_of
from poolmgr.provision.starting.plan import Plan, plan


class Staging:
    """What is known of one engine before it runs."""

    def __init__(
        self,
        settings: Settings,
        pool: Pool,
        replica_id: ReplicaId,
        mask: DeviceMask,
        adapter: Adapter,
        room: Room,
        seat: int,
    ) -> None:
        self.name = ""
        """The model's short name, once it is staged."""
        self.plan: Plan | None = None
        self.engine_digest: str | None = None
        """Of what was brought as the engine; None where nothing was, or it has none."""
        self.fetched_digest: Digest | None = None
        """Of the model that is in the cache; None: it is a file, or not staged yet."""
        self.gate: Gate | None = None
        """What each request to the engine passes, where it is on another machine."""
        self._model: Staged | None = None
        self._settings = settings
        self._pool = pool
        self._replica_id = replica_id
        self._mask = mask
        self._adapter = adapter
        self._room = room
        self._socket = settings.engine_socket(replica_id, seat)

    @property
    def need(self) -> Need | None:
        """What an engine that we start needs; None before `stage`, and of an external one."""
        return self.plan.need if self.plan is not None else None

    @property
    def weights_bytes(self) -> int | None:
        """Of the staged model; None: not known."""
        return self.need.weights_bytes if self.need is not None else None

    async def stage(self, gpus: tuple[Gpu, ...], say: Callable[[str], None]) -> Plan:
        """Stage the model and find the engine's program. `say` hears of a fetch under way.

        Raises MODEL_MISSING, ENGINE_MISSING, CONFIG_INVALID; FETCH_FAILED, OUTBOUND_DENIED,
        DIGEST_MISMATCH, DISK_SHORT of a model that is not here.
        """
        pool = self._pool
        model = self._model = await stage(self._settings, pool, say)
        self.name = model.name
        if model.digest is not None and is_remote(pool.model.ref):
            self.fetched_digest = Digest(model.digest)
        uuids = tuple(gpu.uuid for gpu in gpus)
        engine = await brought(self._settings, pool)
        self.engine_digest = engine.digest if engine is not None else None
        self.plan = plan(pool, self._adapter, model, self._socket, uuids, engine)
        self.gate = gate_of(self._settings, pool, self.plan.target)
        need, program = self.plan.need, self.plan.program
        if need is not None and program is not None:
            key = lessons.key_of(pool, self._mask, model, program)
            self.plan = evolve(self.plan, need=self._room.taught(need, key))
        return self.plan

    async def digest(self, still: Callable[[], None]) -> str | None:
        """Return the digest of the staged model's files; see digest_of. Raises MODEL_MISSING."""
        assert self._model is not None, "it is staged before its engine is tested"
        return await digest_of(self._settings, self._model, still)

    def check(self, gpus: tuple[Gpu, ...]) -> None:
        """Compare needs with what is free. Raises VRAM_SHORT, RAM_SHORT."""
        if self.need is not None:
            ram_bytes = procs.available_bytes()
            self._say(fit.check(self.name, self.need, gpus, self._pool.tensor_split, ram_bytes))
        self._room.begin(gpus)

    def fits_beside(
        self, old: Staging, held: tuple[int, ...] | None, gpus: tuple[Gpu, ...]
    ) -> bool:
        """Return whether the engine fits beside `old`'s, which holds `held` of each GPU.

        Raises VRAM_SHORT, RAM_SHORT where it would not fit without the other either.
        """
        need, split, ram_bytes = self.need, self._pool.tensor_split, procs.available_bytes()
        assert need is not None, "what is reloaded is started by us"
        self._room.begin(gpus if held is None else fit.without(gpus, held))
        if held is not None:
            fit.check(self.name, need, fit.without(gpus, held), split, ram_bytes)
            both = fit.beside(need, sum(held), old.weights_bytes)
            try:
                said = fit.check(self.name, both, gpus, split, ram_bytes)
                self._say(f"beside {old.name}: {said}")
                self._room.begin(gpus)
                return True
            except OrchError as exc:
                why = exc.message
        else:
            why = f"what {old.name} holds of the GPU is not known"
        log.event(
            "reload_in_place",
            f"{old.name} stops before {self.name} is loaded: {why}.",
            replica_id=self._replica_id,
        )
        return False

    def _say(self, said: str) -> None:
        log.event(
            "model_fits", f"{said}.", replica_id=self._replica_id, model_bytes=self.weights_bytes
        )
