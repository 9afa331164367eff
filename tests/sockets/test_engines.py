"""Engines beside llama.cpp through the whole suite: from a client's POST to its tokens and back."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from poolmgr.edge import procs
from tests.engines.servers import FOR_VLLM, START_VLLM_S, running
from tests.fakes.tasks import task_body
from tests.lab.llama import Command
from tests.lab.needs import TRITON, require
from tests.lab.nvml import FakeNvml, once_shown
from tests.lab.tgi import install_tgi
from tests.lab.triton import MODEL, repository, triton_command
from tests.lab.vllm import VLLM, tiny_hf, vllm_command
from tests.sockets.suite import Suite
from tests.sockets.talk import events_of, get, last, post, submit, text_of

TEXT_S = 10.0


async def reads(path: Path, text: str) -> None:
    """Until a file that another process writes has this text."""

    def there() -> bool:
        return path.read_text() == text

    with trio.fail_after(TEXT_S):
        while not there():
            await trio.sleep(0.01)


def core_of(pid: int) -> int:
    """The process of vLLM's engine core below its server's."""
    (core,) = [one for one in procs.tree(pid) if "EngineCor" in procs.name(one)]
    return core


pytestmark = [pytest.mark.engine, pytest.mark.slow]
SuiteOf = Callable[..., Suite]


# fixtures, as a skip inside a test of trio loses its reason
@pytest.fixture
def triton() -> Command:
    require(TRITON)
    return triton_command()


@pytest.fixture
def vllm() -> Command:
    require(VLLM)
    return vllm_command()


@pytest.mark.req("ORCH-3057", "OC-ADAPT-5060", "OC-POOL-3012", "OC-ADAPT-5002")
@pytest.mark.parametrize("api", ["http", "grpc"])
async def test_tritonserver_is_started_proven_asked_and_cancelled(
    suite_of: SuiteOf, triton: Command, fake_nvml: FakeNvml, tmp_path: Path, api: str
) -> None:
    argv, env = triton
    live = tmp_path / "live"
    env = fake_nvml.env | env | {"TINY_LIVE": str(live), "TINY_DELAY_MS": "5"}
    libraries = f"{env['LD_LIBRARY_PATH']}:{fake_nvml.env['LD_LIBRARY_PATH']}"
    suite = suite_of(
        f"""
[[pools]]
id = "tri"
engine = {{ id = "triton", api = "{api}", served_name = "{MODEL}" }}
model = {{ ref = "file:{repository()}" }}
devices = [0]
ctx = 512
provisioning = {{ mode = "binary", command = {json.dumps(once_shown(argv))} }}
""",
        env=env | {"LD_LIBRARY_PATH": libraries},
        wait=False,
    )
    started = await trio.to_thread.run_sync(lambda: suite.wait_event("engine_started"))
    fake_nvml.follow_process(0, int(started["engine_pid"]), 300)
    await trio.to_thread.run_sync(suite.wait_ready)
    client = suite.client()
    health = await get(client, "/v1/pools/tri/health")
    snapshot = health["replicas"][0]["snapshot"]
    assert snapshot["gpu_proof"] == "verified"
    assert snapshot["engine_version"] == "2.51.0+trtllm-0.0-test"
    assert snapshot["model_digest"].startswith("sha256:")
    wanted = {"engine": "triton", "model_ref": f"file:{repository()}", "ctx": 256}
    task = await submit(client, **wanted, max_tokens=20, seed=3, prompt="one two three")
    events = await events_of(client, task["task_id"])
    assert last(events)["tokens_in"] == 3
    assert last(events)["tokens_out"] == 20
    assert last(events)["finish_reason"] == "length"
    assert len(text_of(events)) == 20
    task = await submit(client, **wanted, max_tokens=250, seed=10, prompt="x")
    await reads(live, "1")
    answer = await post(client, f"/v1/tasks/{task['task_id']}/cancel")
    assert answer.status == 204
    await reads(live, "0")
    client.close()


@pytest.mark.req("ORCH-3056", "OC-ADAPT-5040", "OC-ADAPT-5050", "OC-POOL-3012", "OC-ADAPT-5002")
async def test_a_stand_in_for_tgi_is_started_proven_asked_and_cancelled(
    suite_of: SuiteOf, fake_nvml: FakeNvml, tmp_path: Path
) -> None:
    """Its launcher's processes have groups of their own, and its port is in no network of ours."""
    launcher = install_tgi(tmp_path / "tgi")
    suite = suite_of(
        f"""
[[pools]]
id = "tgi"
engine = {{ id = "tgi" }}
model = {{ ref = "file:{tiny_hf()}" }}
devices = [0]
ctx = 512
provisioning = {{ mode = "binary", command = ["{launcher}"] }}
""",
        env=fake_nvml.env | {"TINY_DELAY_MS": "5"},
        wait=False,
    )
    started = await trio.to_thread.run_sync(lambda: suite.wait_event("engine_started"))
    engine_pid = int(started["engine_pid"])
    fake_nvml.follow_process(0, engine_pid, 300)
    await trio.to_thread.run_sync(suite.wait_ready)
    client = suite.client()
    health = await get(client, "/v1/pools/tgi/health")
    snapshot = health["replicas"][0]["snapshot"]
    assert snapshot["gpu_proof"] == "verified"
    assert snapshot["engine_version"] == "3.3.6-b5e2a1c"
    wanted = {"engine": "tgi", "model_ref": f"file:{tiny_hf()}", "ctx": 256}
    task = await submit(client, **wanted, max_tokens=20, seed=3, prompt="one two three")
    events = await events_of(client, task["task_id"])
    assert (last(events)["tokens_in"], last(events)["tokens_out"]) == (4, 20)
    assert len(text_of(events)) == 20
    task = await submit(client, **wanted, max_tokens=250, seed=10, prompt="x")
    answer = await post(client, f"/v1/tasks/{task['task_id']}/cancel")
    assert answer.status == 204
    # one slot: the next task begins when the engine has let go of the last
    task = await submit(client, **wanted, max_tokens=5, seed=1, prompt="y")
    assert last(await events_of(client, task["task_id"]))["tokens_out"] == 5
    client.close()
    pids = procs.tree(engine_pid)
    assert len(pids) == 4, "bridge, launcher, router, shard"
    said = [event["human"] for event in suite.events if event["event"] == "engine_output"]
    assert "Using prefix caching 0" in said
    await trio.to_thread.run_sync(suite.process.send_signal, signal.SIGINT)
    with trio.fail_after(TEXT_S):
        for pid in pids:
            await procs.wait_gone(pid)


