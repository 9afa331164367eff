"""Engines beside llama.cpp as pools under systemd, in the sandbox, behind a fake driver.

Here: that the packaged unit lets each of them start, prove its GPU, serve, be cancelled and end.
Not here: their dialects (tests/engines), llama-server (test_engine.py). TGI is a stand-in.
"""

from __future__ import annotations

import http.client
import json
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import pytest
from attrs import field, frozen

from tests.lab.cache import Cache
from tests.lab.machine import Machine
from tests.lab.needs import MACHINE, TRITON, missing, require
from tests.lab.nvml import FakeNvml
from tests.lab.tgi import install_tgi
from tests.lab.tiny_gguf import SLOW
from tests.lab.triton import MODEL, repository, triton_in_machine
from tests.lab.vllm import VLLM, tiny_hf, vllm_in_machine
from tests.system.house import House, names_of, pool, task, text_of

pytest_plugins = ("tests.lab.fixtures",)
pytestmark = [pytest.mark.system, pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(400)]

UNIT = pool("it:0")
# What the driver shows; an engine on a GPU appears in the driver's list, here by its own hand.
GPUS = "/var/cache/orchd/gpus.txt"
ON_THE_GPU = f'#!/bin/sh\necho "L 0 $$ 900" >> {GPUS}\nexec {{engine}} "$@"\n'
TRITON_INSIDE, VLLM_INSIDE = Path("/opt/triton"), Path("/opt/vllm")
TGI_INSIDE = Path("/opt/tgi")
TINY_HF, SLOW_HF = Path("/opt/tiny-hf"), Path("/opt/slow-hf")
REPOSITORY = Path("/opt/repository")
READY_S = 60.0
VLLM_READY_S = 300.0  # 20 to 30 s alone


@frozen(kw_only=True)
class Case:
    """How one engine is configured in the machine."""

    engine: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(factory=dict)
    model: Path = TINY_HF
    more: str = ""
    version: str
    ready_s: float = READY_S
    ctx: int = 512
    long: int = 400
    """Tokens of a job that does not end before it is cancelled."""

    @property
    def configuration(self) -> str:
        command = json.dumps([str(Path("/opt/run") / self.engine)])
        return f"""
[[pools]]
id = "it"
engine = {{ id = "{self.engine}"{self.more} }}
model = {{ ref = "file:{self.model}" }}
replicas = [[0]]
ctx = {self.ctx}
provisioning = {{ mode = "binary", command = {command} }}
"""

    def wish(self, **more: object) -> dict[str, object]:
        return task(self.engine, model_ref=f"file:{self.model}", ctx=self.ctx, **more)


def triton(api: str) -> Case:
    _, argv, env = triton_in_machine(TRITON_INSIDE)
    return Case(
        engine="triton", argv=argv, env={**env, "TINY_DELAY_MS": "5"}, model=REPOSITORY,
        more=f', served_name = "{MODEL}", api = "{api}"', version="2.51.0+trtllm-0.0-test",
    )  # fmt: skip


def tgi() -> Case:
    launcher = str(TGI_INSIDE / "text-generation-launcher")
    env = {"TINY_DELAY_MS": "5", "PATH": f"{TGI_INSIDE}:/usr/bin"}
    return Case(engine="tgi", argv=[launcher], env=env, version="3.3.6-b5e2a1c")


def vllm() -> Case:
    _, argv, env = vllm_in_machine(VLLM_INSIDE)
    more = ', args = ["--enforce-eager", "--dtype", "float32"]'
    return Case(
        engine="vllm", argv=argv, env=env, model=SLOW_HF, more=more, version="0.32.0",
        ready_s=VLLM_READY_S, ctx=8192, long=8000,  # 400 tokens were over before the cancel came
    )  # fmt: skip


CASES: dict[str, Callable[[], Case]] = {
    "triton": lambda: triton("http"),
    "triton-grpc": lambda: triton("grpc"),
    "tgi": tgi,
    "vllm": vllm,
}
NEEDS = {"triton": TRITON, "triton-grpc": TRITON, "vllm": VLLM}


