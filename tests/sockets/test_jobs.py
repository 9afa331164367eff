"""Records of jobs, left by real daemons and read with orchctl as an operator would."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.sockets.suite import SIMULATED, Suite, mock_pool
from tests.sockets.talk import get, submit
from tests.sockets.test_metadata_only import CANARY, seen_in

pytestmark = pytest.mark.slow
FAULTS = "tokens_per_s = 0, faults = { die_after_tokens = 10 }"
WAIT_S = 10.0


def record_of(suite: Suite, task_id: str) -> dict[str, Any]:
    """Return what `orchctl artifacts` shows of a task, once it is written."""
    until = time.monotonic() + WAIT_S
    while True:
        ran = suite.orchctl("artifacts", "list", "--job", task_id, "--json")
        assert ran.returncode == 0, ran.stderr
        found = json.loads(ran.stdout)["artifacts"]
        if found:
            break
        assert time.monotonic() < until, "no record was left"
    (one,) = found
    shown = suite.orchctl("artifacts", "show", one["id"])
    record = json.loads(shown.stdout)
    assert isinstance(record, dict)
    return record


@pytest.mark.req("ORCH-3350", "ORCH-3351", "ORCH-3352", "ORCH-3037")
async def test_jobs_of_real_daemons_leave_records_the_failed_one_too(
    suite_of: Callable[..., Suite],
) -> None:
    kept = '[artifacts]\njobs = "transcript"\n'
    suite = suite_of(kept + SIMULATED + mock_pool(engine=FAULTS))
    client = suite.client()
    ended = (await submit(client, prompt=CANARY, max_tokens=3))["task_id"]
    broken = (await submit(client, prompt=CANARY, max_tokens=50))["task_id"]
    record = record_of(suite, ended)
    assert (record["state"], record["tokens_out"], record["engine"]) == ("ended", 3, "mock")
    assert record["engine_version"]
    stream = await client.request("GET", f"/v1/tasks/{ended}/stream", deadline_s=10)
    assert record["transcript"].encode() == stream.body
    record = record_of(suite, broken)
    assert (record["state"], record["error"]["code"]) == ("failed", "WORKER_RESET")
    assert record["transcript"].count("event: token") == 10
    assert record["transcript"].rstrip().splitlines()[-2] == "event: error"
    assert len((await get(client, "/v1/artifacts?tag=state:failed"))["artifacts"]) == 1
    assert seen_in(suite.folder, CANARY.encode()) == []
    client.close()


@pytest.mark.req("ORCH-3350")
async def test_real_daemons_leave_nothing_by_default(suite_of: Callable[..., Suite]) -> None:
    suite = suite_of(SIMULATED + mock_pool())
    client = suite.client()
    task_id = (await submit(client, max_tokens=2))["task_id"]
    answer = await client.request("GET", f"/v1/tasks/{task_id}/stream", deadline_s=10)
    assert b"event: end" in answer.body
    # the replica's report of its self-test may be there: it is about no job
    found = (await get(client, "/v1/artifacts"))["artifacts"]
    assert [tag for one in found for tag in one["tags"] if tag.startswith("job:")] == []
    client.close()
