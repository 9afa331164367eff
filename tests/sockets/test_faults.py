"""Engines and daemons that break, seen by clients of the whole suite."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio

from tests.sockets.suite import SIMULATED, Suite, mock_pool
from tests.sockets.talk import events_of, last, names, submit

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
    ends: list[str] = []

    async def read(task: str) -> None:
        ends.append(last(await events_of(client, task)).get("finish_reason"))

    async with trio.open_nursery() as nursery:
        for task in waiting:
            nursery.start_soon(read, task["task_id"])
    assert ends == ["length"] * 3
    client.close()
