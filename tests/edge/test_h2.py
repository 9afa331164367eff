"""Streams of tasks over HTTP/2: many on a connection, one that is not read, readers that leave."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
import trio

from orchd.kit.client import Target
from orchd.wire import sse
from orchd.wire.shapes import FinishReason
from tests.edge.conftest import Front, Opener, read_json
from tests.fakes.h2_peer import Answer, H2Peer
from tests.fakes.tasks import task_body

pytestmark = pytest.mark.req("OC-CTRL-2025", "ORCH-3450", "SSE-1005")

WINDOW = 65535


@asynccontextmanager
async def h2_peer(front: Front) -> AsyncIterator[H2Peer]:
    peer = H2Peer(await Target.unix(front.app.settings.front_socket).connect())
    peer.h2.initiate_connection()
    peer.h2.increment_flow_control_window(1 << 30)
    with trio.fail_after(10):
        await peer.flush()
        yield peer
    peer.pipe.close()


async def submit(peer: H2Peer) -> str:
    body = task_body()
    got = await peer.ask("/v1/tasks", "POST", orjson.dumps(body), content_type="application/json")
    assert got.status == 202, got.body
    return str(body["task_id"])


def names(answer: Answer) -> list[str]:
    events = sse.Decoder().feed(answer.body)
    return [event.name for event in events if event.name != "metrics"]


async def test_a_task_over_one_connection(front: Opener) -> None:
    async with front() as it, h2_peer(it) as peer:
        task = await submit(peer)
        job = await it.peer.next_job()
        reading = await peer.send(f"/v1/tasks/{task}/stream")
        job.tokens("Hé", "llo")
        await peer.body_of(reading, 300)
        job.end(FinishReason.STOP)
        got = await peer.answer(reading)
        assert got.headers["content-type"] == "text/event-stream"
        assert got.headers["cache-control"] == "no-cache"
        assert "content-encoding" not in got.headers
        assert names(got) == ["started", "narration", "token", "token", "narration", "end"]
        status = await peer.ask(f"/v1/tasks/{task}")
        assert status.json["state"] == "ended"
        assert (await peer.ask(f"/v1/tasks/{task}/cancel", "POST")).status == 204
        again = await peer.ask(f"/v1/tasks/{task}/stream", last_event_id="3")
        assert names(again) == ["token", "narration", "end"]


async def test_a_stream_that_is_not_read_stalls_no_other_and_not_the_link(front: Opener) -> None:
    text = "x" * 1000
    async with front(slots=2) as it, h2_peer(it) as peer:
        deaf_task, task = await submit(peer), await submit(peer)
        jobs = {str(job.open.task_id): job for job in [await it.peer.next_job() for _ in range(2)]}
        deaf = await peer.send(f"/v1/tasks/{deaf_task}/stream")
        peer.idle.add(deaf)
        reading = await peer.send(f"/v1/tasks/{task}/stream")
        for _ in range(300):
            jobs[deaf_task].tokens(text)
            jobs[task].tokens(text)
            await peer.receive()
        jobs[task].end()
        got = await peer.answer(reading)
        assert names(got).count("token") == 300
        assert names(got)[-1] == "end"
        assert len(peer.answers[deaf].data) == WINDOW
        # the one that was behind gets the rest, too, and nothing twice
        jobs[deaf_task].end()
        peer.idle.discard(deaf)
        peer.h2.acknowledge_received_data(WINDOW, deaf)
        await peer.flush()
        assert names(await peer.answer(deaf)) == names(got)


@pytest.mark.req("SSE-1003")
async def test_a_reset_stream_is_a_reader_that_left(front: Opener) -> None:
    """The last one takes its task with it, and no other task of the same connection."""
    async with front(slots=2) as it, h2_peer(it) as peer:
        tasks = [await submit(peer), await submit(peer)]
        jobs = {str(job.open.task_id): job for job in [await it.peer.next_job() for _ in range(2)]}
        first, second, other = [
            await peer.send(f"/v1/tasks/{task}/stream") for task in (tasks[0], tasks[0], tasks[1])
        ]
        for stream_id in (first, second, other):
            await peer.body_of(stream_id, 1)
        await peer.reset(first)
        await peer.ask("/health")
        assert not jobs[tasks[0]].canceled.is_set()
        await peer.reset(second)
        await jobs[tasks[0]].canceled.wait()
        jobs[tasks[0]].freed()
        assert not jobs[tasks[1]].canceled.is_set()
        jobs[tasks[1]].tokens("still here")
        jobs[tasks[1]].end()
        assert names(await peer.answer(other))[-1] == "end"
        assert read_json(await it.get(f"/v1/tasks/{tasks[0]}"))["state"] == "canceled"


@pytest.mark.req("SSE-1003")
async def test_a_connection_that_ends_takes_all_its_readers(front: Opener) -> None:
    async with front(slots=2) as it:
        async with h2_peer(it) as peer:
            for _ in range(2):
                task = await submit(peer)
                await peer.body_of(await peer.send(f"/v1/tasks/{task}/stream"), 1)
            jobs = [await it.peer.next_job() for _ in range(2)]
        with trio.fail_after(5):
            for job in jobs:
                await job.canceled.wait()


@pytest.mark.req("ORCH-3026")
async def test_no_token_leaves_after_the_204(front: Opener) -> None:
    """One reader keeps up, one is behind its window: neither gets a token behind the 204."""
    async with front() as it, h2_peer(it) as peer:
        task = await submit(peer)
        job = await it.peer.next_job()
        quick, deaf = [await peer.send(f"/v1/tasks/{task}/stream") for _ in range(2)]
        peer.idle.add(deaf)
        for _ in range(100):
            job.tokens("x" * 1000)
            await peer.receive()
        canceled = await peer.ask(f"/v1/tasks/{task}/cancel", "POST")
        assert canceled.status == 204
        sizes = {stream_id: len(peer.answers[stream_id].data) for stream_id in (quick, deaf)}
        job.tokens("late")
        job.freed()
        got = await peer.answer(quick)
        assert b"event: token" not in got.data[sizes[quick] :]
        assert names(got)[-1] == "end"
        got = await peer.answer(deaf)
        assert got.reset is not None
        assert len(got.data) == sizes[deaf]


async def test_what_is_refused_over_http1_is_refused_here(front: Opener) -> None:
    good: Any = {"authorization": "Bearer secret"}
    async with front(token="secret") as it, h2_peer(it) as peer:
        got = await peer.ask("/v1/tasks", authorization="Bearer wrong")
        assert (got.status, got.headers["www-authenticate"]) == (401, "Bearer")
        got = await peer.ask("/nothing", **good)
        assert (got.status, got.json["code"]) == (404, "INVALID_PARAMS")
        got = await peer.ask("/v1/tasks", "DELETE", **good)
        assert (got.status, got.headers["allow"]) == (405, "GET, POST")
        got = await peer.ask("/v1/tasks", "POST", b"{}", content_type="text/plain", **good)
        assert got.status == 415
        got = await peer.ask("/v1/tasks", "POST", b"{", content_type="application/json", **good)
        assert got.status == 400
