"""Records of jobs from outside: what each task leaves in the registry, and what it does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
import trio

from orchd.catalog.files import Folder
from orchd.config.serving import ArtifactBounds, JobTrace
from orchd.edge import jobs
from orchd.kit import log
from orchd.wire.errors import Kind
from orchd.wire.ids import Positive, TaskId
from orchd.wire.shapes import FinishReason
from tests.edge.conftest import Front, Opener, read_json

PROMPT = "canary-prompt"


def kept(trace: JobTrace = JobTrace.RECORD, **bounds: Any) -> ArtifactBounds:
    return ArtifactBounds(jobs=trace, **bounds)


async def listed(it: Front, tag: str, count: int = 1) -> list[dict[str, Any]]:
    """Return the artifacts with this tag, once there are so many."""
    with trio.fail_after(5):
        while True:
            found = read_json(await it.get(f"/v1/artifacts?tag={tag}"))["artifacts"]
            if len(found) >= count:
                assert len(found) == count
                return list(found)
            await trio.sleep(0.005)


async def record_of(it: Front, task_id: str) -> dict[str, Any]:
    (one,) = await listed(it, f"job:{task_id}")
    assert (one["kind"], one["job"]) == ("trace", task_id)
    whole = read_json(await it.get(f"/v1/artifacts/{one['id']}"))
    content = orjson.loads(whole["content"])
    assert isinstance(content, dict)
    return content


async def counted(it: Front, result: str) -> float:
    page = (await it.get("/metrics")).body.decode()
    found = [
        line for line in page.splitlines() if f'job_records_total{{result="{result}"}}' in line
    ]
    return float(found[0].split()[-1]) if found else 0.0


def on_disk(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


@pytest.mark.req("ORCH-3350", "ORCH-3351", "ORCH-3101")
async def test_a_job_that_ended_leaves_its_figures_and_no_prompt(
    front: Opener, folder: Path
) -> None:
    async with front(artifacts=kept()) as it:
        task_id = await it.submit(prompt=PROMPT, seed=7, output_mode="json")
        job = await it.peer.next_job()
        job.tokens("canary-", "answer")
        job.end()
        said = await record_of(it, task_id)
        (one,) = await listed(it, f"job:{task_id}")
        status = read_json(await it.get(f"/v1/tasks/{task_id}"))
        assert one["tags"] == sorted(
            [
                f"job:{task_id}", f"session:{status['session_id']}", "pool:demo", "state:ended",
                "output_mode:json",
            ]
        )  # fmt: skip
        assert said["state"] == "ended"
        assert (said["finish_reason"], said["tokens_in"], said["tokens_out"]) == ("stop", 3, 2)
        assert (said["pool_id"], said["replica_id"]) == ("demo", "demo:0")
        assert (said["engine"], said["engine_version"], said["seed"]) == ("mock", "mock-1", 7)
        assert said["timings"]["decode_time_ms"] == 10
        assert said["decision"] == status["decision"]
        assert said["correlation_id"] == status["correlation_id"]
        assert "transcript" not in said
        assert await counted(it, "stored") == 1
    assert b"canary" not in on_disk(folder)
    assert task_id.encode() in on_disk(folder)


@pytest.mark.req("ORCH-3351")
async def test_a_failed_job_a_canceled_one_and_one_that_never_ran_leave_theirs(
    front: Opener,
) -> None:
    async with front(artifacts=kept()) as it:
        failed = await it.submit()
        job = await it.peer.next_job()
        waiting = await it.submit()
        job.tokens("a")
        job.fail(Kind.ENGINE_DIED, "the engine ended")
        said = await record_of(it, failed)
        assert (said["state"], said["error"]["code"]) == ("failed", "WORKER_RESET")
        assert said["error"]["message"]
        assert said["tokens_out"] == 1

        running = await it.peer.next_job()
        assert running.open.task_id == waiting
        queued = await it.submit()
        assert (await it.post(f"/v1/tasks/{queued}/cancel")).status == 204
        assert (await it.post(f"/v1/tasks/{waiting}/cancel")).status == 204
        for task_id, where in ((queued, None), (waiting, "demo:0")):
            said = await record_of(it, task_id)
            assert (said["state"], said["cancel_reason"]) == ("canceled", "client")
            assert said.get("replica_id") == where
        await listed(it, "state:canceled", 2)
        await listed(it, "state:failed", 1)


@pytest.mark.req("ORCH-3352")
async def test_a_transcript_is_what_a_reader_got(front: Opener) -> None:
    async with front(artifacts=kept(JobTrace.TRANSCRIPT)) as it:
        task_id = await it.submit(prompt=PROMPT)
        job = await it.peer.next_job()
        job.tokens("Hé", "llo\n", "\U0001f600")
        job.end(FinishReason.LENGTH)
        stream = await it.get(f"/v1/tasks/{task_id}/stream")
        said = await record_of(it, task_id)
        assert said["transcript"].encode() == stream.body
        assert said["transcript_cut"] is False
        assert PROMPT not in said["transcript"]


@pytest.mark.req("ORCH-3352")
async def test_a_canceled_jobs_transcript_has_the_tokens_before_the_cancel(front: Opener) -> None:
    async with front(artifacts=kept(JobTrace.TRANSCRIPT)) as it:
        task_id = await it.submit()
        job = await it.peer.next_job()
        job.tokens("one", "two")
        with trio.fail_after(5):
            while it.app.stream(TaskId(task_id)).tokens < 2:
                await trio.sleep(0.001)
        await it.post(f"/v1/tasks/{task_id}/cancel")
        told = (await record_of(it, task_id))["transcript"]
        frames = [line for line in told.splitlines() if line.startswith(("event:", "data:"))]
        assert [line for line in frames if '"t"' in line] == [
            'data: {"t":"one","i":0}',
            'data: {"t":"two","i":1}',
        ]
        assert frames[-2] == "event: end"
        assert '"canceled"' in frames[-1]


@pytest.mark.req("ORCH-3352")
async def test_a_transcript_is_cut_at_a_whole_frame(
    front: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchd.catalog.jobs.MAX_TRANSCRIPT_BYTES", 600)
    async with front(artifacts=kept(JobTrace.TRANSCRIPT)) as it:
        task_id = await it.submit()
        job = await it.peer.next_job()
        job.tokens(*["word"] * 50)
        job.end()
        stream = (await it.get(f"/v1/tasks/{task_id}/stream")).body.decode()
        said = await record_of(it, task_id)
        assert said["transcript_cut"] is True
        assert 500 < len(said["transcript"]) <= 600
        assert stream.startswith(said["transcript"])
        assert said["transcript"].endswith("\n\n")
        assert (said["state"], said["tokens_out"]) == ("ended", 50)


@pytest.mark.req("ORCH-3350")
async def test_nothing_is_left_unless_it_is_asked_for(front: Opener, folder: Path) -> None:
    async with front() as it:
        task_id = await it.submit()
        job = await it.peer.next_job()
        job.end()
        await it.get(f"/v1/tasks/{task_id}/stream")
        assert read_json(await it.get("/v1/artifacts")) == {"artifacts": []}
        assert await counted(it, "stored") == 0
    assert on_disk(folder) == b""


async def test_the_oldest_record_makes_room_and_what_was_stored_stays(front: Opener) -> None:
    bounds = kept(max_jobs=Positive(2), max_count=Positive(3))
    async with front(artifacts=bounds, slots=4) as it:

        async def leave() -> str:
            task_id: str = await it.submit()
            job = await it.peer.next_job()
            job.end()
            await record_of(it, task_id)
            return task_id

        def plan(text: str) -> dict[str, str]:
            return {"kind": "plan", "content": text}

        first, second = await leave(), await leave()
        assert (await it.post("/v1/artifacts", plan("1"))).status == 201
        third = await leave()  # more than max_jobs: the first goes
        assert await listed(it, f"job:{first}", 0) == []
        assert (await it.post("/v1/artifacts", plan("2"))).status == 201  # the second goes
        assert await listed(it, f"job:{second}", 0) == []
        assert (await it.post("/v1/artifacts", plan("3"))).status == 201
        assert await listed(it, f"job:{third}", 0) == []
        assert (await it.post("/v1/artifacts", plan("4"))).status == 507
        task_id = await it.submit()
        (await it.peer.next_job()).end()
        with trio.fail_after(5):
            while not await counted(it, "dropped"):
                await trio.sleep(0.005)
        assert await listed(it, f"job:{task_id}", 0) == []
        assert len(read_json(await it.get("/v1/artifacts"))["artifacts"]) == 3


async def test_a_slow_disk_holds_up_no_stream_and_what_is_lost_is_counted_and_told(
    front: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(log, "event", lambda name, human, **_: said.append(f"{name} {human}"))
    monkeypatch.setattr(jobs, "MAX_WAITING", 2)
    gate, real = trio.Event(), Folder.write

    def slow(self: Folder, name: str, data: bytes) -> None:
        trio.from_thread.run(gate.wait)
        real(self, name, data)

    monkeypatch.setattr(Folder, "write", slow)
    async with front(artifacts=kept()) as it:
        ids = []
        for _ in range(6):
            ids.append(await it.submit())
            (await it.peer.next_job()).end()
            assert b"event: end" in (await it.get(f"/v1/tasks/{ids[-1]}/stream")).body
        assert await counted(it, "dropped") >= 3
        assert any(line.startswith("job_records_dropped Records of 1 job are") for line in said)
        gate.set()
        await record_of(it, ids[0])
        with trio.fail_after(5):
            while await counted(it, "stored") + await counted(it, "dropped") < 6:
                await trio.sleep(0.005)


async def test_what_a_stop_ends_is_written_before_orchd_is_gone(
    front: Opener, folder: Path
) -> None:
    async with front(artifacts=kept()) as it:
        task_id = await it.submit()
        await it.peer.next_job()
        await it.app.drain(0.01)
    async with front(artifacts=kept()) as it:  # the next orchd
        said = await record_of(it, task_id)
        assert (said["state"], said["cancel_reason"]) == ("canceled", "shutdown")
