"""Artifacts: how they are named, how many are kept, and in which order their two files are written.

The table is pure; `Store` is the disk behind it and blocks (files.py). A content stands once,
however many artifacts have it.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left, insort
from typing import Final

from attrs import define, evolve, field, frozen

from orchd.catalog.files import Folder
from orchd.catalog.shelf import Shelf, Spoiled, aside
from orchd.wire import codec
from orchd.wire.artifacts import ArtifactRecord, ArtifactUpload
from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import ArtifactId, Count, Digest

MAX_CONTENT_BYTES: Final = 4 << 20
"""A body has at most 8 MiB, and JSON escapes make a text longer."""
MAX_TAGS: Final = 16
MAX_METADATA_BYTES: Final = 4 << 10
RECORD_BYTES: Final = 8192
"""What a record counts beside its content: at most two blocks of the disk, and as much memory."""


def plain(upload: ArtifactUpload) -> ArtifactUpload:
    """Return an upload with its tags sorted. Raises OrchError past the bounds of one artifact."""
    size = len(upload.content.encode())
    metadata = len(codec.dumps(upload.metadata or {}))
    for path, has, most in (
        ("$.content", size, MAX_CONTENT_BYTES),
        ("$.metadata", metadata, MAX_METADATA_BYTES),
    ):
        if has > most:
            why = f"{path}: has {has} bytes; at most {most} are kept"
            raise OrchError(Kind.BODY_TOO_LARGE, why, path=path)
    tags = tuple(sorted(set(upload.tags)))
    if len(tags) > MAX_TAGS:
        why = f"$.tags: has {len(tags)} tags; at most {MAX_TAGS} are kept"
        raise OrchError(Kind.INVALID_PARAMS, why, path="$.tags")
    return evolve(upload, tags=tags, metadata=upload.metadata or None)


def name(upload: ArtifactUpload, now_ms: int) -> ArtifactRecord:
    """Return the record of a `plain` upload. Its id follows from all that was sent, so the same
    upload is the same artifact, and its digest from the content alone."""
    data = upload.content.encode()
    digest = Digest(f"sha256:{hashlib.sha256(data).hexdigest()}")
    metadata = dict(sorted((upload.metadata or {}).items()))
    said = (upload.kind, digest, upload.tags, upload.parent, metadata)
    return ArtifactRecord(
        id=ArtifactId(hashlib.sha256(codec.dumps(said)).hexdigest()[:32]),
        kind=upload.kind,
        digest=digest,
        created_ms=Count(now_ms),
        tags=upload.tags,
        parent=upload.parent,
        metadata=upload.metadata,
        content_bytes=Count(len(data)),
    )


def record_id(record: ArtifactRecord) -> str:
    """Return what names a record."""
    return record.id


def content_name(digest: str) -> str:
    """Return the name of the file of a content."""
    return digest.removeprefix("sha256:")


@define
class Artifacts:
    """All artifacts that are known, without their contents."""

    max_bytes: int
    max_count: int
    max_jobs: int = 0
    """How many of them may be records of jobs."""
    records: dict[str, ArtifactRecord] = field(factory=dict)
    used_bytes: int = 0
    """Of records and contents, a content once."""
    _order: list[tuple[int, str]] = field(factory=list)
    """Oldest first."""
    _jobs: list[tuple[int, str]] = field(factory=list)
    """Those of them that are records of jobs."""
    _holders: dict[str, int] = field(factory=dict)
    """Digest -> how many artifacts have this content."""

    def get(self, artifact_id: str) -> ArtifactRecord:
        """Raises OrchError(UNKNOWN_NAME)."""
        record = self.records.get(artifact_id)
        if record is None:
            raise OrchError(Kind.UNKNOWN_NAME, f"there is no artifact {artifact_id[:64]!r}")
        return record

    def admit(self, record: ArtifactRecord) -> None:
        """Raise OrchError: INVALID_PARAMS for an unknown parent, STORE_FULL past a bound."""
        if record.parent is not None and record.parent not in self.records:
            why = f"$.parent: there is no artifact {record.parent}"
            raise OrchError(Kind.INVALID_PARAMS, why, path="$.parent")
        if len(self.records) >= self.max_count:
            why = f"{len(self.records)} artifacts are stored (artifacts.max_count)"
            raise OrchError(Kind.STORE_FULL, why)
        if self.used_bytes + self._cost(record) > self.max_bytes:
            why = (
                f"artifacts take {self.used_bytes} of {self.max_bytes} bytes "
                "(artifacts.max_mb): there is no room for this one"
            )
            raise OrchError(Kind.STORE_FULL, why)

    def givers(self, record: ArtifactRecord) -> list[ArtifactRecord]:
        """Return the records of jobs that have to go for this one, the oldest first.

        Nobody sent those, so nobody counts on them; what was stored is never thrown out. Empty when
        nothing has to go, and when it would not fit without them either.
        """
        going: list[ArtifactRecord] = []
        over_bytes = self.used_bytes + self._cost(record) - self.max_bytes
        over_count = len(self.records) + 1 - self.max_count
        over_jobs = len(self._jobs) + 1 - self.max_jobs if record.job is not None else 0
        for _, job_id in self._jobs:
            if over_bytes <= 0 and over_count <= 0 and over_jobs <= 0:
                break
            if job_id != record.parent:
                giver = self.records[job_id]
                going.append(giver)
                over_count, over_jobs = over_count - 1, over_jobs - 1
                over_bytes -= self._frees(giver, record)
        return going if over_bytes <= 0 and over_count <= 0 and over_jobs <= 0 else []

    def _frees(self, giver: ArtifactRecord, record: ArtifactRecord) -> int:
        alone = self.holders(giver.digest) == 1 and giver.digest != record.digest
        return RECORD_BYTES + (giver.content_bytes if alone else 0)

    def add(self, record: ArtifactRecord) -> None:
        """Take in a record that is on disk."""
        self.used_bytes += self._cost(record)
        self.records[record.id] = record
        self._holders[record.digest] = self._holders.get(record.digest, 0) + 1
        insort(self._order, (record.created_ms, record.id))
        if record.job is not None:
            insort(self._jobs, (record.created_ms, record.id))

    def drop(self, record: ArtifactRecord) -> None:
        """Take out a record whose file is gone."""
        del self.records[record.id]
        left = self._holders.pop(record.digest) - 1
        if left:
            self._holders[record.digest] = left
        self.used_bytes -= self._cost(record)
        del self._order[bisect_left(self._order, (record.created_ms, record.id))]
        if record.job is not None:
            del self._jobs[bisect_left(self._jobs, (record.created_ms, record.id))]

    def holders(self, digest: str) -> int:
        """Return how many artifacts have this content."""
        return self._holders.get(digest, 0)

    def page(
        self, tag: str | None, before: tuple[int, str] | None, limit: int
    ) -> tuple[list[ArtifactRecord], tuple[int, str] | None]:
        """Return the newest records with this tag that are older than `before`, and where the next
        page begins; None: there is none."""
        end = len(self._order) if before is None else bisect_left(self._order, before)
        found: list[ArtifactRecord] = []
        for at in range(end - 1, -1, -1):
            record = self.records[self._order[at][1]]
            if tag is None or tag in record.tags:
                if len(found) == limit:
                    return found, (found[-1].created_ms, found[-1].id)
                found.append(record)
        return found, None

    def _cost(self, record: ArtifactRecord) -> int:
        """Return what a record adds to the disk while it is not in the table."""
        return RECORD_BYTES + (0 if self.holders(record.digest) else record.content_bytes)


@frozen
class Store:
    """The two folders of artifacts. A record is there only while its content is."""

    records: Shelf[ArtifactRecord]
    contents: Folder

    @classmethod
    def at(cls, path: str) -> Store:
        """Return the store of a folder, not opened."""
        return cls(
            Shelf(Folder(f"{path}/records"), ArtifactRecord, record_id),
            Folder(f"{path}/content"),
        )

    def load(self) -> tuple[list[ArtifactRecord], list[Spoiled]]:
        """Return every record whose content is there, and what was set aside. Contents that no
        record names are removed: a kill between the two files leaves one. Raises OSError."""
        self.contents.open()
        found, spoiled = self.records.load()
        there = set(self.contents.names())
        kept = []
        for record in found.values():
            if content_name(record.digest) in there:
                kept.append(record)
            else:
                why = f"its content {record.digest} is not there"
                spoiled.append(aside(self.records.folder, f"{record.id}.json", why))
        # the content of a record that was set aside stays, for whoever mends the record
        if not spoiled:
            for orphan in there - {content_name(record.digest) for record in kept}:
                self.contents.remove(orphan)
        return kept, spoiled

    def put(self, record: ArtifactRecord, content: str) -> None:
        """Write the content, which mends one that was spoiled, then the record. Raises OSError."""
        self.contents.write(content_name(record.digest), content.encode())
        self.records.write(record)

    def remove(self, record: ArtifactRecord, *, content: bool) -> None:
        """Remove the record, then (`content`) what it names. Raises OSError."""
        self.records.remove(record.id)
        if content:
            self.contents.remove(content_name(record.digest))

    def content(self, record: ArtifactRecord) -> str:
        """Return the content. Raises OSError, also when it is not what was stored: then it is set
        aside."""
        file = content_name(record.digest)
        data = self.contents.read(file)
        if hashlib.sha256(data).hexdigest() != file:
            where = aside(self.contents, file, "").path
            raise OSError(f"the content of artifact {record.id} has changed on disk; see {where}")
        return data.decode()
