"""poolmgr on a machine with GPUs, as far as a stub of the driver's library can show one."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from orchd.wire.errors import TABLE, Kind
from orchd.wire.snapshot import HEARTBEAT_S
from tests.lab.cache import Cache
from tests.lab.nvml import FakeNvml, uuid_of
from tests.poolmgr.edge.test_devices import NO_PERMISSION
from tests.poolmgr.runs import Run, poolmgr

pytestmark = [pytest.mark.engine, pytest.mark.slow]

HEAD = """
run_dir = "{0}"
state_dir = "{0}/state"
"""
POOL = """
[[pools]]
id = "gpu"
engine = { id = "mock", vram_mb = 2048, faults = { load_ms = 700 } }
model = { ref = "mock:lorem" }
replicas = [[0], [1]]
ctx = 8192
"""


@pytest.fixture
def fake(tmp_path: Path) -> FakeNvml:
    return FakeNvml.create(Cache.default(), tmp_path / "nvml")


async def while_loading(run: Run, act: Callable[[int], None]) -> None:
    """Do something with the engine's pid before it serves."""
    while "engine_pid" not in (state := await run.until(503)):
        pass
    act(state["engine_pid"])


def environment_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/environ").read_text().split("\0")


async def fails(run: Run, kind: Kind) -> str:
    assert await run.exit_code() == TABLE[kind].exit_code
    (failed,) = [entry for entry in run.log if entry["event"] == "failed"]
    assert failed["kind"] == kind
    assert not [said for said in run.said if "READY=1" in said]
    return str(failed["human"])


@pytest.mark.req("OC-POOL-3012", "ORCH-3970", "OC-POOL-3020")
async def test_an_engine_on_its_gpu_is_verified_and_found_by_uuid(
    tmp_path: Path, fake: FakeNvml
) -> None:
    async with poolmgr(tmp_path, "gpu:1", POOL, head=HEAD, env=fake.env) as run:
        await while_loading(run, lambda pid: fake.follow_process(1, pid, 2048))
        ready = await run.until(200)
        assert ready["gpu_proof"] == "verified"
        assert ready["status"].endswith("mock:lorem on GPU 1 (NVIDIA Fake 3060), verified")
        (device,) = ready["devices"]
        assert device["uuid"] == uuid_of(1)
        assert device["vram_used_bytes"] >= 2048 << 20
        assert device["compute_capability"]
        assert f"CUDA_VISIBLE_DEVICES={uuid_of(1)}" in environment_of(ready["engine_pid"])


@pytest.mark.req("ORCH-1102", "OC-POOL-3012")
async def test_an_engine_on_the_cpu_never_gets_ready(tmp_path: Path, fake: FakeNvml) -> None:
    async with poolmgr(tmp_path, "gpu:0", POOL, head=HEAD, env=fake.env) as run:
        assert "it runs on the CPU" in await fails(run, Kind.CPU_FALLBACK)


@pytest.mark.req("ORCH-3052", "OC-POOL-3020")
async def test_an_engine_that_spills_over_is_refused(tmp_path: Path, fake: FakeNvml) -> None:
    def spill(pid: int) -> None:
        fake.follow_process(0, pid, 1024)
        fake.follow_process(1, pid, 1024)

    async with poolmgr(tmp_path, "gpu:0", POOL, head=HEAD, env=fake.env) as run:
        await while_loading(run, spill)
        assert "memory of GPU 1, and the mask is 0" in await fails(run, Kind.GPU_MISMATCH)


@pytest.mark.req("ORCH-3003", "OC-POOL-3002")
async def test_vram_that_others_hold_is_not_free(tmp_path: Path, fake: FakeNvml) -> None:
    fake.add_process(1, 1, 11 << 10)
    async with poolmgr(tmp_path, "gpu:1", POOL, head=HEAD, env=fake.env) as run:
        human = await fails(run, Kind.VRAM_SHORT)
        assert "mock:lorem needs 2.0 GiB, GPU 1 has 1.0 GiB free: 11.0 GiB used by" in human
        assert "(pid 1)" in human
        assert not [entry for entry in run.log if entry["event"] == "engine_started"]


