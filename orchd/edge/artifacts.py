"""The artifact registry, as routes ask it: the table in memory, its two folders on disk.

What is taken, how it is named and how much is kept is catalog/artifacts.py's.
"""

from __future__ import annotations

import re
import time
from typing import Final

import trio
from attrs import asdict

from orchd.catalog import artifacts
from orchd.catalog.artifacts import Store
from orchd.config.serving import ArtifactBounds
from orchd.edge.disk import Disk, Turn, tell_spoiled
from orchd.kit import log
from orchd.wire.artifacts import (
    Artifact,
    ArtifactRecord,
    Artifacts,
    ArtifactStored,
    ArtifactUpload,
)
from orchd.wire.errors import Kind, OrchError

OPEN_S: Final = 10.0
"""For the records to be read after the start: 10,000 take about a second."""
_CURSOR: Final = re.compile(r"([0-9]{1,15})\.([0-9a-f]{32})")


class Registry:
    """All artifacts that are stored."""

    def __init__(self, disk: Disk, bounds: ArtifactBounds) -> None:
        self._disk = disk
        self._store = Store.at(f"{disk.folder}/artifacts")
        self._known = artifacts.Artifacts(bounds.max_mb << 20, bounds.max_count, bounds.max_jobs)
        self._turn = Turn()
        self._opened = trio.Event()

    async def open(self) -> None:
        """Read the records; whoever asks meanwhile waits."""
        try:
            if self._disk.usable:
                found, spoiled = await self._disk.read(self._store.load)
                tell_spoiled(spoiled)
                for record in found:
                    self._known.add(record)
        except OrchError:
            pass  # it is in the log; the registry is empty
        self._opened.set()

    async def store(self, upload: ArtifactUpload) -> ArtifactStored:
        """Keep an artifact; the same again is the same artifact. Raises OrchError."""
        await self._ready()
        upload = artifacts.plain(upload)
        async with self._turn():
            record = artifacts.name(upload, time.time_ns() // 1_000_000)
            known = self._known.records.get(record.id)
            if known is not None:
                return _stored(known)
            await self._keep(record, upload.content)
        log.event(
            "artifact_stored",
            f"Artifact {record.id} ({record.kind}, {record.content_bytes} bytes) is stored.",
            artifact_id=record.id,
        )
        return _stored(record)

    async def leave(self, record: ArtifactRecord, content: str) -> None:
        """Keep the record of a job that orchd leaves itself. Raises OrchError."""
        await self._ready()
        async with self._turn():
            if record.id not in self._known.records:
                await self._keep(record, content)

    async def get(self, artifact_id: str) -> Artifact:
        """Return an artifact with its content. Raises OrchError."""
        await self._ready()
        record = self._known.get(artifact_id)
        try:
            content = await self._disk.read(lambda: self._store.content(record))
        except OrchError:
            self._known.get(artifact_id)  # it was removed while it was read
            raise
        return Artifact(**asdict(record, recurse=False), content=content)

    async def remove(self, artifact_id: str) -> None:
        """Forget an artifact; those that name it as their parent stay. Raises OrchError."""
        await self._ready()
        async with self._turn():
            record = self._known.get(artifact_id)
            await self._discard(record)
        log.event("artifact_removed", f"Artifact {record.id} is gone.", artifact_id=record.id)

    async def page(self, tag: str | None, cursor: str | None, limit: int) -> Artifacts:
        """Return the newest `limit` behind `cursor`. Raises OrchError for none of ours."""
        await self._ready()
        before = None if cursor is None else _place(cursor)
        found, following = self._known.page(tag, before, limit)
        return Artifacts(
            artifacts=tuple(found),
            next_cursor=None if following is None else f"{following[0]}.{following[1]}",
        )

    async def _keep(self, record: ArtifactRecord, content: str) -> None:
        """Write one, in its turn; records of jobs make room for it."""
        for giver in self._known.givers(record):
            await self._discard(giver)
        self._known.admit(record)
        await self._disk.write(lambda: self._store.put(record, content))
        self._known.add(record)

    async def _discard(self, record: ArtifactRecord) -> None:
        last = self._known.holders(record.digest) == 1
        await self._disk.write(lambda: self._store.remove(record, content=last))
        self._known.drop(record)

    async def _ready(self) -> None:
        if self._opened.is_set():
            return
        with trio.move_on_after(OPEN_S):
            await self._opened.wait()
            return
        raise OrchError(Kind.INTERNAL, f"the artifacts were not read within {OPEN_S:g} s")


def _place(cursor: str) -> tuple[int, str]:
    found = _CURSOR.fullmatch(cursor)
    if found is None:
        why = "cursor must be one that an answer gave"
        raise OrchError(Kind.INVALID_PARAMS, why, path="cursor")
    return int(found[1]), found[2]


def _stored(record: ArtifactRecord) -> ArtifactStored:
    return ArtifactStored(
        id=record.id,
        kind=record.kind,
        digest=record.digest,
        created_ms=record.created_ms,
        tags=record.tags,
    )
