"""GPUs: the simulated backend, the mask, and pynvml in front of a stub of the driver's library."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orchd.config.devices import Backend, Devices, SimulatedDevice
from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import DeviceMask, Positive, Text
from poolmgr.edge.devices import Nvml, Simulated, masked
from tests.lab.cache import Cache
from tests.lab.nvml import GPU_IS_LOST, FakeNvml, uuid_of

NO_PERMISSION, RESET_REQUIRED, UNKNOWN = 4, 16, 999  # nvml.h, nvmlReturn_t

TWO = Devices(
    backend=Backend.SIMULATED,
    simulated=(
        SimulatedDevice(name=Text("Simulated 24 GB"), vram_mb=Positive(24576)),
        SimulatedDevice(name=Text("Simulated 12 GB"), vram_mb=Positive(12288)),
    ),
)


async def test_simulated_gpus_hold_what_the_engine_holds() -> None:
    held = 0
    devices = Simulated(TWO, DeviceMask((1,)), lambda: held)
    before = await devices.read()
    held = 1 << 30
    after = await devices.read()
    assert [gpu.name for gpu in after] == ["Simulated 24 GB", "Simulated 12 GB"]
    assert [gpu.used_bytes for gpu in before] == [0, 0]
    assert [gpu.used_bytes for gpu in after] == [0, 1 << 30]
    assert masked(after, DeviceMask((1,))) == (after[1],)


@pytest.mark.req("ORCH-3052")
async def test_a_mask_beyond_the_machine_says_what_there_is() -> None:
    gpus = await Simulated(TWO, DeviceMask((0,)), lambda: 0).read()
    with pytest.raises(OrchError) as caught:
        masked(gpus, DeviceMask((1, 4)))
    assert caught.value.kind is Kind.DEVICE_MISSING
    assert "GPU 4" in caught.value.message
    assert "0 (Simulated 24 GB), 1 (Simulated 12 GB)" in caught.value.message


READ = """
import attrs, json, trio
from poolmgr.edge.devices import Nvml
from orchd.wire.errors import OrchError
from orchd.wire.ids import DeviceMask
async def main():
    try:
        print(json.dumps([attrs.asdict(gpu) for gpu in await Nvml(DeviceMask((1,))).read()]))
    except OrchError as exc:
        print(json.dumps([exc.kind, exc.message]))
trio.run(main)
"""


def read_with(env: dict[str, str]) -> Any:
    """Read in a process of its own: the library is loaded once in a process."""
    done = subprocess.run(
        [sys.executable, "-c", READ],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    return json.loads(done.stdout)


@pytest.fixture
def fake(tmp_path: Path) -> FakeNvml:
    return FakeNvml.create(Cache.default(), tmp_path / "nvml")


@pytest.mark.slow
@pytest.mark.req("ORCH-3970", "ORCH-3420")
def test_nvml_tells_names_uuids_memory_capability_and_processes(fake: FakeNvml) -> None:
    fake.add_process(1, os.getpid(), 300)
    first, second = read_with(fake.env)
    assert (first["index"], first["uuid"], first["name"]) == (0, uuid_of(0), "NVIDIA Fake 4090")
    assert first["total_bytes"] == 24576 << 20
    assert first["compute_capability"]
    assert first["processes"] == []
    assert second["used_bytes"] >= 300 << 20
    (process,) = second["processes"]
    assert (process["pid"], process["used_bytes"]) == (os.getpid(), 300 << 20)
    assert process["name"] == Path("/proc/self/comm").read_text().strip()


@pytest.mark.slow
@pytest.mark.req("OC-POOL-3020")
@pytest.mark.parametrize("error", [GPU_IS_LOST, NO_PERMISSION, UNKNOWN])
def test_a_gpu_beside_the_mask_may_be_sick(fake: FakeNvml, error: int) -> None:
    fake.set_gpu(0, error=error)
    (left,) = read_with(fake.env)
    assert left["index"] == 1


@pytest.mark.slow
@pytest.mark.req("OC-POOL-3010", "ORCH-3053")
@pytest.mark.parametrize(
    ("error", "told"),
    [
        (GPU_IS_LOST, Kind.DRIVER_RESET),
        (RESET_REQUIRED, Kind.DRIVER_RESET),
        (UNKNOWN, Kind.DRIVER_UNAVAILABLE),
    ],
)
def test_a_sick_gpu_of_the_mask_is_the_drivers_trouble(
    fake: FakeNvml, error: int, told: Kind
) -> None:
    fake.set_gpu(1, error=error)
    kind, message = read_with(fake.env)
    assert kind == told
    assert "GPU 1 does not answer: " in message
    assert "Xid" in message


@pytest.mark.slow
@pytest.mark.req("ORCH-1102")
def test_a_driver_that_is_not_loaded_is_named(fake: FakeNvml) -> None:
    fake.unload_driver()
    kind, message = read_with(fake.env)
    assert kind == Kind.DRIVER_UNAVAILABLE
    assert "Driver Not Loaded" in message


@pytest.mark.req("ORCH-1102")
async def test_a_machine_without_the_library_is_told_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import pynvml

    def missing() -> None:
        raise pynvml.NVMLError_LibraryNotFound

    monkeypatch.setattr(pynvml, "nvmlInit", missing)
    with pytest.raises(OrchError) as caught:
        await Nvml(DeviceMask((0,))).read()
    assert caught.value.kind is Kind.DRIVER_UNAVAILABLE


@pytest.mark.req("ORCH-1102")
async def test_a_driver_that_hangs_does_not_hang_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    import pynvml

    from poolmgr.edge import devices

    release = threading.Event()
    monkeypatch.setattr(devices, "READ_DEADLINE_S", 0.01)
    monkeypatch.setattr(pynvml, "nvmlInit", release.wait)
    with pytest.raises(OrchError) as caught:
        await Nvml(DeviceMask((0,))).read()
    release.set()
    assert caught.value.kind is Kind.DRIVER_UNAVAILABLE
    assert "did not answer within" in caught.value.message