@pytest.mark.req("ORCH-1102", "ORCH-3003")
async def test_no_driver_and_no_such_gpu_are_told_apart(tmp_path: Path, fake: FakeNvml) -> None:
    fake.set_gpu(1, error=NO_PERMISSION)
    async with poolmgr(tmp_path, "gpu:1", POOL, head=HEAD, env=fake.env) as run:
        human = await fails(run, Kind.DEVICE_MISSING)
        assert "usable here: 0 (NVIDIA Fake 4090)" in human
    (tmp_path / "notify").unlink()
    fake.unload_driver()
    async with poolmgr(tmp_path, "gpu:1", POOL, head=HEAD, env=fake.env) as run:
        assert "modprobe nvidia" in await fails(run, Kind.DRIVER_UNAVAILABLE)


@pytest.mark.req("ORCH-1102", "OC-POOL-3010", "OC-POOL-3030", "ORCH-3053")
async def test_a_gpu_that_falls_off_the_bus_ends_the_pool(tmp_path: Path, fake: FakeNvml) -> None:
    async with poolmgr(tmp_path, "gpu:0", POOL, head=HEAD, env=fake.env) as run:
        await while_loading(run, lambda pid: fake.follow_process(0, pid, 2048))
        await run.until(200)
        fake.lose_gpu(1)  # beside the mask
        await trio.sleep(2 * HEARTBEAT_S)
        assert (await run.get("/health"))[0] == 200
        fake.lose_gpu(0)
        assert await run.exit_code() == TABLE[Kind.DRIVER_RESET].exit_code
        (failed,) = [entry for entry in run.log if entry["event"] == "failed"]
        assert failed["kind"] == Kind.DRIVER_RESET
        assert "GPU 0 does not answer: " in failed["human"]
        assert "nvidia-smi --gpu-reset" in failed["human"]


@pytest.mark.req("OC-POOL-3010", "ORCH-3053")
async def test_a_driver_that_goes_while_a_pool_serves_is_a_reset(
    tmp_path: Path, fake: FakeNvml
) -> None:
    async with poolmgr(tmp_path, "gpu:0", POOL, head=HEAD, env=fake.env) as run:
        await while_loading(run, lambda pid: fake.follow_process(0, pid, 2048))
        await run.until(200)
        fake.unload_driver()
        human = await fails_after_ready(run, Kind.DRIVER_RESET)
        assert "the NVIDIA driver is gone, and it was here before" in human


@pytest.mark.req("OC-POOL-3010", "ORCH-3053")
async def test_an_engine_that_dies_with_its_gpu_is_not_blamed(
    tmp_path: Path, fake: FakeNvml
) -> None:
    async with poolmgr(tmp_path, "gpu:0", POOL, head=HEAD, env=fake.env) as run:
        await while_loading(run, lambda pid: fake.follow_process(0, pid, 2048))
        pid = (await run.until(200))["engine_pid"]
        fake.lose_gpu(0)
        os.kill(pid, signal.SIGABRT)
        human = await fails_after_ready(run, Kind.DRIVER_RESET)
        assert "was killed by SIGABRT" in human


async def fails_after_ready(run: Run, kind: Kind) -> str:
    assert await run.exit_code() == TABLE[kind].exit_code
    (failed,) = [entry for entry in run.log if entry["event"] == "failed"]
    assert failed["kind"] == kind
    return str(failed["human"])


async def page_with(run: Run, sample: str) -> None:
    """Wait until the pool's scrape page has a sample."""
    with trio.fail_after(10):
        while sample not in (await run.get("/metrics"))[1]:
            await trio.sleep(0.02)


def counted(reason: str, count: int) -> str:
    return f'replica_id="gpu:0",device="0",reason="{reason}"}} {count}'


