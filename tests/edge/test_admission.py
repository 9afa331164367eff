"""Policies of a full pool and watchdogs from outside: what leaves by HTTP and by the link."""

from __future__ import annotations

from collections.abc import Callable

import orjson
import pytest
import trio
import trio.lowlevel

from orchd.config.pool import Queue, Watchdog
from orchd.config.serving import Throttle
from orchd.edge.relay import WINDOW_BYTES
from orchd.wire.ids import NonNegative, Positive, TaskId
from orchd.wire.policy import FullPolicy
from tests.edge.conftest import Front, Opener, read_json
from tests.edge.test_tasks import names, stream
from tests.fakes.tasks import task_body

ONE_EACH = Queue(interactive=Positive(1), batch=Positive(1))


@pytest.mark.req("ORCH-3904", "ORCH-3406")
async def test_the_stream_of_a_dropped_task_says_so_and_429_names_the_policy(front: Opener) -> None:
    async with front(queue=ONE_EACH, full_policy=FullPolicy.DROP_LRU) as it:
        await it.submit()
        await it.peer.next_job()
        old = await it.submit(priority="batch")
        new = await it.submit(priority="batch")
        events = await stream(it, old)
        assert names(events) == ["started", "error"]
        told = orjson.loads(events[-1].data)
        assert (told["code"], told["policy_label"]) == ("QUEUE_FULL_DROP_LRU", "drop-lru")
        assert told["retriable"] is True
        assert told["retry_after_ms"] > 0
        assert read_json(await it.get(f"/v1/tasks/{new}"))["state"] == "queued"
        await it.submit()
        await it.submit()  # the batch task made room for it
        answer = await it.post("/v1/tasks", task_body())
        body = read_json(answer)
        assert (answer.status, body["code"]) == (429, "QUEUE_FULL_DROP_LRU")
        assert body["policy_label"] == "drop-lru"
        assert int(answer.headers["x-backoff-ms"]) == body["retry_after_ms"] > 0


@pytest.mark.req("OC-CORE-1022")
async def test_no_token_follows_the_error_of_a_watchdog(front: Opener) -> None:
    async with front() as it:
        task = await it.submit(deadline_ms=400)
        job = await it.peer.next_job()
        job.tokens("one", "two")
        with trio.fail_after(5):
            await job.canceled.wait()
        job.tokens("late")
        events = await stream(it, task)
        assert [n for n in names(events) if n == "token"] == ["token"] * 2
        assert names(events)[-1] == "error"
        told = orjson.loads(events[-1].data)
        assert (told["code"], told["retriable"]) == ("DECODE_TIMEOUT", True)
        assert read_json(await it.get("/v1/pools/demo/health"))["metrics"]["slots_active"] == 1
        job.freed()
        await it.submit()
        await it.peer.next_job()
        assert read_json(await it.get(f"/v1/tasks/{task}"))["state"] == "failed"


@pytest.mark.req("OC-CORE-1022")
async def test_a_job_that_its_reader_holds_back_is_not_idle(front: Opener) -> None:
    idle_s = 0.5
    async with front(watchdog=Watchdog(idle_ms=Positive(round(idle_s * 1000)))) as it:
        task = await it.submit()
        job = await it.peer.next_job()
        async with it.client.open("GET", f"/v1/tasks/{task}/stream") as incoming:
            await incoming.read_some()
            await _run_ahead(it, 2 * WINDOW_BYTES, job.tokens)
            silent_since, known = trio.current_time(), it.app.front.world.tasks[TaskId(task)]
            with trio.fail_after(10):
                while known.progress_at < silent_since + 2 * idle_s:  # core hears that it is held
                    assert not job.canceled.is_set()
                    await trio.sleep(0.01)
        with trio.fail_after(5):
            await job.canceled.wait()  # the reader left


async def _run_ahead(it: Front, size: int, send: Callable[[str], None]) -> None:
    text = "x" * 60_000
    for _ in range(size // len(text)):
        send(text)
        assert it.peer.pipe is not None
        while it.peer.pipe.pending:
            await trio.sleep(0.001)
        await trio.lowlevel.checkpoint()


@pytest.mark.req("ORCH-3006")
async def test_an_identity_that_sends_too_fast_is_told_when_to_come_back(front: Opener) -> None:
    slow = Throttle(requests_per_s=NonNegative(0.2), burst=Positive(2))
    async with front(throttle=slow) as it:
        body = task_body()
        for _ in range(5):
            assert (await it.post("/v1/tasks", body)).status == 202  # the same task
        await it.submit()
        answer = await it.post("/v1/tasks", task_body())
        told = read_json(answer)
        assert (answer.status, told["code"]) == (429, "ADMISSION_REJECT")
        assert told["policy_label"] == "throttle"
        assert 4000 < told["retry_after_ms"] <= 5000
        assert answer.headers["retry-after"] == "5"
        limits = read_json(await it.get("/v1/capabilities"))["engines"][0]["rate_limits"]
        assert limits == {"requests_per_s": 0.2, "burst": 2}
