"""poolmgr with the real llama-server: loads, proves, tests, relays, cancels, drains.

The GPU is the stub's: the engine computes on the CPU, and a test puts it on NVML's list.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from orchd.kit.client import Client, Target
from orchd.wire import link
from orchd.wire.errors import TABLE, Kind
from tests.lab.cache import Cache
from tests.lab.llama import LlamaBuild, llama_server_command, needs_of, tiny_model
from tests.lab.needs import require
from tests.lab.nvml import FakeNvml
from tests.lab.tiny_gguf import SLOW, TinyModel
from tests.poolmgr.peer import last_of, linked
from tests.poolmgr.runs import Run, poolmgr

pytestmark = [pytest.mark.engine, pytest.mark.slow]

HEAD = """
run_dir = "{0}"
state_dir = "{0}/state"
"""


@asynccontextmanager
async def llama(
    folder: Path, model: TinyModel = SLOW, ctx: int = 8192, slots: int = 2
) -> AsyncIterator[Run]:
    """Run it on GPU 0 of the stub; it shows up there once it is started."""
    require(needs_of(LlamaBuild.DEBIAN))
    argv, env = llama_server_command(LlamaBuild.DEBIAN)
    fake = FakeNvml.create(Cache.default(), folder / "nvml")
    # half a second before it loads: time to put it on the list
    command = ["/bin/sh", "-c", 'sleep 0.5; exec "$@"', "sh", *argv]
    pools = f"""
[[pools]]
id = "llama"
engine = {{ id = "llamacpp" }}
model = {{ ref = "{tiny_model(model)}" }}
devices = [0]
ctx = {ctx}
slots = {slots}
provisioning = {{ mode = "binary", command = {json.dumps(command)} }}
"""
    env = {**env, **fake.env}
    async with poolmgr(folder, "llama:0", pools, head=HEAD, env=env) as run:
        while "engine_pid" not in (state := await run.until(503)):
            await trio.sleep(0.01)
        fake.add_process(0, state["engine_pid"], 600)
        yield run


@pytest.mark.req("ORCH-3421", "ORCH-3972", "OC-POOL-3012")
async def test_llama_server_gets_ready_and_its_text_comes_through(tmp_path: Path) -> None:
    async with llama(tmp_path) as run:
        ready = await run.until(200)
        assert ready["gpu_proof"] == "verified"
        assert ready["engine_version"] != "unknown"
        assert ready["ram_used_bytes"] >= 0
        async with linked(run.socket) as peer:
            jobs = [await peer.finished(peer.open(max_tokens=40, seed=7)) for _ in range(2)]
            for got in jobs:
                end = last_of(got, link.End)
                assert end.tokens_out == 40
                assert end.finish_reason == "length"
                assert "".join(got.tokens)
            await peer.until(lambda: peer.states[-1].tokens_per_s)
            too_long = last_of(await peer.finished(peer.open(prompt="word " * 9000)), link.Fail)
            assert too_long.kind is Kind.INVALID_PARAMS
        run.stop()
        assert await run.exit_code() == 0


@pytest.mark.req("ORCH-3026")
async def test_a_cancel_frees_llamas_slot_within_100_ms(tmp_path: Path) -> None:
    async with llama(tmp_path, slots=1) as run:
        await run.until(200)
        engine = Client(Target.unix(tmp_path / "poolmgr" / "llama:0.engine.sock"))

        async def busy() -> bool:
            answer = await engine.request("GET", "/slots")
            return any(slot["is_processing"] for slot in json.loads(answer.body))

        took = []
        async with linked(run.socket) as peer:
            for _ in range(10):
                number = peer.open(max_tokens=8000)
                await peer.until(lambda: len(peer.jobs[number].tokens) > 20)  # noqa: B023
                assert await busy()
                began = time.perf_counter()
                peer.send(link.Type.CANCEL, number)
                last_of(await peer.finished(number, 1.0), link.Freed)
                while await busy():
                    await trio.sleep(0.001)
                took.append(time.perf_counter() - began)
            assert all(got.after_last == 0 for got in peer.jobs.values())
        engine.close()
        assert sorted(took)[len(took) // 2] < 0.1, took
        assert max(took) < 1.0, took


@pytest.mark.req("OC-POOL-3002")
async def test_an_engine_with_too_little_context_is_refused(tmp_path: Path) -> None:
    async with llama(tmp_path, ctx=1_000_000, slots=1) as run:
        code = await run.exit_code(30.0)
        kinds = (Kind.CONFIG_INVALID, Kind.ENGINE_START_FAILED)
        assert code in {TABLE[kind].exit_code for kind in kinds}
        assert not [said for said in run.said if "READY=1" in said]
