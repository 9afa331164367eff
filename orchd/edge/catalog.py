"""The catalog of models, as routes ask it: the table in memory, its shelf on disk, core's cards.

What may be registered is catalog/models.py's, what a state means for tasks
core/state/models.py's. A change is on disk before it is answered, and before core hears of it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

import trio
from attrs import evolve

from orchd.catalog import models
from orchd.catalog.files import Folder
from orchd.catalog.models import Models
from orchd.catalog.shelf import Shelf
from orchd.core.events import CatalogChanged
from orchd.core.given.cards import ModelCard
from orchd.core.given.spec import PoolSpec
from orchd.edge.disk import Disk, Turn, tell_spoiled
from orchd.edge.whereabouts import Whereabouts
from orchd.kit import log
from orchd.wire.catalog import (
    CachedModels,
    CatalogModel,
    CatalogModels,
    Located,
    ModelRecord,
    ModelRegistration,
    ModelStateChange,
    Verification,
    VerifyReason,
    VerifyResult,
)
from orchd.wire.errors import OrchError
from orchd.wire.ids import Count, Digest

NO_ENGINE: Final = "none"
"""The engine of a verification of a model that no pool serves."""
_RESULTS: Final = {
    VerifyReason.MATCH: VerifyResult.OK,
    VerifyReason.MISMATCH: VerifyResult.FAILED,
}


class Catalog:
    """All models that are known, and the verifications that run."""

    def __init__(
        self,
        disk: Disk,
        where: Whereabouts,
        changed: Callable[[CatalogChanged], object],
        served_by: Callable[[str], Sequence[PoolSpec]],
        verifications: Counter[tuple[str, ...]],
    ) -> None:
        """`changed` tells core; `served_by` gives the pools that serve a model id; `verifications`
        counts by result, reason and engine."""
        self._disk = disk
        self._where = where
        self._changed = changed
        self._served_by = served_by
        self._shelf = Shelf(Folder(f"{disk.folder}/catalog/models"), ModelRecord, models.record_id)
        self._models = Models()
        self._turn = Turn()
        self._waiting: dict[str, None] = {}
        """Models to be verified, in the order of asking."""
        self._verifying: str | None = None
        self._wanted = trio.Event()
        self._verifications = verifications

    async def open(self) -> None:
        """Load what is on disk, and tell core: before the first task is admitted."""
        if not self._disk.usable:
            return
        try:
            found, spoiled = await self._disk.read(self._shelf.load)
        except OrchError:
            return  # it is in the log; the catalog is empty
        tell_spoiled(spoiled)
        self._models.records = found
        self._tell_core()

    async def run(self) -> None:
        """Verify models, one after another, as they are asked for."""
        while True:
            while self._waiting:
                self._verifying = model_id = next(iter(self._waiting))
                del self._waiting[model_id]
                try:
                    await self._verify(model_id)
                except OrchError as exc:
                    log.event(
                        "model_verified",
                        f"The verification of model {model_id} came to nothing: {exc}.",
                        level="error",
                        model_id=model_id,
                    )
                finally:
                    self._verifying = None
            self._wanted = trio.Event()
            await self._wanted.wait()

    # what routes ask

    def get(self, model_id: str) -> CatalogModel:
        """Raises OrchError(UNKNOWN_NAME)."""
        return self._told(self._models.get(model_id))

    def page(self, cursor: str, limit: int) -> CatalogModels:
        """Return models by id, behind `cursor`."""
        found, following = self._models.page(cursor, limit)
        return CatalogModels(
            models=tuple(self._told(record) for record in found), next_cursor=following
        )

    async def located(self, name: str) -> Located:
        """Return what is known here of an id, a digest or a reference. Raises OrchError."""
        return await self._where.located(name, tuple(self._models.records.values()))

    async def cached(self) -> CachedModels:
        """Return what is in the caches. Raises OrchError."""
        return self._models.cached(await self._where.cached())

    async def register(self, model: ModelRegistration, *, strict: bool) -> CatalogModel:
        """Keep a model, and verify its files where they are here. Raises OrchError.

        What a fetch found to have this digest is not hashed again [ORCH-3436].
        """
        here = await self._where.here(model)
        async with self._turn():
            record = self._models.register(model, strict=strict, now_ms=_now_ms())
            if model.id in self._models.records:
                return self._told(record)
            record = models.fetched(record, None if here is None else here.cached)
            await self._disk.write(lambda: self._shelf.write(record))
            self._took(record)
        warnings = models.warnings(model)
        log.event(
            "model_registered",
            f"The catalog has model {model.id}"
            + (f": {'; '.join(warnings)}." if warnings else "."),
            level="warning" if warnings else "info",
            model_id=model.id,
            model_digest=model.digest,
        )
        if record.verification is None and (here is not None or self._where.path(model)):
            self.verify(model.id)
        return self._told(record)

    async def adopt(self, ref: str, digest: Digest) -> None:
        """Register what was fetched for a reference, unless the catalog has it; what the catalog
        has of the same source with another digest is verified. Raises OrchError."""
        for other in self._models.others(ref, digest):
            self.verify(other)
        model = self._models.adopted(ref, digest)
        if model is not None:
            await self.register(model, strict=False)

    async def remove(self, model_id: str) -> None:
        """Forget a model. Raises OrchError."""
        async with self._turn():
            self._models.get(model_id)
            await self._disk.write(lambda: self._shelf.remove(model_id))
            del self._models.records[model_id]
            self._waiting.pop(model_id, None)
            if self._verifying == model_id:
                self._verifying = None  # its result is dropped; another of this id is hashed anew
            self._tell_core()
        log.event("model_removed", f"The catalog has no model {model_id} now.", model_id=model_id)

    async def change_state(self, model_id: str, change: ModelStateChange) -> None:
        """Retire a model, now or after a while, or take it back. Raises OrchError."""
        async with self._turn():
            now_ms = _now_ms()
            record = models.in_state(
                self._models.get(model_id), change.state, change.deadline_ms, now_ms
            )
            await self._disk.write(lambda: self._shelf.write(record))
            self._took(record)
        after = f" in {change.deadline_ms} ms" if change.deadline_ms is not None else ""
        log.event(
            "model_state",
            f"Model {model_id} is {change.state}{after}.",
            model_id=model_id,
            state=change.state.value,
        )

    def verify(self, model_id: str) -> None:
        """Have a model verified soon; one that waits for it already is verified once. Raises
        OrchError(UNKNOWN_NAME)."""
        self._models.get(model_id)
        if model_id != self._verifying:
            self._waiting[model_id] = None
            self._wanted.set()

    # inside

    async def _verify(self, model_id: str) -> None:
        record = self._models.records.get(model_id)
        if record is None:
            return  # removed while it waited
        model = record.model
        reason, why = await self._where.verified(model)
        result = _RESULTS.get(reason, VerifyResult.UNKNOWN)
        said = Verification(result=result, reason=reason, at_ms=Count(_now_ms()))
        async with self._turn():
            now = self._models.records.get(model_id)
            if now is None or now.model != model:
                return  # removed meanwhile
            after = models.verified(now, said)
            await self._disk.write(lambda: self._shelf.write(after))
            self._took(after)
        pools = self._served_by(model_id)
        engine = pools[0].engine if pools else NO_ENGINE
        self._verifications[result.value, reason.value, engine] += 1
        log.event(
            "model_verified",
            f"Model {model_id}: {why}.",
            level="info" if result is VerifyResult.OK else "warning",
            model_id=model_id,
            result=result.value,
            reason=reason.value,
        )

    def _told(self, record: ModelRecord) -> CatalogModel:
        model_id = record.model.id
        verifying = model_id == self._verifying or model_id in self._waiting
        pools = tuple(spec.pool_id for spec in self._served_by(model_id))
        return models.told(record, pools, verifying=verifying, now_ms=_now_ms())

    def _took(self, record: ModelRecord) -> None:
        self._models.records[record.model.id] = record
        self._tell_core()

    def _tell_core(self) -> None:
        now, now_ms = trio.current_time(), _now_ms()
        cards = tuple(self._card(each, now, now_ms) for each in self._models.records.values())
        self._changed(CatalogChanged(cards))

    def _card(self, record: ModelRecord, now: float, now_ms: int) -> ModelCard:
        model, verification = record.model, record.verification
        path = self._where.path(model)
        card = ModelCard(
            model_id=model.id,
            digest=model.digest,
            source=model.source_url if path is None else f"file:{path}",
        )
        if record.retires_at_ms is not None:
            card = evolve(card, closes_at=now + (record.retires_at_ms - now_ms) / 1000)
        if verification is not None and verification.result is VerifyResult.FAILED:
            card = evolve(card, untrusted="its file has another digest than the catalog says")
        return card


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
