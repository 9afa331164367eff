"""Tasks through the front daemon: HTTP in, a pool peer at the other end of the link."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
import trio
import trio.lowlevel
import trio.testing

from orchd.config.pool import Queue
from orchd.config.schema import Settings
from orchd.edge.app import App
from orchd.edge.streams import ALIVE_S
from orchd.kit import log
from orchd.kit.client import Incoming
from orchd.wire import sse
from orchd.wire.errors import Kind
from orchd.wire.ids import Positive
from orchd.wire.shapes import FinishReason
from tests.edge.conftest import Front, Opener, read_json
from tests.fakes.tasks import task_body


async def read_events(incoming: Incoming) -> list[sse.Event]:
    """Until the stream's end."""
    decoder, events = sse.Decoder(), []
    with trio.fail_after(5):
        while data := await incoming.read_some():
            events += decoder.feed(data)
    return events


async def test_the_watchdog_hears_of_a_pulse_that_beats_and_of_one_that_does_not(
    folder: Path, autojump_clock: trio.testing.MockClock
) -> None:
    app = App(Settings(state_dir=folder, run_dir=folder))
    assert not app.alive()
    async with trio.open_nursery() as nursery:
        await nursery.start(app.run)
        for _ in range(20):
            assert app.alive()
            await trio.sleep(3)
        nursery.cancel_scope.cancel()
    await trio.sleep(ALIVE_S)
    assert not app.alive()


async def stream(front: Front, task: str, **headers: str) -> list[sse.Event]:
    async with front.client.open("GET", f"/v1/tasks/{task}/stream", headers=headers) as incoming:
        assert incoming.status == 200
        assert incoming.headers["content-type"].startswith("text/event-stream")
        assert incoming.headers["cache-control"] == "no-cache"
        return await read_events(incoming)


def names(events: list[sse.Event]) -> list[str]:
    return [event.name for event in events if event.name != "metrics"]


@pytest.mark.req("ORCH-2002", "ORCH-3029", "OC-CTRL-2021", "OC-CTRL-2027")
@pytest.mark.req("ORCH-3401", "ORCH-3308", "ORCH-3310")
async def test_a_task_travels_to_a_pool_and_its_tokens_back(front: Opener) -> None:
    async with front() as it:
        task = await it.submit(max_tokens=3, seed=7)
        job = await it.peer.next_job()
        assert (job.open.task_id, job.open.seed, job.open.max_tokens) == (task, 7, 3)
        job.tokens("Hé", "llo")
        job.tokens("!")
        job.end(FinishReason.LENGTH)
        events = await stream(it, task)
        assert names(events) == ["started", "narration", *["token"] * 3, "narration", "end"]
        started = orjson.loads(events[0].data)
        assert (started["queue_position"], started["predicted_start_ms"]) == (0, 0)
        texts = [orjson.loads(e.data) for e in events if e.name == "token"]
        assert texts == [{"t": "Hé", "i": 0}, {"t": "llo", "i": 1}, {"t": "!", "i": 2}]
        end = orjson.loads(events[-1].data)
        assert end["finish_reason"] == "length"
        assert end["tokens_out"] == 3
        assert end["decode_time_ms"] == end["decode_ms"]
        status = read_json(await it.get(f"/v1/tasks/{task}"))
        assert status["state"] == "ended"
        assert "prompt" not in status
        it.peer.state()  # ACKs go out with what is said next
        with trio.fail_after(2):
            while it.peer.acks != [job.number]:
                await trio.sleep(0.001)


@pytest.mark.req("ORCH-3100", "OC-CTRL-2023", "OC-METRICS-7110")
async def test_who_waits_is_told_in_metrics_frames(front: Opener) -> None:
    async with front() as it:
        _, _, last = [await it.submit() for _ in range(3)]
        job = await it.peer.next_job()
        decoder, events = sse.Decoder(), list[sse.Event]()
        async with it.client.open("GET", f"/v1/tasks/{last}/stream") as incoming:
            with trio.fail_after(5):
                events += decoder.feed(await incoming.read_some())
                job.end()
                while events[-1].name != "metrics":
                    events += decoder.feed(await incoming.read_some())
        assert events[-1].id == events[0].id
        said = orjson.loads(events[-1].data)
        assert (said["queue_depth"], said["queue_position"]) == (1, 0)
        assert 0 <= said["on_time_probability"] <= 1


