"""A job's record as an artifact: its tags, its content, and how much of a stream it may hold.

When one is left, and what becomes of those that cannot be kept, is edge/jobs.py's.
"""

from __future__ import annotations

from typing import Final

from attrs import evolve

from orchd.wire import codec
from orchd.wire.artifacts import ArtifactKind, ArtifactUpload
from orchd.wire.ids import Tag
from orchd.wire.jobs import JobRecord

MAX_TRANSCRIPT_BYTES: Final = 1 << 20
"""Of frames: about 17,000 tokens. As JSON in JSON they take twice that at most, which an artifact
(4 MiB) holds."""


def with_transcript(job: JobRecord, frames: bytes) -> JobRecord:
    """Return the record with the whole frames that fit."""
    end = len(frames)
    if end > MAX_TRANSCRIPT_BYTES:
        last = frames.rfind(b"\n\n", 0, MAX_TRANSCRIPT_BYTES)
        end = 0 if last < 0 else last + 2
    text = frames[:end].decode("utf-8", "replace")  # a pool may send what is none
    return evolve(job, transcript=text, transcript_cut=end < len(frames))


def upload_of(job: JobRecord) -> ArtifactUpload:
    """Return what is stored of a job [ORCH-3350]."""
    tags = [
        f"job:{job.task_id}",
        f"session:{job.session_id}",
        f"pool:{job.pool_id}",
        f"state:{job.state}",
    ]
    if job.output_mode is not None:
        tags.append(f"output_mode:{job.output_mode}")
    return ArtifactUpload(
        kind=ArtifactKind.TRACE,
        content=codec.dumps(job).decode(),
        tags=tuple(Tag(tag) for tag in sorted(tags)),
    )
