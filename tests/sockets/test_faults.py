"""Engines and daemons that break, seen by clients of the whole suite."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest
import trio

from orchd.kit.client import PeerError
from orchd.wire.snapshot import FRESH_S
from tests.fakes.tasks import task_body
from tests.sockets.suite import SIMULATED, Suite, mock_pool
from tests.sockets.talk import events_of, last, names, post, stream, submit, until

pytestmark = pytest.mark.slow
SuiteOf = Callable[..., Suite]


@pytest.mark.req("OC-POOL-3010", "ORCH-3408")
async def test_an_engine_that_dies_breaks_the_stream_and_nobody_who_waits(
    suite_of: SuiteOf,
) -> None:
    faults = "tokens_per_s = 100, faults = { die_after_tokens = 10 }"
    suite = suite_of(SIMULATED + mock_pool(engine=faults))
    client = suite.client()
    first = await submit(client, max_tokens=50)
    waiting = [await submit(client, max_tokens=3) for _ in range(3)]
    broken = await events_of(client, first["task_id"])
    assert names(broken).count("token") == 10
    assert last(broken)["code"] == "WORKER_RESET"
    assert last(broken)["retriable"] is True
    assert "/" not in last(broken)["message"]  # where the engine listens is nothing for a client
    ends: list[str] = []

    async def read(task: str) -> None:
        ends.append(last(await events_of(client, task)).get("finish_reason"))

    async with trio.open_nursery() as nursery:
        for task in waiting:
            nursery.start_soon(read, task["task_id"])
    assert ends == ["length"] * 3
    client.close()


@pytest.mark.req("ORCH-3971", "ORCH-3010")
async def test_a_poolmgr_that_stands_still_is_noticed_and_comes_back(suite_of: SuiteOf) -> None:
    suite = suite_of(SIMULATED + mock_pool())
    client = suite.client()
    pool = suite.pid_of("poolmgr", "demo:0", "--config")
    running = await submit(client, max_tokens=1000)
    waiting = await submit(client, max_tokens=2)
    async with stream(client, running["task_id"]) as incoming:
        await until(incoming, b"event: token")
        os.kill(pool, signal.SIGSTOP)
        try:
            with trio.fail_after(FRESH_S + 3):
                broken = await until(incoming, b"event: error")
            assert b'"code":"WORKER_RESET"' in broken
            ready = await client.request("GET", "/readyz")
            assert ready.status == 503
            assert b"silent" in ready.body
            refused = await post(client, "/v1/tasks", task_body())
            assert refused.status == 503
            assert refused.headers["retry-after"]
        finally:
            os.kill(pool, signal.SIGCONT)
    assert last(await events_of(client, waiting["task_id"]))["finish_reason"] == "length"
    client.close()


async def test_an_orchd_that_is_killed_breaks_its_streams_and_serves_again(
    suite_of: SuiteOf,
) -> None:
    suite = suite_of(SIMULATED + mock_pool())
    client = suite.client()
    task = await submit(client, max_tokens=1000)
    async with stream(client, task["task_id"]) as incoming:
        await until(incoming, b"event: token")
        mark = len(suite.events)
        os.kill(suite.orchd_pid, signal.SIGKILL)
        with trio.fail_after(5), pytest.raises(PeerError):
            while await incoming.read_some():
                pass
    # the socket is not orchd's own: who asks now is answered by the next one
    assert (await client.request("GET", f"/v1/tasks/{task['task_id']}")).status == 404
    await trio.to_thread.run_sync(lambda: suite.wait_event("replica_ready", mark))
    again = await submit(client, max_tokens=2)
    assert last(await events_of(client, again["task_id"]))["finish_reason"] == "length"
    client.close()