@pytest.mark.req("ORCH-3300", "ORCH-3304", "ORCH-3305", "ORCH-3306")
@pytest.mark.req("OC-CTRL-2050", "ORCH-3810", "ORCH-3811")
async def test_each_step_of_a_task_is_a_sentence_in_the_log_with_who_asked(front: Opener) -> None:
    with log.capture() as events:
        async with front() as it:
            first, second = [await it.submit() for _ in range(2)]
            job = await it.peer.next_job()
            job.tokens("a")
            job.end()
            await it.peer.next_job()
            assert (await it.post(f"/v1/tasks/{second}/cancel")).status == 204
    steps = ["task_admitted", "task_placed", "task_started", "task_ended", "task_canceled"]
    told = {name: next(e for e in events if e["event"] == name) for name in steps}
    for name, event in told.items():
        task = second if name == "task_canceled" else first
        assert task[:8] in event["human"]
        assert (event["actor"], event["target"], event["job_id"]) == ("orchd", task, task)
        assert event["action"] == name.removeprefix("task_")
        assert event["correlation_id"]
        assert event["engine"] == "mock"
    assert told["task_admitted"]["identity"] == f"uid:{os.getuid()}"
    assert told["task_ended"]["tokens_out"] == 1
    ready = next(event for event in events if event["event"] == "replica_ready")
    assert "is ready" in ready["human"]
    assert ready["replica_id"] == "demo:0"


async def test_two_readers_and_a_resumed_one_see_the_same(front: Opener) -> None:
    async with front(slots=2) as it:
        task = await it.submit()
        job = await it.peer.next_job()
        got: list[list[sse.Event]] = []

        async def read() -> None:
            got.append(await stream(it, task))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            nursery.start_soon(read)
            for n in range(50):
                job.tokens(f"w{n} ")
                await trio.lowlevel.checkpoint()
            job.end()
        first, second = ([e for e in events if e.name != "metrics"] for events in got)
        assert first == second
        seen = first[20].id
        assert seen is not None
        rest = await stream(it, task, **{"last-event-id": seen})
        assert [e.data for e in rest] == [e.data for e in first[21:]]


async def test_tasks_are_listed_in_pages_and_the_last_page_leads_nowhere(front: Opener) -> None:
    async with front() as it:
        tasks = [await it.submit() for _ in range(4)]
        found: list[list[str]] = []
        query = "?limit=2"
        while True:
            page = read_json(await it.get(f"/v1/tasks{query}"))
            found.append([task["task_id"] for task in page["tasks"]])
            if "next_cursor" not in page:
                break
            query = f"?limit=2&cursor={page['next_cursor']}"
        assert found == [tasks[:1:-1], tasks[1::-1]]


