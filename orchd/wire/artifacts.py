"""Artifacts: what agents leave behind (plans, summaries, diffs, traces), sent, told and kept.

An artifact is named by what was sent: the same again is the same artifact. Where the files are is
orchd/catalog's.
"""

from __future__ import annotations

import enum

from attrs import frozen

from orchd.wire.ids import ArtifactId, Count, Digest, Tag, TaskId, Text


class ArtifactKind(enum.StrEnum):
    """What an artifact is."""

    PLAN = "plan"
    SUMMARY = "summary"
    DIFF = "diff"
    TRACE = "trace"
    OTHER = "other"


@frozen(kw_only=True)
class ArtifactUpload:
    """The body of `POST /v1/artifacts`."""

    kind: ArtifactKind
    content: str
    tags: tuple[Tag, ...] = ()
    """Kept sorted, each once."""
    parent: ArtifactId | None = None
    """The artifact that this one came from."""
    metadata: dict[Tag, Text] | None = None


@frozen(kw_only=True)
class ArtifactStored:
    """The answer to an upload."""

    id: ArtifactId
    kind: ArtifactKind
    digest: Digest
    """Of the content's UTF-8."""
    created_ms: Count
    """Unix time in milliseconds; of the first upload, when this was not it."""
    tags: tuple[Tag, ...]


@frozen(kw_only=True)
class ArtifactRecord:
    """What is known of an artifact without its content; so it stands in its file."""

    id: ArtifactId
    kind: ArtifactKind
    digest: Digest
    created_ms: Count
    tags: tuple[Tag, ...]
    parent: ArtifactId | None = None
    metadata: dict[Tag, Text] | None = None
    content_bytes: Count
    """Of the content in UTF-8."""
    job: TaskId | None = None
    """The job that orchd left it of; such ones make room for others, the oldest first."""


@frozen(kw_only=True)
class Artifact:
    """The body of `GET /v1/artifacts/{id}`."""

    id: ArtifactId
    kind: ArtifactKind
    digest: Digest
    created_ms: Count
    tags: tuple[Tag, ...]
    parent: ArtifactId | None = None
    metadata: dict[Tag, Text] | None = None
    content_bytes: Count
    job: TaskId | None = None
    content: str


@frozen(kw_only=True)
class Artifacts:
    """The body of `GET /v1/artifacts`: the newest first. `next_cursor`: there are older ones."""

    artifacts: tuple[ArtifactRecord, ...]
    next_cursor: str | None = None
