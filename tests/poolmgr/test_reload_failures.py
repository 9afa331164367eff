"""A reload that fails at each of its steps, while a client streams: the old model serves on."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from orchd.wire import link
from orchd.wire.errors import Kind
from orchd.wire.snapshot import Gate, Outcome, Phase
from tests.poolmgr.edge.test_child import gone
from tests.poolmgr.peer import last_of, linked
from tests.poolmgr.runs import poolmgr
from tests.poolmgr.test_control import BAD, BIG, NEW, ended, ready_all_along

pytestmark = [pytest.mark.engine, pytest.mark.slow]

POOL = """
[[pools]]
id = "demo"
model = {{ ref = "mock:lorem" }}
replicas = [[0]]
ctx = 8192
slots = 2
canary = {{ {canary} }}
[pools.engine]
id = "mock"
tokens_per_s = 100
vram_mb = {vram}
faults = {{ only_model = "mock:bad", {faults} }}
"""
IMPATIENT = """
import sys
from poolmgr.core import life
from poolmgr.edge import engine, health
life.EMPTY_S = 0.3
health.LOAD_S = engine.SELF_TEST_S = 1.5
engine.FREE_S = 0.5
from poolmgr.daemon import main
sys.exit(main())
"""
WRONG = "sha256:" + "0" * 64
STEPS = {
    "it exits while it loads": ("refuse_load = true", "", Kind.ENGINE_START_FAILED, "refused"),
    "it hangs while it loads": (
        "load_ms = 1000000", "", Kind.ENGINE_UNHEALTHY, "does not serve after 2 s",
    ),
    "it crashes in warm-up": ('self_test = "die"', "", Kind.ENGINE_START_FAILED, "SIGKILL"),
    "it hangs in the self-test": (
        'self_test = "hang"', "", Kind.SELF_TEST_FAILED, "did not end within 2 s",
    ),
    "it answers nonsense": ('self_test = "garbage"', "", Kind.SELF_TEST_FAILED, "self-test"),
    "it keeps its slot": (
        'self_test = "keep_slot"', "", Kind.SELF_TEST_FAILED, "still has its slot",
    ),
    "it dies under the canary": ("die_after_tokens = 3", "", Kind.ENGINE_DIED, "SIGKILL"),
    "it hangs under the canary": (
        "hang_after_tokens = 3", "", Kind.CANARY_FAILED, "did not end within 2 s",
    ),
    "it answers another text": (
        "slower = 1", f'expect_sha256 = "{WRONG}"', Kind.CANARY_FAILED, f"expect_sha256 is {WRONG}",
    ),
    "it lacks the word": (
        "slower = 1", 'expect = "Paris"', Kind.CANARY_FAILED, "canary.expect is not in its answer",
    ),
    "it is too slow": (
        "slower = 4", "min_rate_ratio = 0.5", Kind.CANARY_FAILED, "asks for 0.5 of the old model's",
    ),
    "it holds too much": (
        "vram_mb = 2000", "", Kind.CANARY_FAILED,
        "it holds 3.0 GiB of VRAM, and 1.0 GiB were counted with a margin of 1.0 GiB",
    ),
}  # fmt: skip


@pytest.mark.req("OC-CTRL-2003", "ORCH-3038", "ORCH-3049", "ORCH-3821")
@pytest.mark.parametrize("step", STEPS)
async def test_a_step_that_fails_beside_drops_no_stream(tmp_path: Path, step: str) -> None:
    faults, canary, kind, words = STEPS[step]
    pools = POOL.format(canary=canary, faults=faults, vram=1024)
    async with poolmgr(tmp_path, "demo:0", pools, program=["-c", IMPATIENT]) as run:
        old_pid = (await run.until(200))["engine_pid"]
        async with linked(run.socket) as peer:
            measured = last_of(await peer.finished(peer.open(max_tokens=20)), link.End)
            assert measured.tokens_out == 20
            running = peer.open(max_tokens=250, model_ref="mock:lorem")
            await peer.until(lambda: peer.jobs[running].tokens)
            since = len(peer.states) - 1
            assert (await run.post("/reload", BAD))[0] == 202
            now = await ended(peer, Outcome.FAILED)
            assert (now.last_error.kind, words in now.last_error.message) == (kind, True), (
                now.last_error
            )
            assert ready_all_along(peer, since)
            assert (now.model_ref, now.engine_pid, now.reload.gap) == ("mock:lorem", old_pid, False)
            assert (now.reload.canary is not None) == (kind is Kind.CANARY_FAILED) or (
                step == "it hangs under the canary"
            )
            assert now.gates.health is Gate.PASSED
            assert last_of(await peer.finished(running), link.End).tokens_out == 250
            started = [one["engine_pid"] for one in run.log if one["event"] == "engine_started"]
            assert started[0] == old_pid
            with trio.fail_after(5):
                while not all(map(gone, started[1:])):
                    await trio.sleep(0.01)


@pytest.mark.req("OC-CTRL-2003", "ORCH-3038")
@pytest.mark.parametrize(
    "step", ["it hangs while it loads", "it crashes in warm-up", "it lacks the word"]
)
async def test_a_step_that_fails_in_its_place_brings_the_old_one_back_after_a_gap(
    tmp_path: Path, step: str
) -> None:
    faults, canary, kind, words = STEPS[step]
    pools = POOL.format(canary=canary, faults=faults, vram=BIG)
    async with poolmgr(tmp_path, "demo:0", pools, program=["-c", IMPATIENT]) as run:
        await run.until(200)
        async with linked(run.socket) as peer:
            assert (await run.post("/reload", BAD))[0] == 202
            await peer.until(lambda: peer.states[-1].phase is Phase.REPLACING)
            told = peer.states[-1]
            assert told.reload is not None
            assert told.gates is not None
            assert (told.ready, told.reload.gap, told.gates.health) == (False, True, Gate.PENDING)
            assert told.status.endswith("; no room for both, nothing is served")
            await peer.until(lambda: any(s.phase is Phase.RESTORING for s in peer.states))
            now = await ended(peer, Outcome.FAILED)
            assert (now.ready, now.model_ref, now.reload.gap) == (True, "mock:lorem", True)
            assert (now.last_error.kind, words in now.last_error.message) == (kind, True)
            assert now.gates.health is Gate.PASSED
            assert last_of(await peer.finished(peer.open(max_tokens=3)), link.End).tokens_out == 3


@pytest.mark.req("OC-CTRL-2003")
async def test_a_model_that_passes_the_canary_shows_its_figures(tmp_path: Path) -> None:
    canary = 'prompt = "Say it", max_tokens = 24, min_rate_ratio = 0.5'
    pools = POOL.format(canary=canary, faults="slower = 4", vram=1024)
    async with poolmgr(tmp_path, "demo:0", pools) as run:
        await run.until(200)
        async with linked(run.socket) as peer:
            await peer.finished(peer.open(max_tokens=20))
            assert (await run.post("/reload", NEW))[0] == 202
            seen = (await ended(peer, Outcome.READY)).reload.canary
            assert (seen.vram_bytes, seen.vram_planned_bytes) == (1024 << 20, 1024 << 20)
            assert seen.old_tokens_per_s == pytest.approx(100, rel=0.3)
            assert 1 <= seen.tokens <= 24
            assert seen.sha256.startswith("sha256:")
            # the hash is that of the answer: told once, it can be asked for
            again = POOL.format(
                canary=f'{canary}, expect_sha256 = "{seen.sha256}"', faults="slower = 4", vram=1024
            )
        run.stop()
        assert await run.exit_code() == 0
    (tmp_path / "notify").unlink()
    (tmp_path / "poolmgr" / "demo:0.model").unlink()
    async with poolmgr(tmp_path, "demo:0", again) as run:
        await run.until(200)
        async with linked(run.socket) as peer:
            assert (await run.post("/reload", NEW))[0] == 202
            assert (await ended(peer, Outcome.READY)).reload.canary.sha256 == seen.sha256
        assert "Say it" not in (tmp_path / "log").read_text()