@pytest.mark.timeout(300)
@pytest.mark.req("ORCH-3055", "OC-ADAPT-5020", "OC-POOL-3012", "OC-ADAPT-5021")
async def test_vllm_is_started_proven_asked_and_its_death_is_seen(
    suite_of: SuiteOf, vllm: Command, fake_nvml: FakeNvml
) -> None:
    argv, env = vllm
    suite = suite_of(
        f"""
[[pools]]
id = "vllm"
engine = {{ id = "vllm", args = {json.dumps(FOR_VLLM)} }}
model = {{ ref = "file:{tiny_hf()}" }}
devices = [0]
ctx = 512
provisioning = {{ mode = "binary", command = {json.dumps(argv)} }}
""",
        env=fake_nvml.env | env,
        wait=False,
    )
    started = await trio.to_thread.run_sync(lambda: suite.wait_event("engine_started"))
    pid = int(started["engine_pid"])
    fake_nvml.follow_process(0, pid, 300)
    client = suite.client()
    with trio.fail_after(START_VLLM_S):
        while (await client.request("GET", "/readyz")).status != 200:
            await trio.sleep(0.5)
    snapshot = (await get(client, "/v1/pools/vllm/health"))["replicas"][0]["snapshot"]
    assert snapshot["gpu_proof"] == "verified"
    assert snapshot["engine_version"] == "0.32.0"
    wanted = {"engine": "vllm", "model_ref": f"file:{tiny_hf()}", "ctx": 256, "max_tokens": 20}
    texts = []
    for _ in range(2):
        task = await submit(client, **wanted, seed=3, prompt="The quick brown fox")
        events = await events_of(client, task["task_id"])
        assert 0 < last(events)["tokens_out"] <= 20
        assert last(events)["tokens_in"] > 3
        texts.append(text_of(events))
    assert texts[0] == texts[1] != ""
    # the engine's core dies: its server ends itself some seconds later, with code 0
    os.kill(core_of(pid), signal.SIGKILL)
    failed = await trio.to_thread.run_sync(lambda: suite.wait_event("failed"))
    assert failed["kind"] in ("engine_unhealthy", "engine_died")
    assert "core is dead" in failed["human"] or "exited with code 0" in failed["human"]
    client.close()


@pytest.mark.req("OC-ADAPT-OAI-6000", "ORCH-3613", "ORCH-1102")
async def test_a_server_of_others_is_asked_with_its_key(
    suite_of: SuiteOf, fake_nvml: FakeNvml, tmp_path: Path
) -> None:
    key = "a-key-that-nobody-sees"
    (tmp_path / "key").write_text(key)
    with running("openai", tmp_path, ctx=512, key=key) as server:
        fake_nvml.follow_process(0, server.pid, 300)
        suite = suite_of(
            f"""
[[pools]]
id = "others"
engine = {{ id = "openai", served_name = "mock:lorem", api_key = "file:{tmp_path}/key" }}
model = {{ ref = "some/model" }}
devices = [0]
ctx = 512
provisioning = {{ mode = "external", url = "unix:{server.socket}" }}
""",
            env=fake_nvml.env,
        )
        client = suite.client()
        health = await get(client, "/v1/pools/others/health")
        assert health["replicas"][0]["snapshot"]["gpu_proof"] == "verified"
        wanted = {"engine": "openai", "model_ref": "some/model", "ctx": 256, "max_tokens": 20}
        task = await submit(client, **wanted, determinism="best_effort", prompt="The quick fox")
        events = await events_of(client, task["task_id"])
        assert 0 < last(events)["tokens_out"] <= 20
        assert last(events)["tokens_in"] > 3
        refused = await post(client, "/v1/tasks", task_body(**wanted, prompt="x"))
        assert refused.status == 400
        assert b"best_effort" in refused.body
        client.close()
        assert key not in json.dumps(suite.events)
        files = [path for path in suite.folder.rglob("*") if path.is_file()]
        assert files
        assert not [path for path in files if key.encode() in path.read_bytes()]