@pytest.mark.req("ORCH-3053", "OC-POOL-3010", "OC-POOL-3030", "ORCH-3038")
@pytest.mark.parametrize(
    ("xid", "kind", "words"),
    [
        (79, Kind.DRIVER_RESET, "Xid 79 (GPU has fallen off the bus)"),
        (48, Kind.GPU_ECC, "Xid 48 (double bit ECC error)"),
        (74, Kind.GPU_XID, "Xid 74"),
    ],
)
async def test_what_the_driver_tells_of_a_gpu_ends_the_pool_by_its_name(
    tmp_path: Path, fake: FakeNvml, xid: int, kind: Kind, words: str
) -> None:
    async with poolmgr(tmp_path, "gpu:0", POOL, head=HEAD, env=fake.env) as run:
        await while_loading(run, lambda pid: fake.follow_process(0, pid, 2048))
        await run.until(200)
        fake.tell_xid(1, xid)  # beside the mask
        fake.tell_xid(0, 13)  # a program's fault
        await page_with(run, counted("application_xid", 1))
        assert (await run.get("/health"))[0] == 200
        fake.tell_xid(0, xid)
        assert f"GPU 0: {words}" in await fails_after_ready(run, kind)
        told = [(e["device"], e["xid"], e["reason"]) for e in run.log if e["event"] == "gpu_event"]
        assert told == [(0, 13, "application_xid"), (0, xid, kind)]
        assert any(f"STATUS=Failed: GPU 0: {words}" in said for said in run.said)


@pytest.mark.req("ORCH-3053")
@pytest.mark.parametrize("events", [True, False])
async def test_an_ecc_error_is_heard_or_polled(
    tmp_path: Path, fake: FakeNvml, events: bool
) -> None:
    fake.set_ecc_errors(0, 3)  # of long ago
    if not events:
        fake.support_no_events(0)
    async with poolmgr(tmp_path, "gpu:0", POOL, head=HEAD, env=fake.env) as run:
        await while_loading(run, lambda pid: fake.follow_process(0, pid, 2048))
        await run.until(200)
        await trio.sleep(2 * HEARTBEAT_S)
        assert (await run.get("/health"))[0] == 200
        polled = [e["human"] for e in run.log if e["event"] == "gpu_events_polled"]
        assert [human[:32] for human in polled] == (
            [] if events else ["Xid events of GPU 0 are not told"]
        )
        fake.set_ecc_errors(0, 4)
        assert "GPU 0 had an ECC error" in await fails_after_ready(run, Kind.GPU_ECC)


@pytest.mark.req("ORCH-3053", "OC-POOL-3010")
async def test_an_engine_that_an_xid_killed_says_so(tmp_path: Path, fake: FakeNvml) -> None:
    async with poolmgr(tmp_path, "gpu:0", POOL, head=HEAD, env=fake.env) as run:
        await while_loading(run, lambda pid: fake.follow_process(0, pid, 2048))
        pid = (await run.until(200))["engine_pid"]
        fake.tell_xid(0, 31)
        await page_with(run, counted("application_xid", 1))
        os.kill(pid, signal.SIGABRT)
        human = await fails_after_ready(run, Kind.GPU_XID)
        assert "was killed by SIGABRT" in human
        assert "Xid 31 (GPU memory page fault) of GPU 0" in human


@pytest.mark.req("OC-POOL-3012", "ORCH-1102")
async def test_a_cuda_context_alone_is_no_proof(tmp_path: Path, fake: FakeNvml) -> None:
    # what a CUDA build holds that keeps its weights in host memory
    async with poolmgr(tmp_path, "gpu:0", POOL, head=HEAD, env=fake.env) as run:
        await while_loading(run, lambda pid: fake.follow_process(0, pid, 450))
        human = await fails(run, Kind.CPU_FALLBACK)
        assert "holds 450 MiB of GPU 0, and its weights there take at least 1.8 GiB" in human


