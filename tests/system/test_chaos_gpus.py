"""GPUs and drivers that go away under the real llama.cpp server, and memory that others take.

Here: the booted machine with the stub NVML, whose file the cases change; after each the pool serves
again by itself and nothing is left (footprint.py). Not here: kills, sockets, disk and clock
(test_chaos.py); what each Xid means (tests/poolmgr).
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from attrs import define

from orchd.wire.sse import Event
from tests.lab.cache import Cache
from tests.lab.llama import llama_in_machine
from tests.lab.machine import Machine
from tests.lab.needs import DEBIAN_LLAMA, FAKE_NVML, MACHINE, require
from tests.lab.nvml import GPU_IS_LOST, FakeNvml
from tests.system.footprint import Footprint, nothing_leaked
from tests.system.house import House, names_of, pool, task

pytest_plugins = ("tests.lab.fixtures",)
pytestmark = [pytest.mark.system, pytest.mark.engine, pytest.mark.slow]

REPLICA = "llama:0"
UNIT = pool(REPLICA)
MODEL = Path("/var/lib/orchd/models/slow.gguf")
GPUS = "/var/cache/orchd/gpus.txt"
ENGINE = "/opt/engine"
# It shows itself on the GPU, as an engine of a CUDA build does.
ON_THE_GPU = f'#!/bin/sh\necho "L 0 $$ 900" >> {GPUS}\nexec {{engine}} "$@"\n'
ANOTHER_PROCESS = 4711
RESTART = "RestartSec=1s\nRestartSteps=0\n"
CONFIGURATION = f"""
[[pools]]
id = "llama"
engine = {{ id = "llamacpp" }}
model = {{ ref = "file:{MODEL}" }}
replicas = [[0]]
ctx = 32768
provisioning = {{ mode = "binary", command = ["{ENGINE}"] }}
"""


@define
class Workstation:
    """A suite with one GPU, and the driver that shows it."""

    house: House
    healthy: str
    """The driver's file without any process."""

    def show(self, gpus: str) -> None:
        """From now on the driver says this."""
        self.house.machine.put(GPUS, gpus, 0o666)

    def shown(self) -> str:
        """What the driver says now."""
        return self.house.machine.path(GPUS).read_text()

    def start(self) -> Footprint:
        """Start the pool on a healthy GPU, and see it serve."""
        self.house.start(REPLICA)
        self.house.wait_ready("llama")
        self.served()
        return Footprint.of(self.house, REPLICA)

    def wish(self, tokens: int) -> dict[str, object]:
        """A task of this pool."""
        return task(
            "llamacpp",
            model_ref=f"file:{MODEL}",
            prompt="the",
            ctx=32768,
            max_tokens=tokens,
            deadline_ms=600_000,
        )

    def served(self) -> None:
        """A new task is served, whole."""
        assert names_of(self.house.complete(self.wish(12)))[-1] == "end"

    @contextmanager
    def streaming(self) -> Iterator[Iterator[Event]]:
        """A task whose tokens come while the body breaks something."""
        wish = self.wish(30_000)
        assert self.house.ask("POST", "/v1/tasks", wish).status == 202
        with self.house.stream(wish["task_id"]) as events:
            next(event for event in events if event.name == "token")
            yield events

    def last_error(self, kind: str) -> Any:
        """What health says, once that is why the pool is not ready."""

        def error() -> Any:
            health = self.house.health("llama")
            said = health.get("last_error") or {}
            return not health["ready"] and said.get("kind") == kind and said

        return self.house.wait(error, f"health says {kind}")

    def over(self, before: Footprint) -> None:
        """It serves by itself, the GPU proven anew, and nothing is left."""
        self.house.wait_ready("llama")
        self.house.wait(lambda: self._state() == "active", "systemd knows it")
        assert "verified" in self.house.property(UNIT, "StatusText")
        self.served()
        nothing_leaked(self.house, before, REPLICA)

    def _state(self) -> str:
        return self.house.property(UNIT, "ActiveState")


@pytest.fixture(scope="module")
def booted(
    house_layers: list[Path], lab_cache: Cache, gpus: FakeNvml, slow_gguf: Path
) -> Iterator[House]:
    """A machine that has llama-server and a model that takes seconds, too."""
    require((*MACHINE, *DEBIAN_LLAMA, *FAKE_NVML))
    binds, command = llama_in_machine(lab_cache)
    with Machine(house_layers, binds={**binds, **gpus.binds}, cache=lab_cache) as machine:
        shutil.copy2(slow_gguf, machine.path(MODEL))
        machine.put(ENGINE, ON_THE_GPU.format(engine=shlex.join(command)), 0o755)
        yield House(machine)


@pytest.fixture
def station(house: House, gpus: FakeNvml) -> Workstation:
    made = Workstation(house, gpus.file.read_text())
    made.show(made.healthy)
    house.drop_in(UNIT, f"[Service]\nEnvironment=FAKE_NVML={GPUS}\n{RESTART}")
    house.configure(CONFIGURATION)
    return made


