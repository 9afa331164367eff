"""The real llama.cpp server as a pool's engine under systemd, in the sandbox, behind a fake driver.

Here: that the unit's sandbox lets a real engine work, and that the proof of its GPU is asked for.
Not here: the dialect and its corner cases (tests/engines).
"""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.cache import Cache
from tests.lab.llama import llama_in_machine
from tests.lab.machine import Machine
from tests.lab.needs import DEBIAN_LLAMA, MACHINE, require
from tests.lab.nvml import FakeNvml
from tests.system.house import House, names_of, pool, task, text_of

pytest_plugins = ("tests.lab.fixtures",)
pytestmark = [pytest.mark.system, pytest.mark.engine, pytest.mark.slow]

UNIT = pool("llama:0")
MODEL = Path("/var/lib/orchd/models/tiny.gguf")
# What the driver shows; an engine on a GPU appears in the driver's list, here by its own hand.
GPUS = "/var/cache/orchd/gpus.txt"
ON_THE_GPU = f'#!/bin/sh\necho "L 0 $$ 900" >> {GPUS}\nexec {{engine}} "$@"\n'


def configuration(command: list[str]) -> str:
    return f"""
[[pools]]
id = "llama"
engine = {{ id = "llamacpp" }}
model = {{ ref = "file:{MODEL}" }}
replicas = [[0]]
ctx = 2048
provisioning = {{ mode = "binary", command = {json.dumps(command)} }}
"""


def wish() -> dict[str, object]:
    return task("llamacpp", model_ref=f"file:{MODEL}", prompt="the", max_tokens=12)


@pytest.fixture(scope="module")
def booted(
    house_layers: list[Path], lab_cache: Cache, gpus: FakeNvml, tiny_gguf: Path
) -> Iterator[House]:
    """A machine that has llama-server, too."""
    require((*MACHINE, *DEBIAN_LLAMA))
    binds, _ = llama_in_machine(lab_cache)
    with Machine(house_layers, binds={**binds, **gpus.binds}, cache=lab_cache) as machine:
        shutil.copy2(tiny_gguf, machine.path(MODEL))
        yield House(machine)


@pytest.fixture
def engine(house: House, gpus: FakeNvml) -> list[str]:
    """argv of the server; the driver's file is set up so that the engine can add itself."""
    house.machine.put(GPUS, gpus.file.read_text(), 0o666)
    house.drop_in(UNIT, f"[Service]\nEnvironment=FAKE_NVML={GPUS}\n")
    return llama_in_machine()[1]


@pytest.mark.req("HME-001", "OC-POOL-3012", "ORCH-3045")
def test_a_real_engine_serves_in_the_sandbox(house: House, engine: list[str]) -> None:
    house.machine.put("/opt/engine", ON_THE_GPU.format(engine=shlex.join(engine)), 0o755)
    house.configure(configuration(["/opt/engine"]))
    house.start("llama:0")
    house.wait_ready("llama")
    assert "on GPU 0 (NVIDIA Fake 4090), verified" in house.property(UNIT, "StatusText")
    first, second = house.complete(wish()), house.complete(wish())
    assert names_of(first) == ["started", "token", "end"]
    assert json.loads(first[-1].data)["tokens_out"] == 12
    assert text_of(first) == text_of(second) != ""
    pids = house.engine_pids("llama:0")
    house.machine.systemctl("stop", UNIT)
    assert not any(map(house.alive, pids))


@pytest.mark.req("OC-POOL-3012", "OC-POOL-3003")
def test_an_engine_on_the_cpu_is_refused_and_named(house: House, engine: list[str]) -> None:
    house.configure(configuration(engine))
    house.start("llama:0", check=False)
    house.wait(lambda: "runs on the CPU" in house.property(UNIT, "StatusText"), "status says why")
    assert house.property(UNIT, "ActiveState") != "active"
    refused = house.ask("POST", "/v1/tasks", wish())
    assert (refused.status, refused.json["code"]) == (503, "POOL_UNREADY")