@pytest.fixture(scope="module")
def booted(
    house_layers: list[Path],
    lab_cache: Cache,
    gpus: FakeNvml,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[House]:
    """A machine that has every engine that this one can have."""
    require(MACHINE)
    stand_in = tmp_path_factory.mktemp("stand-in") / "tgi"
    install_tgi(stand_in, "/usr/bin/python3")
    binds = {stand_in: TGI_INSIDE, tiny_hf(): TINY_HF, **gpus.binds}
    if not missing(TRITON):
        binds |= triton_in_machine(TRITON_INSIDE)[0] | {repository(): REPOSITORY}
    if not missing(VLLM):
        binds |= vllm_in_machine(VLLM_INSIDE)[0] | {tiny_hf(SLOW): SLOW_HF}
    with Machine(house_layers, binds=binds, cache=lab_cache) as machine:
        yield House(machine)


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, house: House, gpus: FakeNvml) -> Case:
    """One engine, configured; its program adds itself to what the driver shows."""
    require(NEEDS.get(request.param, ()))
    one = CASES[request.param]()
    house.machine.put(GPUS, gpus.file.read_text(), 0o666)
    given = shlex.join(["/usr/bin/env", *(f"{k}={v}" for k, v in one.env.items()), *one.argv])
    house.machine.put(Path("/opt/run") / one.engine, ON_THE_GPU.format(engine=given), 0o755)
    house.configure(one.configuration)
    # with the daemon-reload that lets the generator write what this engine needs
    house.drop_in(UNIT, f"[Service]\nEnvironment=FAKE_NVML={GPUS}\n")
    return one


def started(house: House, case: Case) -> None:
    """Until systemd says that the pool has started: at its first try."""
    house.machine.systemctl("start", "--no-block", "orchd.target", UNIT)
    wanted = ("ActiveState", "NRestarts")

    def decided() -> dict[str, str] | None:
        found = house.machine.show(UNIT, *wanted)
        begins = found["ActiveState"] in ("inactive", "activating")
        return None if begins and found["NRestarts"] == "0" else found

    found = house.wait(decided, f"{case.engine} starts", case.ready_s)
    assert found == {"ActiveState": "active", "NRestarts": "0"}, house.said(UNIT)
    house.wait_ready("it")


@pytest.mark.req("HME-001", "OC-POOL-3012", "SYSD-11", "OC-ADAPT-5002", "ORCH-3600")
def test_an_engine_serves_in_the_sandbox_is_cancelled_and_leaves_nothing(
    house: House, case: Case
) -> None:
    started(house, case)
    assert "on GPU 0 (NVIDIA Fake 4090), verified" in house.property(UNIT, "StatusText")
    (replica,) = house.health("it")["replicas"]
    assert replica["snapshot"]["engine_version"] == case.version
    events = house.complete(case.wish(prompt="one two three", max_tokens=12))
    assert names_of(events) == ["started", "token", "end"]
    assert 0 < json.loads(events[-1].data)["tokens_out"] <= 12
    assert text_of(events)
    # there is one slot: the second task has it when the engine has let go of the first
    long = case.wish(prompt="x", max_tokens=case.long, seed=10)
    assert house.ask("POST", "/v1/tasks", long).status == http.client.ACCEPTED
    with house.stream(long["task_id"]) as stream:
        seen = [event.name for event in islice(stream, 2)]
        assert seen[0] == "started"
        assert house.ask("POST", f"/v1/tasks/{long['task_id']}/cancel").status == 204
        assert json.loads(list(stream)[-1].data)["finish_reason"] == "canceled"
    assert names_of(house.complete(case.wish(prompt="y", max_tokens=3)))[-1] == "end"
    # nobody else listens: not on the machine's loopback, whatever the engine can
    listening = house.machine.run("cat /proc/net/tcp /proc/net/tcp6").stdout.splitlines()
    ports = {line.split()[1].split(":")[1] for line in listening if " 0A " in line}
    assert ports <= {f"{8484:04X}"}
    pids = house.engine_pids("it:0")
    assert pids
    house.machine.systemctl("stop", UNIT)
    assert not any(map(house.alive, pids))
    left = house.machine.run("ls /run/poolmgr /dev/shm").stdout
    assert "engine" not in left
    assert "triton" not in left


@pytest.mark.req("OC-POOL-3012", "ORCH-3001")
@pytest.mark.parametrize("case", ["triton", "tgi"], indirect=True)
def test_a_killed_poolmgr_takes_its_engine_along(house: House, case: Case) -> None:
    started(house, case)
    pids = house.engine_pids("it:0")
    house.kill(house.main_pid(UNIT))
    house.wait(lambda: not any(map(house.alive, pids)), "the engine is gone")
    house.wait_ready("it")
    assert not set(pids) & set(house.engine_pids("it:0"))