@pytest.mark.req("ORCH-2007", "OC-CTRL-2011", "ORCH-3005", "OC-CORE-1002")
async def test_a_full_queue_answers_429_with_the_time_to_wait(front: Opener) -> None:
    async with front(queue=Queue(interactive=Positive(1), batch=Positive(1))) as it:
        await it.submit()
        await it.peer.next_job()
        await it.submit()
        answer = await it.post("/v1/tasks", task_body())
        body = read_json(answer)
        assert answer.status == 429
        assert body["code"] == "ADMISSION_REJECT"
        assert body["policy_label"] == "reject"
        assert body["retriable"] is True
        assert int(answer.headers["x-backoff-ms"]) == body["retry_after_ms"] > 0
        assert int(answer.headers["retry-after"]) == -(-body["retry_after_ms"] // 1000)


@pytest.mark.req("ORCH-3026", "OC-CTRL-2012")
async def test_a_queued_and_a_running_task_are_canceled_and_again(front: Opener) -> None:
    async with front() as it:
        running = await it.submit()
        job = await it.peer.next_job()
        queued = await it.submit()
        for task in (queued, running, running, queued):
            answer = await it.post(f"/v1/tasks/{task}/cancel")
            assert (answer.status, answer.body) == (204, b"")
            assert answer.headers["x-correlation-id"]
        with trio.fail_after(2):
            await job.canceled.wait()
        job.tokens("late")
        job.freed()
        for task in (queued, running):
            events = await stream(it, task)
            assert "token" not in names(events)
            assert orjson.loads(events[-1].data)["finish_reason"] == "canceled"
            assert read_json(await it.get(f"/v1/tasks/{task}"))["state"] == "canceled"
        await it.submit()
        await it.peer.next_job()


@pytest.mark.req("ORCH-3026", "OC-CTRL-2012")
async def test_no_token_frame_leaves_after_the_204_in_200_interleavings(front: Opener) -> None:
    """What left before the 204 is in the reader's socket when the 204 comes: taken out at once.

    Whatever comes behind it left later, and may hold no token frame.
    """
    dice = random.Random(3026)
    async with front(slots=8) as it:
        for _ in range(200):
            task = await it.submit(max_tokens=1000)
            job = await it.peer.next_job()
            pauses = [dice.choice([0, 0, 0, 0.0005]) for _ in range(dice.randrange(1, 30))]
            batches = [dice.randrange(1, 40) for _ in pauses]
            with raw_reader(it, task) as reader:
                before = await reader.until(b"event: started")
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_generate, job, pauses, batches)
                    for pause in pauses[: dice.randrange(len(pauses))]:
                        await trio.sleep(pause)
                    answer = await it.post(f"/v1/tasks/{task}/cancel")
                    before += reader.take()
                    assert answer.status == 204
                later = b""
                if b'"finish_reason":"canceled"' not in before:
                    later = await reader.until(b'"finish_reason":"canceled"')
                await trio.sleep(0.001)
                later += reader.take()
            assert b"event: token" not in later


