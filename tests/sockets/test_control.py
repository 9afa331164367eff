"""Drain and reload through the public API: real daemons, mock engines, clients that stream."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import partial
from typing import Any

import orjson
import pytest
import trio

from orchd.kit.client import Client
from tests.fakes.tasks import task_body
from tests.sockets.suite import SIMULATED, Suite, mock_pool
from tests.sockets.talk import events_of, get, last, names, post, stream, submit, until

pytestmark = pytest.mark.slow
SuiteOf = Callable[..., Suite]

BAD = 'faults = { refuse_model = "mock:bad" }'
BIG = "vram_mb = 8000"
"""MiB: two of these fit on the simulated 24 GB, and not on the 12 GB."""
RELOAD, DRAIN, HEALTH = (f"/v1/pools/demo/{name}" for name in ("reload", "drain", "health"))
WAIT_S = 20.0


async def settled(client: Client, pool: str = "demo") -> Any:
    """Wait until no reload is under way; return the health."""
    with trio.fail_after(WAIT_S):
        while "reloading" in (health := await get(client, f"/v1/pools/{pool}/health")):
            await trio.sleep(0.02)
    return health


async def phases(client: Client, *wanted: str) -> Any:
    with trio.fail_after(WAIT_S):
        while True:
            health = await get(client, HEALTH)
            if {each["snapshot"]["phase"] for each in health["replicas"]} <= set(wanted):
                return health
            await trio.sleep(0.02)


async def metric(client: Client, line: str) -> float:
    body = (await client.request("GET", "/metrics")).body.decode()
    found = [each for each in body.splitlines() if each.startswith(line)]
    return sum(float(each.rpartition(" ")[2]) for each in found)


@pytest.mark.req("OC-CTRL-2002", "ORCH-3038", "OC-POOL-3030")
async def test_a_drained_pool_ends_its_tasks_takes_no_more_and_comes_back(
    suite_of: SuiteOf,
) -> None:
    suite = suite_of(SIMULATED + mock_pool(engine="tokens_per_s = 50", replicas="[[0], [1]]"))
    client = suite.client()
    short, long = await submit(client, max_tokens=20), await submit(client, max_tokens=1000)
    waiting = await submit(client, max_tokens=2, deadline_ms=600_000)
    async with stream(client, long["task_id"]) as incoming:
        await until(incoming, b"event: token")
        answer = await post(client, DRAIN, {"deadline_ms": 1500})
        assert (answer.status, orjson.loads(answer.body)) == (
            202, {"pool_id": "demo", "status": "draining"},
        )  # fmt: skip
        assert last(await events_of(client, short["task_id"]))["finish_reason"] == "length"
        broken = await until(incoming, b"event: error")
        assert b'"code":"WORKER_RESET"' in broken
        assert b'"retriable":true' in broken
    health = await phases(client, "drained")
    assert (health["ready"], health["draining"]) == (False, True)
    refused = await post(client, "/v1/tasks", task_body())
    assert (refused.status, orjson.loads(refused.body)["code"]) == (503, "POOL_UNREADY")
    assert refused.headers["retry-after"]
    assert (await get(client, f"/v1/tasks/{waiting['task_id']}"))["state"] == "queued"
    assert await metric(client, "drain_events_total{") == 2
    # a reload brings it back, and what waited runs
    done = await trio.to_thread.run_sync(suite.orchctl, "reload", "demo")
    assert (done.returncode, done.stderr) == (0, "Pool demo serves mock:lorem.\n"), done
    assert last(await events_of(client, waiting["task_id"]))["finish_reason"] == "length"
    client.close()


@pytest.mark.req("OC-CTRL-2003", "ORCH-3038", "HME-031")
async def test_a_pool_changes_its_model_while_its_clients_stream(suite_of: SuiteOf) -> None:
    suite = suite_of(SIMULATED + mock_pool(engine="tokens_per_s = 100", replicas="[[0], [1]]"))
    client = suite.client()
    running = [await submit(client, max_tokens=150) for _ in range(2)]
    async with stream(client, running[0]["task_id"]) as incoming:
        await until(incoming, b"event: token")
        begun = trio.current_time()
        assert (await post(client, RELOAD, {"new_model_ref": "mock:short"})).status == 202
        again = await post(client, RELOAD, {"new_model_ref": "mock:short"})
        assert (again.status, orjson.loads(again.body)["code"]) == (409, "INVALID_PARAMS")
        health = await settled(client)
        assert trio.current_time() - begun < 10
        assert (health["model_ref"], health["ready"]) == ("mock:short", True)
        assert {each["snapshot"]["model_ref"] for each in health["replicas"]} == {"mock:short"}
        await until(incoming, b"event: end")  # who leaves before cancels
    for task in running:
        events = await events_of(client, task["task_id"])
        assert names(events).count("token") >= 150 - 3  # a token may be several words' worth
        assert last(events)["tokens_out"] == 150
    fresh = await submit(client, model_ref="mock:short", max_tokens=500)
    assert last(await events_of(client, fresh["task_id"]))["finish_reason"] == "stop"
    old = await post(client, "/v1/tasks", task_body())
    assert orjson.loads(old.body)["code"] == "POOL_UNAVAILABLE"
    capabilities = await get(client, "/v1/capabilities")
    assert [each["model_ref"] for each in capabilities["engines"]] == ["mock:short"]
    client.close()


@pytest.mark.req("OC-CTRL-2003", "ORCH-3038")
@pytest.mark.parametrize("engine", [BAD, f"{BAD}, {BIG}"], ids=["beside", "in its place"])
async def test_a_bad_model_leaves_the_pool_on_its_old_one(suite_of: SuiteOf, engine: str) -> None:
    suite = suite_of(SIMULATED + mock_pool(engine=engine, replicas="[[1]]"))
    client = suite.client()
    waiting = await submit(client, max_tokens=2)
    done = await trio.to_thread.run_sync(suite.orchctl, "reload", "demo", "mock:bad")
    assert done.returncode == 69, done
    assert "pool demo keeps mock:lorem; mock:bad failed" in done.stderr
    gap = "No room for both: demo serves nothing where mock:bad is loaded, until then."
    assert (gap in done.stderr) == (BIG in engine)
    assert "refused to load the model" in done.stderr
    health = await get(client, HEALTH)
    assert (health["model_ref"], health["ready"]) == ("mock:lorem", True)
    assert health["last_error"]["kind"] == "engine_start_failed"
    for task in (waiting, await submit(client, max_tokens=2)):
        assert last(await events_of(client, task["task_id"]))["finish_reason"] == "length"
    assert await metric(client, 'preload_outcomes_total{engine="mock"') > 0
    client.close()


@pytest.mark.req("OC-CTRL-2003", "ORCH-3046")
async def test_a_reload_outlives_both_daemons(suite_of: SuiteOf) -> None:
    suite = suite_of(SIMULATED + mock_pool(replicas="[[0], [1]]"))
    client = suite.client()
    assert (await post(client, RELOAD, {"new_model_ref": "mock:new"})).status == 202
    await settled(client)
    mark = len(suite.events)
    os.kill(suite.pid_of("poolmgr", "demo:0", "--config"), signal.SIGKILL)
    await trio.to_thread.run_sync(
        lambda: suite.wait_event("replica_ready", mark, replica_id="demo:0")
    )
    mark = len(suite.events)
    os.kill(suite.orchd_pid, signal.SIGKILL)
    for replica in ("demo:0", "demo:1"):
        await trio.to_thread.run_sync(
            partial(suite.wait_event, "replica_ready", mark, replica_id=replica)
        )
    health = await get(client, HEALTH)
    assert health["model_ref"] == "mock:new"
    for task in [await submit(client, model_ref="mock:new", max_tokens=2) for _ in range(2)]:
        assert last(await events_of(client, task["task_id"]))["finish_reason"] == "length"
    client.close()


async def test_wrong_requests_are_told_what_is_wrong(suite_of: SuiteOf) -> None:
    suite = suite_of(SIMULATED + mock_pool())
    client = suite.client()
    for path, body, status in (
        ("/v1/pools/none/drain", {"deadline_ms": 1}, 404),
        ("/v1/pools/none/reload", {"new_model_ref": "x"}, 404),
        (DRAIN, {}, 400),
        (DRAIN, {"deadline_ms": 0}, 400),
        (DRAIN, {"deadline_ms": 10**9}, 400),
        (RELOAD, {"new_model_ref": ""}, 400),
        (RELOAD, {"new_model_ref": "a\0b"}, 400),
        (RELOAD, {"new_model_ref": "x", "more": 1}, 400),
    ):
        answer = await post(client, path, body)
        assert answer.status == status, (path, body, answer.body)
        assert orjson.loads(answer.body)["hint"]
    assert (await client.request("GET", DRAIN)).status == 405
    assert (await get(client, HEALTH))["ready"] is True
    client.close()