def lost(gpus: str) -> str:
    """GPU 0 has fallen off the bus."""
    first, _, rest = gpus.partition("\n")
    return re.sub(r" 0 (?=NVIDIA)", f" {GPU_IS_LOST} ", first) + "\n" + rest


def taken(gpus: str, pid: int, mib: int) -> str:
    """A process holds so much of GPU 0."""
    first, _, rest = gpus.partition("\n")
    uuid, total, used, *others = first.split(" ")
    line = " ".join([uuid, total, str(int(used) + mib), *others])
    return f"{line}\n{rest.rstrip()}\nP 0 {pid} {mib}\n"


@pytest.mark.req("ORCH-3051", "OC-POOL-3010", "ORCH-3053")
def test_gpu_lost_while_it_streams(station: Workstation) -> None:
    house, before = station.house, station.start()
    (engine,) = house.engine_pids(REPLICA)
    with station.streaming() as events:
        station.show(lost(station.shown()))
        last = list(events)[-1]
    said = json.loads(last.data)
    assert (last.name, said["code"], said["retriable"]) == ("error", "WORKER_RESET", True)
    error = station.last_error("driver_reset")
    assert "GPU 0" in error["message"]
    assert "nvidia-smi --gpu-reset" in error["advice"]
    house.wait(lambda: not house.alive(engine), "the engine is gone", 10.0)
    # as long as it is lost each start says so, and nothing is loaded
    tried = int(house.property(UNIT, "NRestarts"))
    house.wait(lambda: int(house.property(UNIT, "NRestarts")) > tried, "it is tried again")
    assert house.engine_pids(REPLICA) == []
    station.show(station.healthy)
    station.over(before)


@pytest.mark.req("ORCH-3051", "ORCH-3053")
def test_xid_told_while_it_streams(station: Workstation) -> None:
    """By NVML's event set, in the unit's sandbox; the GPU answers all the while."""
    house, before = station.house, station.start()
    with station.streaming() as events:
        station.show(station.shown() + "X 0 79\n")
        last = list(events)[-1]
    said = json.loads(last.data)
    assert (last.name, said["code"], said["retriable"]) == ("error", "WORKER_RESET", True)
    error = station.last_error("driver_reset")
    assert "Xid 79 (GPU has fallen off the bus)" in error["message"]
    (told,) = house.journal(UNIT, "EVENT=gpu_event")
    assert told["XID"] == "79"
    station.over(before)


@pytest.mark.req("ORCH-3051", "OC-POOL-3010")
def test_driver_gone_at_the_start_and_back(station: Workstation) -> None:
    house, before = station.house, station.start()
    house.machine.systemctl("stop", UNIT)
    house.machine.run(f"rm {GPUS}")
    house.start(REPLICA, check=False)
    error = station.last_error("driver_unavailable")
    assert "modprobe nvidia" in error["advice"]
    assert "driver" in house.property(UNIT, "StatusText")
    refused = house.ask("POST", "/v1/tasks", station.wish(4))
    assert (refused.status, refused.json["code"]) == (503, "POOL_UNREADY")
    station.show(station.healthy)
    station.over(before)


@pytest.mark.req("ORCH-3051", "ORCH-3003", "OC-CORE-1014")
def test_memory_taken_before_the_load_is_refused_with_the_holder(station: Workstation) -> None:
    """The holder is another user's process, as a desktop's programs are."""
    house, before = station.house, station.start()
    house.machine.systemctl("stop", UNIT)
    house.machine.run(["systemd-run", "--unit=thief", "--collect", "sleep", "600"])
    thief = house.main_pid("thief.service")
    station.show(taken(station.healthy, thief, 24_000))
    house.start(REPLICA, check=False)
    error = station.last_error("vram_short")
    assert f"23.4 GiB used by sleep (pid {thief})" in error["message"], error
    assert house.engine_pids(REPLICA) == []
    house.machine.systemctl("stop", "thief.service")
    station.show(station.healthy)
    station.over(before)


@pytest.mark.req("ORCH-3051", "OC-POOL-3030")
def test_memory_taken_while_it_serves_is_seen_and_hurts_nobody(station: Workstation) -> None:
    """The engine has its memory already: health shows what is left, and the tasks go on."""
    house, before = station.house, station.start()
    free = house.health("llama")["metrics"]["vram_free_bytes"]
    with station.streaming() as events:
        healthy = station.shown()
        station.show(taken(healthy, ANOTHER_PROCESS, 20_000))
        house.wait(
            lambda: free - house.health("llama")["metrics"]["vram_free_bytes"] == 20_000 << 20,
            "health shows it",
        )
        assert house.health("llama")["ready"] is True
        assert next(event for event in events if event.name == "token")
    station.show(healthy)
    station.over(before)
    assert house.property(UNIT, "NRestarts") == "0"
