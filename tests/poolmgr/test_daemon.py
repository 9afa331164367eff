"""poolmgr from outside: the program, its socket, its exit codes, the engine it starts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

from orchd.kit import http
from orchd.kit.fds import bind_unix
from orchd.kit.http import Request, Response
from orchd.wire import link
from orchd.wire.errors import TABLE, Kind
from orchd.wire.metrics import BY_NAME
from tests.poolmgr.edge.test_child import gone
from tests.poolmgr.peer import last_of, linked
from tests.poolmgr.runs import Run, poolmgr

pytestmark = [pytest.mark.engine, pytest.mark.slow]

POOL = """
[[pools]]
id = "demo"
engine = {{ id = "mock", tokens_per_s = {pace}, faults = {{ {faults} }}, vram_mb = {vram} }}
model = {{ ref = "mock:lorem" }}
replicas = [[0], [1]]
ctx = 8192
slots = 2
"""


def mock(pace: float = 0, faults: str = "", vram: int = 1024) -> str:
    return POOL.format(pace=pace, faults=faults, vram=vram)


@pytest.mark.req("ORCH-3002", "OC-POOL-3001", "OC-POOL-3003", "ORCH-3970", "ORCH-3420")
async def test_ready_is_said_only_after_the_preload_and_everywhere(tmp_path: Path) -> None:
    async with poolmgr(tmp_path, "demo:0", mock(faults="load_ms = 500")) as run:
        loading = await run.until(503)
        assert loading["ready"] is False
        while loading["phase"] != "loading":
            loading = await run.until(503)
        assert loading["status"].startswith("Loading mock:lorem into GPU 0 (Simulated 24 GB): ")
        assert not [said for said in run.hear() if "READY=1" in said]
        ready = await run.until(200)
        assert ready["phase"] == "ready"
        assert ready["gpu_proof"] == "simulated"
        assert ready["device_mask"] == [0]
        assert (ready["slots_total"], ready["slots_active"]) == (2, 0)
        assert ready["vram_total_bytes"] == 24576 << 20
        assert ready["vram_free_bytes"] == (24576 - 1024) << 20
        assert ready["engine_version"] != "unknown"
        status = "Ready: 0 of 2 slots busy; mock:lorem on GPU 0 (Simulated 24 GB), simulated"
        assert ready["status"] == status
        said = run.hear()
        assert f"READY=1\nSTATUS={status}" in said
        assert any(text.startswith("STATUS=Loading mock:lorem") for text in said)
        assert (await run.get("/state"))[0] == 200
        assert (await run.get("/none"))[1]["code"] == "INVALID_PARAMS"
        assert (await run.get("/link"))[0] == 400


@pytest.mark.req("OC-POOL-3030")
async def test_its_scrape_page_speaks_the_names_of_the_contract(tmp_path: Path) -> None:
    async with poolmgr(tmp_path, "demo:0", mock()) as run:
        await run.until(200)
        _, page = await run.get("/metrics")
    assert 'pool_ready{engine="mock",engine_version="' in page
    assert 'result="ready",reason=""} 1' in page
    assert f"}} {1024 << 20}" in page
    families = {line.split()[2] for line in page.splitlines() if line.startswith("# TYPE")}
    assert families <= set(BY_NAME)


@pytest.mark.req("OC-POOL-3001")
async def test_a_job_runs_through_it_and_a_stop_lets_it_finish(tmp_path: Path) -> None:
    async with poolmgr(tmp_path, "demo:0", mock(pace=100)) as run:
        engine = (await run.until(200))["engine_pid"]
        async with linked(run.socket) as peer:
            number = peer.open(max_tokens=50)
            await peer.until(lambda: len(peer.jobs[number].tokens) > 3)
            await peer.until(lambda: peer.states[-1].slots_active == 1)
            run.stop()
            await peer.until(lambda: peer.states[-1].draining)
            refused = last_of(await peer.finished(peer.open()), link.Fail)
            assert refused.kind is Kind.DRAINING
            got = await peer.finished(number)
            assert last_of(got, link.End).tokens_out == 50
            assert len(got.tokens) == 50
        assert await run.exit_code() == 0
        assert gone(engine)
        assert any(said.startswith("STOPPING=1") for said in run.said)
        assert not (tmp_path / "poolmgr" / "demo:0.engine.sock").exists()


@pytest.mark.req("ORCH-3390")
async def test_tokens_are_told_once_it_is_ready_and_take_no_slot(tmp_path: Path) -> None:
    async with poolmgr(tmp_path, "demo:0", mock(pace=50, faults="load_ms = 500")) as run:
        await run.until(503)
        status, said = await run.post("/tokenize", {"text": "a bc"})
        assert (status, said["code"]) == (503, "POOL_UNREADY")
        await run.until(200)
        async with linked(run.socket) as peer:
            for _ in range(2):
                peer.open(max_tokens=1000)
            await peer.until(lambda: peer.states[-1].slots_active == 2)
            assert await run.post("/tokenize", {"text": "a bc"}) == (
                200, {"count": 2, "tokens": [1, 2]},
            )  # fmt: skip
            assert await run.post("/tokenize", {"text": "a bc", "tokens": False}) == (
                200, {"count": 2},
            )  # fmt: skip
        assert (await run.post("/tokenize", {"text": 1}))[0] == 400
        assert (await run.get("/tokenize"))[0] == 405
        assert (await run.post("/state", {}))[0] == 405


IMPATIENT = """
import sys
from poolmgr.core import life
life.DRAIN_S = 0.2
from poolmgr.daemon import main
sys.exit(main())
"""


async def test_a_job_that_outlasts_the_drain_is_told_so(tmp_path: Path) -> None:
    pools = mock(pace=50)
    async with poolmgr(tmp_path, "demo:0", pools, program=["-c", IMPATIENT]) as run:
        await run.until(200)
        async with linked(run.socket) as peer:
            number = peer.open(max_tokens=4000)
            await peer.until(lambda: peer.jobs[number].tokens)
            run.stop()
            fail = last_of(await peer.finished(number, 5.0), link.Fail)
            assert fail.kind is Kind.DRAINING
            assert fail.tokens_out == len(peer.jobs[number].tokens)
        assert await run.exit_code() == 0


@pytest.mark.req("ORCH-3026")
async def test_a_cancel_frees_the_engines_slot(tmp_path: Path) -> None:
    async with poolmgr(tmp_path, "demo:0", mock(pace=200)) as run:
        await run.until(200)
        async with linked(run.socket) as peer:
            for _ in range(6):
                pair = [peer.open(max_tokens=4000), peer.open(max_tokens=4000)]
                for number in pair:
                    await peer.until(lambda: peer.jobs[number].tokens)  # noqa: B023
                    peer.send(link.Type.CANCEL, number)
                for number in pair:
                    freed = last_of(await peer.finished(number, 1.0), link.Freed)
                    assert freed.tokens_out == len(peer.jobs[number].tokens)
            await trio.sleep(0.05)
            assert all(got.after_last == 0 for got in peer.jobs.values())


FAILURES = [
    ("refuse_load = true", 1024, Kind.ENGINE_START_FAILED, "refused to load"),
    ("", 30_000, Kind.VRAM_SHORT, "needs 29.3 GiB, GPU 0 has 24.0 GiB free"),
    ("die_after_load_ms = 1", 1024, None, "the engine"),
]


@pytest.mark.req("ORCH-3003", "OC-POOL-3002", "OC-POOL-3003")
@pytest.mark.parametrize(("faults", "vram", "kind", "words"), FAILURES)
async def test_a_failure_is_told_and_ends_with_the_exit_code_of_its_kind(
    tmp_path: Path, faults: str, vram: int, kind: Kind | None, words: str
) -> None:
    async with poolmgr(tmp_path, "demo:0", mock(faults=faults, vram=vram)) as run:
        code = await run.exit_code()
        (failed,) = [entry for entry in run.log if entry["event"] == "failed"]
        assert words in failed["human"]
        if kind is not None:
            assert failed["kind"] == kind
            assert code == TABLE[kind].exit_code
            assert TABLE[kind].advice in failed["human"]
            assert not [said for said in run.said if "READY=1" in said]
        assert code != 0
        told = [said.partition("STATUS=")[2] for said in run.said]
        (line,) = {line for line in told if line.startswith("Failed")}  # never in other words
        assert told[-1] == line == "Failed: " + failed["human"].removeprefix("poolmgr: ")
        assert words in line


@pytest.mark.req("ORCH-3001")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_the_engines_end_resets_its_jobs_and_ends_the_pool(
    tmp_path: Path, number: signal.Signals
) -> None:
    async with poolmgr(tmp_path, "demo:0", mock(pace=50)) as run:
        engine = (await run.until(200))["engine_pid"]
        async with linked(run.socket) as peer:
            job = peer.open(max_tokens=500)
            await peer.until(lambda: peer.jobs[job].tokens)
            os.kill(engine, number)
            got = await peer.finished(job)
            assert last_of(got, link.Fail).kind is Kind.WORKER_RESET
            await peer.until(lambda: peer.states[-1].phase == "failed")
            cause = peer.states[-1].last_error
            assert cause is not None
            # the mock leaves in good order on SIGTERM: nobody here has asked it to
            kind = Kind.ENGINE_EXITED if number == signal.SIGTERM else Kind.ENGINE_DIED
            assert cause.kind is kind
        assert await run.exit_code() == TABLE[kind].exit_code


@pytest.mark.req("ORCH-3001")
async def test_kill_9_takes_the_engine_along(tmp_path: Path) -> None:
    async with poolmgr(tmp_path, "demo:0", mock()) as run:
        engine = (await run.until(200))["engine_pid"]
        run.process.kill()
        assert gone(engine)


FORKING = """
provisioning = {{ command = [
  "sh", "-c", 'sleep 99 & echo forked $!; exec {} -m poolmgr.mockengine "$@"', "sh",
] }}
"""
"""For a mock engine that forks, and says what."""

CRASHING = """
import sys
from poolmgr.edge.preload import Preload
async def broken(*_): raise KeyError("a bug in the preload")
Preload.self_test = broken
from poolmgr.daemon import main
sys.exit(main())
"""


def forking() -> str:
    return mock(pace=100) + FORKING.format(sys.executable)


async def forked(run: Run) -> int:
    """Return the pid that the forking engine said."""
    with trio.fail_after(10):
        while True:
            for entry in run.log:
                if entry["event"] == "engine_output" and entry["human"].startswith("forked "):
                    return int(entry["human"].split()[1])
            await trio.sleep(0.01)


def socket_of(run: Run) -> Path:
    return run.folder / "poolmgr" / f"{run.name}.engine.sock"


@pytest.mark.req("ORCH-3001")
async def test_kill_9_takes_along_what_the_engine_forked(tmp_path: Path) -> None:
    async with poolmgr(tmp_path, "demo:0", forking()) as run:
        engine, fork = (await run.until(200))["engine_pid"], await forked(run)
        run.process.kill()
        assert gone(engine)
        assert gone(fork)


@pytest.mark.req("ORCH-3001")
async def test_a_second_sigterm_leaves_nothing_behind(tmp_path: Path) -> None:
    async with poolmgr(tmp_path, "demo:0", forking()) as run:
        engine, fork = (await run.until(200))["engine_pid"], await forked(run)
        async with linked(run.socket) as peer:
            job = peer.open(max_tokens=4000)
            await peer.until(lambda: peer.jobs[job].tokens)
            run.stop()
            await peer.until(lambda: peer.states[-1].draining)
            run.stop()
            assert await run.exit_code(2.0) == 128 + signal.SIGTERM
        assert gone(engine, 1.0)
        assert gone(fork, 1.0)
        assert not socket_of(run).exists()


@pytest.mark.req("ORCH-3001")
async def test_a_bug_in_the_preload_leaves_nothing_behind(tmp_path: Path) -> None:
    async with poolmgr(tmp_path, "demo:0", forking(), program=["-c", CRASHING]) as run:
        assert await run.exit_code() == TABLE[Kind.INTERNAL].exit_code
        fork = await forked(run)
        assert gone(fork, 1.0)
        assert not socket_of(run).exists()
        (failed,) = [entry for entry in run.log if entry["event"] == "failed"]
        assert "a bug in the preload" in failed["traceback"]


async def test_a_stop_while_loading_leaves_at_once(tmp_path: Path) -> None:
    async with poolmgr(tmp_path, "demo:0", mock(faults="load_ms = 60000")) as run:
        while (state := await run.until(503))["phase"] != "loading" or "engine_pid" not in state:
            await trio.sleep(0.01)
        run.stop()
        assert await run.exit_code(3.0) == 0
        assert gone(state["engine_pid"])


@pytest.mark.parametrize("name", ["nope:0", "demo:7", "demo"])
async def test_a_replica_that_is_not_configured_is_told_those_that_are(
    tmp_path: Path, name: str
) -> None:
    async with poolmgr(tmp_path, name, mock()) as run:
        assert await run.exit_code() == TABLE[Kind.CONFIG_INVALID].exit_code
        assert "demo" in run.log[-1]["human"]


@pytest.mark.req("ORCH-3002")
async def test_systemds_socket_is_served(tmp_path: Path) -> None:
    listener = bind_unix(tmp_path / "poolmgr" / "demo:0.sock")
    async with poolmgr(tmp_path, "demo:0", mock(), listener=listener) as run:
        listener.close()
        assert (await run.until(200))["ready"]
        run.stop()
        assert await run.exit_code() == 0


@pytest.mark.req("AUTH-1003")
async def test_it_registers_with_orchd_once_ready(tmp_path: Path) -> None:
    bodies: list[tuple[Any, str]] = []

    async def front(request: Request) -> Response:
        assert request.path == "/v1/workers/register"
        bodies.append((json.loads(request.body), request.headers["authorization"]))
        return Response(200, b"{}")

    listener = bind_unix(tmp_path / "orchd" / "orchd.sock")
    token = {"ORCHD_AUTH_TOKEN": "a-token-of-thirty-two-characters"}
    async with trio.open_nursery() as nursery:
        await nursery.start(http.serve, [listener], front)
        async with poolmgr(tmp_path, "demo:1", mock(), env=token) as run:
            await run.until(200)
            with trio.fail_after(5):
                while not bodies:
                    await trio.sleep(0.01)
            assert token["ORCHD_AUTH_TOKEN"] not in (tmp_path / "log").read_text()
        nursery.cancel_scope.cancel()
    listener.close()
    body, authorization = bodies[0]
    assert body["replica_id"] == "demo:1"
    assert body["slots_total"] == 2
    assert authorization == "Bearer a-token-of-thirty-two-characters"


EXTERNAL = """
[[pools]]
id = "ext"
engine = {{ id = "mock" }}
model = {{ ref = "lorem" }}
devices = [0]
ctx = 8192
provisioning = {{ mode = "external", url = "unix:{0}/x.sock" }}
"""


def external_engine(folder: Path) -> subprocess.Popen[bytes]:
    path = folder / "x.sock"
    path.unlink(missing_ok=True)
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "poolmgr.mockengine"),
            *("--socket", str(path), "--ctx", "8192", "--slots", "1", "--tokens-per-s", "50"),
        ]
    )


@pytest.mark.req("ORCH-3421", "OC-POOL-3003")
async def test_an_external_engine_may_come_late_go_and_come_back(tmp_path: Path) -> None:
    async with poolmgr(tmp_path, "ext:0", EXTERNAL.format(tmp_path)) as run:
        waiting = await run.until(503)
        while "last_error" not in waiting:
            waiting = await run.until(503)
        assert "does not answer at unix:" in waiting["last_error"]["message"]
        engine = external_engine(tmp_path)
        try:
            await run.until(200)
            async with linked(run.socket) as peer:
                job = peer.open(max_tokens=500)
                await peer.until(lambda: peer.jobs[job].tokens)
                engine.kill()
                engine.wait()
                got = await peer.finished(job)
                assert last_of(got, link.Fail).kind is Kind.WORKER_RESET
                await peer.until(lambda: not peer.states[-1].ready)
                assert peer.states[-1].phase == "loading"
                refused = last_of(await peer.finished(peer.open()), link.Fail)
                assert refused.kind is Kind.POOL_UNREADY
                engine = external_engine(tmp_path)
                await peer.until(lambda: peer.states[-1].ready)
                again = await peer.finished(peer.open(max_tokens=3))
                assert last_of(again, link.End).tokens_out == 3
            run.stop()
            assert await run.exit_code() == 0
            assert engine.poll() is None  # not ours to end
        finally:
            engine.kill()
            engine.wait()
