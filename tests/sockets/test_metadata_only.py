"""Nothing of a prompt or an output is left behind: a canary is sent, and looked for everywhere.

The state folder and all files beside it, what the daemons log and print, the metrics page, what is
told of tasks and sessions, and what daemons leave that are killed by SIGSEGV and SIGABRT.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

from orchd.kit.client import Client, PeerError
from tests.fakes.tasks import task_body
from tests.sockets.suite import SIMULATED, Suite, mock_pool
from tests.sockets.talk import events_of, post, stream, submit, text_of, until

pytestmark = pytest.mark.slow
SuiteOf = Callable[..., Suite]
CANARY = "a canary that nobody may keep"


@pytest.fixture
def dumps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that core dumps of what starts now would fall into, were they not off."""
    before = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (before[1], before[1]))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    resource.setrlimit(resource.RLIMIT_CORE, before)


def core_limits(pid: int) -> list[str]:
    """Soft and hard limit of a process's core dumps."""
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    return next(line for line in lines if line.startswith("Max core file size")).split()[4:6]


def seen_in(folder: Path, words: bytes) -> list[Path]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path for path in files if words in path.read_bytes()]


def test_a_process_that_is_not_ours_would_leave_its_memory_behind(dumps: Path) -> None:
    """What the next test looks for is there when nobody turns it off."""
    if resource.getrlimit(resource.RLIMIT_CORE)[0] == 0:
        pytest.skip("core dumps are off on this machine for whoever wants them")
    if Path("/proc/sys/kernel/core_pattern").read_text().startswith("|"):
        pytest.skip("the kernel gives core dumps to a program here")
    script = f"import os; word = {CANARY!r}.upper(); os.abort()"
    done = subprocess.run([sys.executable, "-c", script], cwd=dumps, check=False)
    assert done.returncode == -signal.SIGABRT
    assert seen_in(dumps, CANARY.upper().encode())


@pytest.mark.req("ORCH-3021")
async def test_a_canary_is_found_nowhere_not_even_when_daemons_are_killed(
    suite_of: SuiteOf, dumps: Path
) -> None:
    suite = suite_of(
        SIMULATED + mock_pool(engine="tokens_per_s = 100", slots=2),
        env={"PYTHONFAULTHANDLER": "1"},
    )
    client = suite.client()
    ended = await submit(client, prompt=CANARY, max_tokens=40, determinism="best_effort")
    output = text_of(await events_of(client, ended["task_id"])).strip()
    assert len(output) > 100
    canaries = [CANARY.encode(), output[20:80].encode()]
    # refused, each for another reason, with the canary where it is checked
    for change in ({"prompt": [CANARY]}, {"ctx": 8, "max_tokens": 4}, {"model_ref": "mock:no"}):
        answer = await post(client, "/v1/tasks", task_body(**{"prompt": CANARY} | change))
        assert answer.status in (400, 503)
    told = b"".join([
        (await client.request("GET", path)).body
        for path in (
            *("/metrics", "/v1/tasks", f"/v1/tasks/{ended['task_id']}", "/v1/pools"),
            *("/v1/capabilities", "/v1/pools/demo/health"),
        )
    ])  # fmt: skip
    assert b"tokens_out_total" in told
    mark = len(suite.events)
    await killed(suite, client, suite.pid_of("poolmgr", "demo:0", "--config"), signal.SIGSEGV)
    suite.wait_event("replica_ready", after=mark, replica_id="demo:0")
    await killed(suite, client, suite.orchd_pid, signal.SIGABRT)
    client.close()
    suite.__exit__()  # all is written when all have ended
    logged = "\n".join(json.dumps(event) for event in suite.events).encode()
    assert b"task_ended" in logged
    assert b"Fatal Python error" in logged  # faulthandler spoke, and said no value
    for canary in canaries:
        assert canary not in told
        assert canary not in logged
        assert seen_in(suite.folder, canary) == []
    assert seen_in(dumps, b"") == []


async def killed(suite: Suite, client: Client, pid: int, sent: signal.Signals) -> None:
    """Kill a daemon while a prompt is in it and tokens leave it."""
    for each in suite.processes():
        assert core_limits(each) == ["1", "1"]
    task = await submit(client, prompt=CANARY, max_tokens=5000, ctx=8192, determinism="best_effort")
    async with stream(client, task["task_id"]) as incoming:
        await until(incoming, b"event: token")
        os.kill(pid, sent)
        with trio.fail_after(10), contextlib.suppress(PeerError):
            while await incoming.read_some():
                pass
