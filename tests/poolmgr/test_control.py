"""Drain and reload of one poolmgr, from outside: its socket, its links, the engines it starts."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from orchd.wire import link
from orchd.wire.errors import Kind
from orchd.wire.snapshot import Outcome, Phase
from tests.poolmgr.edge.test_child import gone
from tests.poolmgr.peer import Peer, last_of, linked
from tests.poolmgr.runs import Run, poolmgr

pytestmark = [pytest.mark.engine, pytest.mark.slow]

POOL = """
[[pools]]
id = "demo"
model = {{ ref = "mock:lorem" }}
replicas = [[0]]
ctx = 8192
slots = 2
[pools.engine]
id = "mock"
tokens_per_s = {pace}
vram_mb = {vram}
faults = {{ refuse_model = "mock:bad" {faults} }}
"""
BIG = 20_000
"""MiB: two of these do not fit on the simulated 24 GB."""
NEW = {"new_model_ref": "mock:short"}
BAD = {"new_model_ref": "mock:bad"}
IMPATIENT = """
import sys
from poolmgr.core import life
life.DRAIN_S = life.EMPTY_S = 0.3
from poolmgr.daemon import main
sys.exit(main())
"""


def mock(pace: float = 0, vram: int = 1024, faults: str = "") -> str:
    return POOL.format(pace=pace, vram=vram, faults=faults)


@asynccontextmanager
async def serving(folder: Path, pools: str) -> AsyncIterator[tuple[Run, Peer]]:
    """A poolmgr that is Ready, and a link to it."""
    async with poolmgr(folder, "demo:0", pools) as run:
        await run.until(200)
        async with linked(run.socket) as peer:
            yield run, peer


async def ended(peer: Peer, outcome: Outcome, number: int = 1) -> Any:
    """Wait for the end of a reload; return the snapshot that told it."""

    def told() -> bool:
        reload = peer.states[-1].reload
        return reload is not None and (reload.number, reload.outcome) == (number, outcome)

    await peer.until(told)
    return peer.states[-1]


def ready_all_along(peer: Peer, since: int) -> bool:
    return all(state.ready for state in peer.states[since:])


@pytest.mark.req("OC-CTRL-2002", "ORCH-3038")
async def test_a_drain_lets_jobs_end_until_its_deadline_and_takes_no_more(tmp_path: Path) -> None:
    async with serving(tmp_path, mock(pace=50)) as (run, peer):
        short, long = peer.open(max_tokens=20), peer.open(max_tokens=4000)
        await peer.until(lambda: peer.jobs[long].tokens)
        assert await run.post("/drain", {"deadline_ms": 1500}) == (
            202, {"pool_id": "demo", "status": "draining"},
        )  # fmt: skip
        await peer.until(lambda: peer.states[-1].phase is Phase.EMPTYING)
        assert (peer.states[-1].ready, peer.states[-1].draining) == (False, True)
        refused = last_of(await peer.finished(peer.open()), link.Fail)
        assert refused.kind is Kind.DRAINING
        assert last_of(await peer.finished(short), link.End).tokens_out == 20
        late = last_of(await peer.finished(long), link.Fail)
        assert late.kind is Kind.DRAINING
        await peer.until(lambda: peer.states[-1].phase is Phase.DRAINED)
        status, body = await run.get("/health")
        assert (status, body["draining"]) == (503, True)
        assert body["status"] == "Drained on request: mock:lorem stays loaded and takes no jobs"
        assert "drain_events_total" in (await run.get("/metrics"))[1]
        # and back: a reload with the model that it has
        assert (await run.post("/reload", {"new_model_ref": "mock:lorem"}))[0] == 202
        assert (await ended(peer, Outcome.READY)).ready
        assert last_of(await peer.finished(peer.open(max_tokens=2)), link.End).tokens_out == 2


@pytest.mark.req("OC-CTRL-2003", "ORCH-3038")
async def test_a_model_that_fits_beside_takes_over_without_a_gap(tmp_path: Path) -> None:
    async with poolmgr(tmp_path, "demo:0", mock(pace=100, faults=", load_ms = 300")) as run:
        old_pid = (await run.until(200))["engine_pid"]
        async with linked(run.socket) as peer:
            running = peer.open(max_tokens=150, model_ref="mock:lorem")
            await peer.until(lambda: peer.jobs[running].tokens)
            since = len(peer.states) - 1
            assert (await run.post("/reload", NEW))[0] == 202
            status, body = await run.post("/reload", NEW)
            assert (status, body["code"], body["retriable"]) == (409, "INVALID_PARAMS", True)
            assert (await run.post("/drain", {"deadline_ms": 1}))[0] == 409
            # meanwhile the old model serves
            served = peer.open(max_tokens=2, model_ref="mock:lorem")
            assert last_of(await peer.finished(served), link.End).tokens_out == 2
            now = await ended(peer, Outcome.READY)
            assert (now.model_ref, now.configured_model_ref) == ("mock:short", "mock:lorem")
            assert now.engine_pid != old_pid
            assert ready_all_along(peer, since)
            crossed = last_of(await peer.finished(peer.open(model_ref="mock:lorem")), link.Fail)
            assert crossed.kind is Kind.POOL_UNREADY
            fresh = last_of(
                await peer.finished(peer.open(model_ref="mock:short", max_tokens=500)), link.End
            )
            assert fresh.finish_reason == "stop"  # mock:short ends by itself
            # the job that ran goes on where it began, and then that engine ends
            assert last_of(await peer.finished(running), link.End).tokens_out == 150
            with trio.fail_after(5):
                while not gone(old_pid):
                    await trio.sleep(0.01)
        run.stop()
        assert await run.exit_code() == 0
        assert gone(now.engine_pid)


@pytest.mark.req("OC-CTRL-2003", "ORCH-3038")
async def test_a_bad_model_beside_changes_nothing_but_the_last_error(tmp_path: Path) -> None:
    async with poolmgr(tmp_path, "demo:0", mock(pace=100)) as run:
        old_pid = (await run.until(200))["engine_pid"]
        async with linked(run.socket) as peer:
            running = peer.open(max_tokens=100)
            await peer.until(lambda: peer.jobs[running].tokens)
            since = len(peer.states) - 1
            assert (await run.post("/reload", BAD))[0] == 202
            now = await ended(peer, Outcome.FAILED)
            assert ready_all_along(peer, since)
            assert (now.model_ref, now.engine_pid) == ("mock:lorem", old_pid)
            assert now.last_error.kind is Kind.ENGINE_START_FAILED
            assert "refused to load the model" in now.last_error.message
            assert last_of(await peer.finished(running), link.End).tokens_out == 100
            page = (await run.get("/metrics"))[1]
            assert 'result="failed",reason="engine_start_failed"} 1' in page
            assert (await run.post("/reload", NEW))[0] == 202
            assert (await ended(peer, Outcome.READY, 2)).last_error is None


@pytest.mark.req("OC-CTRL-2003", "ORCH-3038", "HME-031")
async def test_a_model_that_does_not_fit_beside_takes_its_place(tmp_path: Path) -> None:
    program = ["-c", IMPATIENT]
    async with poolmgr(tmp_path, "demo:0", mock(pace=50, vram=BIG), program=program) as run:
        old_pid = (await run.until(200))["engine_pid"]
        async with linked(run.socket) as peer:
            running = peer.open(max_tokens=4000)
            await peer.until(lambda: peer.jobs[running].tokens)
            begun = trio.current_time()
            assert (await run.post("/reload", NEW))[0] == 202
            await peer.until(lambda: peer.states[-1].phase is Phase.REPLACING)
            assert not peer.states[-1].ready
            assert last_of(await peer.finished(running), link.Fail).kind is Kind.DRAINING
            now = await ended(peer, Outcome.READY)
            assert trio.current_time() - begun < 10
            assert (now.model_ref, now.ready, gone(old_pid)) == ("mock:short", True, True)
            assert now.vram_free_bytes == (24576 - BIG) << 20
            done = last_of(
                await peer.finished(peer.open(model_ref="mock:short", max_tokens=500)), link.End
            )
            assert done.finish_reason == "stop"


@pytest.mark.req("OC-CTRL-2003", "ORCH-3038")
async def test_a_bad_model_in_its_place_brings_the_old_one_back(tmp_path: Path) -> None:
    async with poolmgr(tmp_path, "demo:0", mock(vram=BIG)) as run:
        old_pid = (await run.until(200))["engine_pid"]
        async with linked(run.socket) as peer:
            assert (await run.post("/reload", BAD))[0] == 202
            await peer.until(lambda: any(s.phase is Phase.RESTORING for s in peer.states))
            now = await ended(peer, Outcome.FAILED)
            assert (now.ready, now.model_ref) == (True, "mock:lorem")
            assert now.engine_pid != old_pid
            assert now.last_error.kind is Kind.ENGINE_START_FAILED
            assert last_of(await peer.finished(peer.open(max_tokens=3)), link.End).tokens_out == 3
        assert run.process.poll() is None


@pytest.mark.req("OC-CTRL-2003")
async def test_a_reload_outlives_the_daemon_until_the_configuration_changes(tmp_path: Path) -> None:
    async with serving(tmp_path, mock()) as (run, peer):
        assert (await run.post("/reload", NEW))[0] == 202
        await ended(peer, Outcome.READY)
        os.kill(run.process.pid, signal.SIGKILL)
        await run.exit_code()
    (tmp_path / "notify").unlink()
    async with poolmgr(tmp_path, "demo:0", mock()) as run:
        again = await run.until(200)
        assert (again["model_ref"], again["configured_model_ref"]) == ("mock:short", "mock:lorem")
        assert any(event["event"] == "reload_remembered" for event in run.log)
    (tmp_path / "notify").unlink()
    edited = mock().replace("mock:lorem", "mock:other")
    async with poolmgr(tmp_path, "demo:0", edited) as run:
        body = await run.until(200)
        assert body["model_ref"] == "mock:other"
        assert "configured_model_ref" not in body
    assert not (tmp_path / "poolmgr" / "demo:0.model").exists()


async def test_a_stop_during_a_reload_leaves_no_engine_behind(tmp_path: Path) -> None:
    async with poolmgr(tmp_path, "demo:0", mock(faults=", load_ms = 800")) as run:
        old = (await run.until(200))["engine_pid"]
        assert (await run.post("/reload", NEW))[0] == 202
        with trio.fail_after(5):
            while len(started := [e for e in run.log if e["event"] == "engine_started"]) < 2:
                await trio.sleep(0.01)
        run.stop()
        assert await run.exit_code() == 0
        assert gone(old)
        assert gone(started[1]["engine_pid"])


async def test_a_wrong_request_is_told_what_is_wrong(tmp_path: Path) -> None:
    async with poolmgr(tmp_path, "demo:0", mock(faults=", load_ms = 500")) as run:
        await run.until(503)
        status, body = await run.post("/reload", NEW)
        assert (status, body["code"]) == (503, "POOL_UNREADY")
        await run.until(200)
        for path, wrong, field in (
            ("/drain", {}, "$.deadline_ms"),
            ("/drain", {"deadline_ms": 0}, "$.deadline_ms"),
            ("/drain", {"deadline_ms": 1 << 60}, "$.deadline_ms"),
            ("/reload", {}, "$.new_model_ref"),
            ("/reload", {"new_model_ref": ""}, "$.new_model_ref"),
            ("/reload", {**NEW, "more": 1}, "$.more"),
            ("/reload", {**NEW, "digest": "sha256:x"}, "$.digest"),
            ("/reload", {"new_model_ref": "a\0b"}, "$.new_model_ref"),
            ("/reload", {"new_model_ref": "--slots"}, "$.new_model_ref"),
        ):
            status, body = await run.post(path, wrong)
            assert (status, body["code"]) == (400, "INVALID_PARAMS")
            assert field in body["message"]
        assert (await run.get("/drain"))[0] == 405