class RawReader:
    """A reader of the stream whose socket the test empties when it chooses."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    def take(self) -> bytes:
        """What has left for this reader by now."""
        try:
            return self.sock.recv(1 << 20)
        except BlockingIOError:
            return b""

    async def until(self, mark: bytes) -> bytes:
        data = b""
        with trio.fail_after(5):
            while mark not in data:
                await trio.lowlevel.wait_readable(self.sock)
                data += self.take()
        return data


@contextmanager
def raw_reader(front: Front, task: str) -> Iterator[RawReader]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(front.app.settings.front_socket))
        sock.sendall(f"GET /v1/tasks/{task}/stream HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        sock.setblocking(False)
        yield RawReader(sock)


async def _generate(job: Any, pauses: list[float], batches: list[int]) -> None:
    for pause, count in zip(pauses, batches, strict=True):
        if job.canceled.is_set():
            break
        job.tokens(*["word "] * count)
        await trio.sleep(pause)
    with trio.fail_after(5):
        await job.canceled.wait()
    job.tokens("after", "the", "cancel")
    job.freed()


@pytest.mark.req("SSE-1003")
async def test_a_client_that_leaves_frees_its_slot(front: Opener) -> None:
    async with front() as it:
        task = await it.submit()
        job = await it.peer.next_job()
        async with it.client.open("GET", f"/v1/tasks/{task}/stream") as incoming:
            job.tokens("a")
            await incoming.read_some()
        with trio.fail_after(1):
            await job.canceled.wait()
        assert read_json(await it.get(f"/v1/tasks/{task}"))["state"] == "canceled"


async def test_a_client_may_leave_when_configuration_says_so(front: Opener) -> None:
    async with front(cancel_on_disconnect=False) as it:
        task = await it.submit()
        job = await it.peer.next_job()
        async with it.client.open("GET", f"/v1/tasks/{task}/stream") as incoming:
            job.tokens("a")
            await incoming.read_some()
        await trio.sleep(0.05)
        assert not job.canceled.is_set()
        job.tokens("b")
        job.end()
        assert [e.name for e in await stream(it, task)].count("token") == 2


@pytest.mark.req("ORCH-3406", "ORCH-3407")
async def test_a_pool_that_dies_after_a_token_breaks_the_stream(front: Opener) -> None:
    async with front() as it:
        task = await it.submit()
        job = await it.peer.next_job()
        job.tokens("a")
        job.fail(Kind.WORKER_RESET, "the engine was killed by signal 9")
        events = await stream(it, task)
        assert events[-1].name == "error"
        error = orjson.loads(events[-1].data)
        assert error["code"] == "WORKER_RESET"
        assert error["retriable"] is True
        assert error["pool_id"] == "demo"


async def test_a_task_without_a_token_outlives_its_pools_link(front: Opener) -> None:
    async with front() as it:
        task = await it.submit()
        await it.peer.next_job()
        it.peer.hang_up()
        again = await it.peer.next_job()
        assert again.open.task_id == task
        again.tokens("a")
        again.end()
        assert names(await stream(it, task))[-1] == "end"


async def test_a_lost_link_after_tokens_is_a_worker_reset(front: Opener) -> None:
    async with front() as it:
        task = await it.submit()
        job = await it.peer.next_job()
        async with it.client.open("GET", f"/v1/tasks/{task}/stream") as incoming:
            job.tokens("a")
            while b"event: token" not in await incoming.read_some():
                pass
            it.peer.hang_up()
            events = await read_events(incoming)
        assert orjson.loads(events[-1].data)["code"] == "WORKER_RESET"


async def test_a_stop_refuses_what_is_new_lets_tasks_end_and_cancels_what_is_left(
    front: Opener,
) -> None:
    async with front(slots=2) as it:
        first, second = [await it.submit() for _ in range(2)]
        ending, lasting = [await it.peer.next_job() for _ in range(2)]
        lasting.tokens("x")
        async with trio.open_nursery() as stopping:
            stopping.start_soon(it.app.drain, 0.2)
            await trio.testing.wait_all_tasks_blocked()
            refused = await it.post("/v1/tasks", task_body())
            assert (refused.status, read_json(refused)["message"]) == (503, "orchd is stopping")
            assert read_json(await it.get("/readyz"))["reasons"] == ["orchd is stopping"]
            ending.tokens("a")
            ending.end()
        ends = [orjson.loads((await stream(it, task))[-1].data) for task in (first, second)]
        assert [end["finish_reason"] for end in ends] == ["stop", "canceled"]
        told = [e.data for e in await stream(it, second) if e.name == "narration"]
        assert "Canceled because orchd stops." in told[-1]
        await lasting.canceled.wait()


async def test_a_stop_does_not_wait_once_nothing_runs(front: Opener) -> None:
    async with front() as it:
        await it.submit()
        job = await it.peer.next_job()
        with trio.fail_after(5):
            async with trio.open_nursery() as stopping:
                stopping.start_soon(it.app.drain, 60)
                await trio.testing.wait_all_tasks_blocked()
                job.end()
            await it.app.drain(60)


@pytest.mark.req("ORCH-3011", "OC-CORE-1011", "HME-010", "ORCH-1103")
async def test_the_replica_with_most_free_vram_goes_first(front: Opener) -> None:
    async with front(replicas=2) as it:
        small, large = it.peers.values()
        small.state(vram_free_bytes=5 << 30)
        large.state(vram_free_bytes=20 << 30)
        with trio.fail_after(2):
            await it.get("/health")
            await trio.sleep(0.02)
        task = await it.submit()
        job = await large.next_job()
        assert job.open.task_id == task
        decision = read_json(await it.get(f"/v1/tasks/{task}"))["decision"]
        assert decision["selected"] == "demo:1"
        assert {c["replica_id"] for c in decision["considered"]} == {"demo:0", "demo:1"}


@pytest.mark.req("OC-CTRL-2052")
async def test_every_answer_carries_the_correlation_id(front: Opener) -> None:
    async with front() as it:
        for answer in (
            await it.get("/v1/capabilities", **{"x-correlation-id": "abc-1"}),
            await it.get("/nowhere", **{"x-correlation-id": "abc-1"}),
            await it.post("/v1/tasks", {"no": "task"}, **{"x-correlation-id": "abc-1"}),
        ):
            assert answer.headers["x-correlation-id"] == "abc-1"


async def test_the_same_task_twice_is_one_task(front: Opener) -> None:
    async with front() as it:
        body = task_body()
        first = await it.post("/v1/tasks", body)
        second = await it.post("/v1/tasks", body)
        assert (first.status, second.status) == (202, 202)
        await it.peer.next_job()
        other = await it.post("/v1/tasks", body | {"prompt": "Another."})
        assert other.status == 409
        assert it.peer.opened.statistics().current_buffer_used == 0
