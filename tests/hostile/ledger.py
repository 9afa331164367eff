"""What was there before must be there after, and nothing else: counted from outside the daemon.

Tasks, slots, queues and capabilities over the API, descriptors in /proc, errors in the log.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import orjson
import trio
from prometheus_client.parser import text_string_to_metric_families

from orchd.kit.client import Client
from tests.sockets.suite import Suite
from tests.sockets.talk import get, post

IDLE_S: Final = 20.0
RELOAD_S: Final = 60.0
VICTIM: Final = "victim"
"""The pool whose id stands in paths: what is done to it is done to no task of these tests."""
SLACK: Final = 8
"""Descriptors that a process may have more than before: idle ones that `kit.client` keeps."""


@asynccontextmanager
async def nothing_left(suite: Suite) -> AsyncIterator[None]:
    """Assert that the block leaves the suite as it was."""
    client = suite.client()
    try:
        capabilities = await get(client, "/v1/capabilities")
        before, mark = descriptors(suite), len(suite.events)
        yield
        await idle(client)
        await restore(client)
        with trio.fail_after(IDLE_S):  # a pool that comes back says so replica by replica
            while (now := await get(client, "/v1/capabilities")) != capabilities:
                assert now.keys() == capabilities.keys()
                await trio.sleep(0.05)
        await closed(suite, before)
        wrong = [e for e in suite.events[mark:] if e.get("level") == "error" or "traceback" in e]
        assert wrong == []
    finally:
        client.close()


async def idle(client: Client) -> None:
    """Cancel what was admitted; wait until nothing waits, runs or holds a slot."""
    for state in ("queued", "running"):
        while tasks := (await get(client, f"/v1/tasks?state={state}"))["tasks"]:
            for task in tasks:
                await post(client, f"/v1/tasks/{task['task_id']}/cancel")
            await trio.sleep(0.01)
    with trio.fail_after(IDLE_S):
        while left := await figures(client):
            assert left  # said when the deadline passes
            await trio.sleep(0.01)


async def restore(client: Client) -> None:
    """Give the pool that is there to be played with its model back, Ready and not draining."""
    with trio.fail_after(RELOAD_S):
        while not _serves(await get(client, f"/v1/pools/{VICTIM}/health")):
            body = {"new_model_ref": f"mock:{VICTIM}"}  # a 409 while another reload goes on
            answer = await post(client, f"/v1/pools/{VICTIM}/reload", body)
            assert answer.status in {202, 409, 503}, answer
            await trio.sleep(0.05)


def _serves(health: dict[str, Any]) -> bool:
    models = {(replica.get("snapshot") or {}).get("model_ref") for replica in health["replicas"]}
    busy = health["draining"] or health.get("reloading")
    return bool(health["ready"] and not busy and models == {f"mock:{VICTIM}"})


async def figures(client: Client) -> dict[str, float]:
    """Return the gauges that are not 0 and should be, of /metrics."""
    page = (await client.request("GET", "/metrics")).body.decode()
    return {
        f"{sample.name}{sample.labels}": sample.value
        for family in text_string_to_metric_families(page)
        if family.name in {"active_leases", "queue_depth"}
        for sample in family.samples
        if sample.value
    }


def descriptors(suite: Suite) -> dict[int, int]:
    """Return pid -> open descriptors, of every process of the suite."""
    found = {}
    for pid in suite.processes():
        with suppress(OSError):
            found[pid] = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return found


async def closed(suite: Suite, before: dict[int, int]) -> None:
    """Wait until no process has more open than before, and no more processes are there."""
    now = before
    try:
        with trio.fail_after(IDLE_S):
            while not _as_few(now := descriptors(suite), before):
                await trio.sleep(0.02)
    except trio.TooSlowError:
        raise AssertionError(f"open descriptors in {IDLE_S:g} s: {before} to {now}") from None


def _as_few(now: dict[int, int], before: dict[int, int]) -> bool:
    """A reload gives a pool another engine; the one before it may still end when a test begins."""
    kept = now.keys() & before.keys()
    return len(now) <= len(before) and all(now[pid] <= before[pid] + SLACK for pid in kept)


def envelope_of(body: bytes) -> dict[str, Any]:
    """Return an error's body."""
    value = orjson.loads(body)
    assert isinstance(value, dict)
    return value