@pytest.mark.req("OC-POOL-3012")
async def test_who_keeps_the_memory_after_a_stop_is_named(tmp_path: Path, fake: FakeNvml) -> None:
    async with poolmgr(tmp_path, "gpu:0", POOL, head=HEAD, env=fake.env) as run:
        await while_loading(run, lambda pid: fake.add_process(0, pid, 2048))  # stuck in the driver
        pid = (await run.until(200))["engine_pid"]
        run.stop()
        assert await run.exit_code() == 0
        (entry,) = [entry for entry in run.log if entry["event"] == "memory_not_returned"]
        assert f"(pid {pid}) still holds 2.0 GiB of GPU 0" in entry["human"]


@pytest.mark.req("OC-POOL-3020", "ORCH-3052")
async def test_a_gpu_in_instances_is_refused(tmp_path: Path, fake: FakeNvml) -> None:
    fake.split_into_instances(1)
    async with poolmgr(tmp_path, "gpu:1", POOL, head=HEAD, env=fake.env) as run:
        human = await fails(run, Kind.DEVICE_MISSING)
        assert "GPU 1 of the mask is split into MIG instances" in human
        assert "nvidia-smi -i 1 -mig 0" in human


@pytest.mark.req("ORCH-3003", "OC-POOL-3002")
async def test_what_is_reserved_of_a_gpu_stays_free(tmp_path: Path, fake: FakeNvml) -> None:
    head = HEAD + "devices = {{ reserve = [{{ gpu = 1, mb = 11000 }}] }}\n"
    async with poolmgr(tmp_path, "gpu:1", POOL, head=head, env=fake.env) as run:
        human = await fails(run, Kind.VRAM_SHORT)
        assert "needs 2.0 GiB, GPU 1 has 12.0 GiB free, 10.7 GiB of it reserved" in human


EXTERNAL = """
[[pools]]
id = "gpu"
engine = {{ id = "mock" }}
model = {{ ref = "lorem" }}
devices = [0]
ctx = 8192
provisioning = {{ mode = "external", url = "unix:{0}/x.sock", gpu_attested = {1} }}
"""


@pytest.mark.req("OC-POOL-3012", "ORCH-1102")
@pytest.mark.parametrize(
    ("seen", "attested", "proof"),
    [
        (True, "false", "verified"),
        (False, "true", "attested, not verified"),
        (False, "false", None),
    ],
)
async def test_an_external_engine_is_verified_where_it_can_be_seen(
    tmp_path: Path, fake: FakeNvml, seen: bool, attested: str, proof: str | None
) -> None:
    from tests.poolmgr.test_daemon import external_engine

    engine = external_engine(tmp_path)
    if seen:
        fake.add_process(0, engine.pid, 1024)
    pools = EXTERNAL.format(tmp_path, attested)
    try:
        async with poolmgr(tmp_path, "gpu:0", pools, head=HEAD, env=fake.env) as run:
            if proof is None:
                await fails(run, Kind.CPU_FALLBACK)
            else:
                ready = await run.until(200)
                assert ready["gpu_proof"] == proof
                assert ready["engine_pid"] == engine.pid
    finally:
        engine.kill()
        engine.wait()


@pytest.mark.req("OC-POOL-3012", "ORCH-1102")
async def test_another_external_engine_in_its_place_is_proven_anew(
    tmp_path: Path, fake: FakeNvml
) -> None:
    from tests.poolmgr.test_daemon import external_engine

    engine = external_engine(tmp_path)
    fake.add_process(0, engine.pid, 1024)
    pools = EXTERNAL.format(tmp_path, "false")
    try:
        async with poolmgr(tmp_path, "gpu:0", pools, head=HEAD, env=fake.env) as run:
            assert (await run.until(200))["gpu_proof"] == "verified"
            engine.kill()
            engine.wait()
            engine = external_engine(tmp_path)  # on the CPU, and there before the next probe
            assert await run.exit_code() == TABLE[Kind.CPU_FALLBACK].exit_code
    finally:
        engine.kill()
        engine.wait()
