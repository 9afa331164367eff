"""The main job with every part real but the GPU: orchctl up, orchd, poolmgr, the mock engine."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
import trio

from orchd.kit.client import Client, Target
from tests.fakes.tasks import task_body
from tests.sockets.suite import SIMULATED, Suite, mock_pool
from tests.sockets.talk import events_of, get, last, names, post, stream, submit, text_of, until
from tools.metrics_lint import lint

pytestmark = pytest.mark.slow
SuiteOf = Callable[..., Suite]


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


@pytest.mark.req("ORCH-3045", "OC-CORE-1030", "HME-001", "HME-012")
async def test_a_task_gives_the_same_text_on_both_replicas_over_tcp_and_unix(
    suite_of: SuiteOf,
) -> None:
    suite = suite_of(SIMULATED + mock_pool(replicas="[[0], [1]]"))
    tcp = Client(Target.parse(f"http://127.0.0.1:{suite.port}"))
    unix = suite.client()
    first = await submit(tcp, seed=5, max_tokens=40)
    second = await submit(unix, seed=5, max_tokens=40)
    texts = {text_of(await events_of(c, t["task_id"])) for c, t in ((tcp, first), (unix, second))}
    assert len(texts) == 1
    assert texts != {""}
    where = {(await get(unix, f"/v1/tasks/{t['task_id']}"))["replica_id"] for t in (first, second)}
    assert where == {"demo:0", "demo:1"}
    capabilities = await get(unix, "/v1/capabilities")
    assert capabilities["engines"][0]["concurrency"] == 2
    page = await unix.request("GET", "/metrics")
    assert lint(page.body.decode()) == []
    tcp.close()
    unix.close()


@pytest.mark.req("ORCH-3004", "OC-CORE-1004", "ORCH-2007", "OC-CTRL-2022")
async def test_who_waits_knows_where_and_interactive_goes_first(suite_of: SuiteOf) -> None:
    suite = suite_of(SIMULATED + mock_pool(queue="queue = { interactive = 1, batch = 1 }"))
    client = suite.client()
    running = await submit(client, max_tokens=100)
    batch = await submit(client, priority="batch", max_tokens=2)
    quick = await submit(client, max_tokens=2)
    assert [t["queue_position"] for t in (running, batch, quick)] == [0, 0, 0]
    assert quick["predicted_start_ms"] > 0
    refused = await post(client, "/v1/tasks", task_body())
    assert refused.status == 429
    for task in (batch, quick, running):
        events = await events_of(client, task["task_id"])
        started = orjson.loads(events[0].data)
        assert events[0].name == "started"
        assert started.keys() >= {"queue_position", "predicted_start_ms"}
    placed = [event["job_id"] for event in suite.events if event["event"] == "task_placed"]
    assert placed == [task["task_id"] for task in (running, quick, batch)]
    client.close()


async def test_a_cancel_frees_the_slot_for_the_next(suite_of: SuiteOf) -> None:
    suite = suite_of(SIMULATED + mock_pool())
    client = suite.client()
    endless = await submit(client, max_tokens=1000)
    async with stream(client, endless["task_id"]) as incoming:
        await until(incoming, b"event: token")
        following = await submit(client, max_tokens=2)
        answer = await post(client, f"/v1/tasks/{endless['task_id']}/cancel")
        assert answer.status == 204
        rest = await until(incoming, b"event: end")
        assert b'"finish_reason":"canceled"' in rest
    assert names(await events_of(client, following["task_id"]))[-1] == "end"
    client.close()


@pytest.mark.req("SSE-1003")
async def test_a_client_that_is_killed_frees_the_slot(suite_of: SuiteOf) -> None:
    suite = suite_of(SIMULATED + mock_pool())
    client = suite.client()
    endless = await submit(client, max_tokens=8000, ctx=8192)
    with socket.create_connection(("127.0.0.1", suite.port)) as sock:
        sock.sendall(f"GET {endless['stream_url']} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert sock.recv(4096)
    with trio.fail_after(2):
        while (await get(client, "/v1/pools/demo/health"))["metrics"]["slots_active"]:
            await trio.sleep(0.01)
    assert (await get(client, endless["stream_url"].removesuffix("/stream")))["state"] == "canceled"
    client.close()


@pytest.mark.req("OC-POOL-3010", "ORCH-3408")
async def test_an_engine_that_is_killed_is_said_and_comes_back(suite_of: SuiteOf) -> None:
    suite = suite_of(SIMULATED + mock_pool())
    client = suite.client()
    task = await submit(client, max_tokens=1000)
    async with stream(client, task["task_id"]) as incoming:
        await until(incoming, b"event: token")
        mark = len(suite.events)
        os.kill(suite.pid_of("poolmgr.mockengine"), signal.SIGKILL)
        broken = await until(incoming, b"event: error")
    assert b'"code":"WORKER_RESET"' in broken
    await trio.to_thread.run_sync(lambda: suite.wait_event("replica_ready", mark))
    again = await submit(client, max_tokens=2)
    assert last(await events_of(client, again["task_id"]))["finish_reason"] == "length"
    client.close()


async def test_a_poolmgr_that_is_killed_takes_its_engine_along_and_comes_back(
    suite_of: SuiteOf,
) -> None:
    suite = suite_of(SIMULATED + mock_pool())
    client = suite.client()
    engine = suite.pid_of("poolmgr.mockengine")
    mark = len(suite.events)
    os.kill(suite.pid_of("poolmgr", "demo:0", "--config"), signal.SIGKILL)
    with trio.fail_after(5):
        while alive(engine):
            await trio.sleep(0.01)
    await trio.to_thread.run_sync(lambda: suite.wait_event("replica_ready", mark))
    task = await submit(client, max_tokens=2)
    assert last(await events_of(client, task["task_id"]))["finish_reason"] == "length"
    client.close()


@pytest.mark.req("HME-020")
def test_orchctl_runs_a_prompt(suite_of: SuiteOf) -> None:
    suite = suite_of(SIMULATED + mock_pool(engine="tokens_per_s = 0"))
    done = suite.orchctl("run", "Say something.", "--max-tokens", "8", "--json")
    assert done.returncode == 0, done.stderr
    lines = [orjson.loads(line) for line in done.stdout.splitlines()]
    assert sum(1 for line in lines if line.get("event") == "token") == 8
    plain = suite.orchctl("run", "Say something.", "--max-tokens", "8")
    assert plain.returncode == 0
    assert plain.stdout.strip()
    unknown = suite.orchctl("run", "Hi", "--model", "mock:none", "--engine", "mock")
    assert unknown.returncode == 69
