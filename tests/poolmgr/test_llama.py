"""poolmgr with the real llama-server: loads, proves, tests, relays, cancels, drains.

The GPU is the stub's: the engine computes on the CPU, and a test puts it on NVML's list.
"""

from __future__ import annotations

import json
import re
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
from tests.lab.nvml import FakeNvml, once_shown
from tests.lab.tiny_gguf import SLOW, TinyModel
from tests.poolmgr.peer import last_of, linked
from tests.poolmgr.runs import Run, poolmgr

pytestmark = [pytest.mark.engine, pytest.mark.slow]

HEAD = """
run_dir = "{0}"
state_dir = "{0}/state"
"""


POOL = """
[[pools]]
id = "llama"
engine = {{ id = "llamacpp", args = {args} }}
model = {{ ref = "{model}" }}
devices = [0]
ctx = 2048
provisioning = {{ mode = "binary", command = {command} }}
"""
PRINTED = re.compile(r"llama_kv_cache: size = +([\d.]+) MiB \( *(\d+) cells.* \d+/(\d+) seqs\)")
WEIGHTS = re.compile(r"CPU_Mapped model buffer size = +([\d.]+) MiB")


@pytest.fixture(autouse=True)
def _engine() -> None:
    require(needs_of(LlamaBuild.DEBIAN))  # here: a skip inside a test of trio loses its reason


@asynccontextmanager
async def llama(
    folder: Path,
    model: TinyModel = SLOW,
    ctx: int = 8192,
    slots: int = 2,
    *,
    args: tuple[str, ...] = (),
    held_mib: int = 600,
) -> AsyncIterator[Run]:
    """Run it on GPU 0 of the stub; it shows up there once it is started."""
    argv, env = llama_server_command(LlamaBuild.DEBIAN)
    fake = FakeNvml.create(Cache.default(), folder / "nvml")
    pools = f"""
[[pools]]
id = "llama"
engine = {{ id = "llamacpp", args = {json.dumps(args)} }}
model = {{ ref = "{tiny_model(model)}" }}
devices = [0]
ctx = {ctx}
slots = {slots}
provisioning = {{ mode = "binary", command = {json.dumps(once_shown(argv))} }}
"""
    env = {**env, **fake.env}
    async with poolmgr(folder, "llama:0", pools, head=HEAD, env=env) as run:
        while "engine_pid" not in (state := await run.until(503)):
            await trio.sleep(0.01)
        fake.follow_process(0, state["engine_pid"], held_mib)
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


@pytest.mark.req("OC-CORE-1014", "ORCH-3003")
@pytest.mark.parametrize(
    ("ctx", "slots", "args"),
    [
        (8192, 2, ()),
        (1000, 3, ("-ctk", "q8_0", "-fa", "on")),
        (700, 2, ("-kvu", "-ctk", "q8_0", "--cache-type-v", "q4_0", "-fa", "on")),
    ],
)
async def test_the_cache_takes_what_the_formula_says(
    tmp_path: Path, ctx: int, slots: int, args: tuple[str, ...]
) -> None:
    async with llama(tmp_path, ctx=ctx, slots=slots, args=("-lv", "4", *args)) as run:
        await run.until(200)
        state = (await run.get("/state"))[1]
        lines = [entry["human"] for entry in run.log if entry["event"] == "engine_output"]
        (fits,) = [entry["human"] for entry in run.log if entry["event"] == "model_fits"]
    said = [found for line in lines if (found := PRINTED.search(line))]
    assert said, lines
    mib, cells, streams = float(said[-1][1]), int(said[-1][2]), int(said[-1][3])
    assert state["kv_reserved"] is True
    assert abs(state["kv_bytes_per_token"] * cells * streams / 2**20 - mib) < 0.01
    assert "not counted" not in fits
    weights = next(found for line in lines if (found := WEIGHTS.search(line)))
    # beside the 512 MiB that are assumed: the cache, and all weights but the embedding
    wanted = 512 + mib + float(weights[1]) - 320 * 256 * 4 / 2**20
    assert f"needs {wanted:.0f} MiB" in fits


@pytest.mark.req("OC-POOL-3012", "ORCH-1102")
async def test_a_context_without_the_weights_is_the_cpu(tmp_path: Path) -> None:
    async with llama(tmp_path, held_mib=2) as run:  # the weights take 5 MiB
        assert await run.exit_code() == TABLE[Kind.CPU_FALLBACK].exit_code
        (failed,) = [entry for entry in run.log if entry["event"] == "failed"]
        assert "holds 2 MiB of GPU 0, and its weights there take at least 4 MiB" in failed["human"]
        assert "no usable GPU found" in failed["human"]  # the engine's own word
        assert not [said for said in run.said if "READY=1" in said]


@pytest.mark.req("ORCH-1102")
async def test_an_engine_that_is_told_to_use_no_gpu_is_not_started(tmp_path: Path) -> None:
    pools = POOL.format(model=tiny_model(SLOW), args='["-ngl", "0"]', command='["true"]')
    fake = FakeNvml.create(Cache.default(), tmp_path / "nvml")
    async with poolmgr(tmp_path, "llama:0", pools, head=HEAD, env=fake.env) as run:
        assert await run.exit_code() == TABLE[Kind.CONFIG_INVALID].exit_code
        assert "keep all layers off the GPU" in str(run.log[-1])


OUT_OF_VRAM = (
    "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 590.07 MiB on device 0: "
    "cudaMalloc failed: out of memory"
)


@pytest.mark.req("ORCH-3039", "OC-POOL-3002")
async def test_running_out_of_vram_is_learnt_over_restarts(tmp_path: Path) -> None:
    fake = FakeNvml.create(Cache.default(), tmp_path / "nvml")
    fake.set_gpu(0, used_mib=20 << 10)  # 4 GiB are free
    command = json.dumps(["/bin/sh", "-c", f"echo '{OUT_OF_VRAM}' >&2; exit 1", "sh"])
    pools = POOL.format(model=tiny_model(SLOW), args="[]", command=command)

    async def failed() -> str:
        async with poolmgr(tmp_path, "llama:0", pools, head=HEAD, env=fake.env) as run:
            assert await run.exit_code() == TABLE[Kind.VRAM_SHORT].exit_code
            (entry,) = [entry for entry in run.log if entry["event"] == "failed"]
        (tmp_path / "notify").unlink()
        return str(entry["human"])

    assert "ran out of VRAM while it loaded" in await failed()
    assert (tmp_path / "state/pools/llama:0.capacity").stat().st_size < 1000
    refused = await failed()
    assert "needs 4.2 GiB (it ran out of memory with less), GPU 0 has 4.0 GiB free" in refused
    fake.set_gpu(0, used_mib=19 << 10)
    assert "ran out of VRAM while it loaded" in await failed()  # tried, for there is more
    assert "needs 5.2 GiB (it ran out of memory with less)" in await failed()


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
