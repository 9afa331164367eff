"""A job's record as an artifact: which tags it has, and how much of a stream it holds."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchd.catalog import jobs
from orchd.catalog.artifacts import name, plain
from orchd.wire import codec
from orchd.wire.ids import TAG
from orchd.wire.jobs import JobRecord

JOB: dict[str, Any] = {
    "task_id": "0b7e2f3a-6c1d-4e59-8a90-1f2e3d4c5b6a",
    "session_id": "5d3c1b2a-9f8e-4d7c-b6a5-04132231aabb",
    "correlation_id": "c", "state": "failed", "workload": "completion", "priority": "batch",
    "engine": "mock", "model_ref": "mock:lorem", "pool_id": "demo", "ctx": 1, "max_tokens": 1,
    "deadline_ms": 1, "determinism": "strict", "kv_warmth": False, "attempts": 0, "timings": {},
    "tokens_out": 0,
}  # fmt: skip


def job(**more: Any) -> JobRecord:
    return codec.structure(JobRecord, {**JOB, **more})


@pytest.mark.req("ORCH-3350", "ORCH-3101")
def test_it_is_found_by_job_session_pool_state_and_mode() -> None:
    upload = jobs.upload_of(job(output_mode="edits"))
    assert upload.tags == (
        f"job:{JOB['task_id']}", "output_mode:edits", "pool:demo", f"session:{JOB['session_id']}",
        "state:failed",
    )  # fmt: skip
    assert all(TAG.fullmatch(tag) for tag in upload.tags)
    assert len(jobs.upload_of(job()).tags) == 4
    assert codec.loads(JobRecord, upload.content.encode()) == job(output_mode="edits")
    assert name(plain(upload), 7).tags == upload.tags


@pytest.mark.req("ORCH-3352")
@given(st.lists(st.binary(max_size=30), max_size=10), st.integers(1, 100))
def test_a_transcript_is_whole_frames_whatever_a_pool_sent(texts: list[bytes], most: int) -> None:
    frames = [b"x" + text.replace(b"\n", b"") + b"\n\n" for text in texts]
    stream = b"".join(frames)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs, "MAX_TRANSCRIPT_BYTES", most)
        made = jobs.with_transcript(job(), stream)
    assert made.transcript is not None
    kept = made.transcript.count("\n\n") if made.transcript else 0
    assert made.transcript == b"".join(frames[:kept]).decode("utf-8", "replace")
    assert made.transcript_cut == (len(stream) > most)
    assert len(b"".join(frames[:kept])) <= most
    assert orjson.loads(jobs.upload_of(made).content)["transcript"] == made.transcript
