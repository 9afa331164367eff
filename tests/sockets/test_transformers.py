"""An OpenAI-compatible server of somebody else's, through the whole suite: `transformers serve`.

It ends a stream without [DONE], counts in its last chunk, and answers 400 for a model that it has
not. Opt-in (`make test-vllm`): it needs torch.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines.servers import START_VLLM_S, kill
from tests.lab.needs import require
from tests.lab.nvml import FakeNvml
from tests.lab.tiny_gguf import SLOW
from tests.lab.transformers import NAME, serve_command
from tests.lab.vllm import VLLM, tiny_hf
from tests.sockets.suite import Suite
from tests.sockets.talk import events_of, get, last, post, submit, text_of
from tests.sockets.test_engines import SuiteOf

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(300)]
PROMPT = "The quick fox"


@pytest.fixture
def port(tmp_path: Path, fake_nvml: FakeNvml) -> Iterator[int]:
    """Of a server that runs, and holds memory on GPU 0."""
    require(VLLM)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    argv, env = serve_command(tiny_hf(SLOW), tmp_path / "hub", port)
    log = tmp_path / "engine.log"
    with log.open("wb") as out:
        child = subprocess.Popen(
            argv, env=os.environ | env, stdout=out, stderr=out, start_new_session=True
        )
    try:
        fake_nvml.follow_process(0, child.pid, 300)
        deadline = time.monotonic() + START_VLLM_S
        while not answers(port):
            assert child.poll() is None, log.read_text()[-2000:]
            assert time.monotonic() < deadline, log.read_text()[-2000:]
            time.sleep(0.1)
        yield port
    finally:
        kill(child.pid)
        child.wait()


def answers(port: int) -> bool:
    """Whether somebody listens there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def others(suite_of: SuiteOf, fake_nvml: FakeNvml, port: int, api: str) -> Suite:
    """A suite whose one pool is that server."""
    return suite_of(
        f"""
[[pools]]
id = "others"
engine = {{ id = "openai", api = "{api}", served_name = "{NAME}" }}
model = {{ ref = "some/model" }}
devices = [0]
ctx = 512
provisioning = {{ mode = "external", url = "http://127.0.0.1:{port}" }}
""",
        env=fake_nvml.env,
    )


@pytest.mark.req("OC-ADAPT-OAI-6000", "ORCH-3613")
@pytest.mark.parametrize("api", ["chat", "completions"])
async def test_transformers_serve_is_asked_counted_and_left(
    suite_of: SuiteOf, fake_nvml: FakeNvml, port: int, api: str
) -> None:
    suite = others(suite_of, fake_nvml, port, api)
    client = suite.client()
    health = await get(client, "/v1/pools/others/health")
    assert health["replicas"][0]["snapshot"]["gpu_proof"] == "verified"
    wanted = {"engine": "openai", "model_ref": "some/model", "ctx": 256, "prompt": PROMPT}
    task = await submit(client, **wanted, determinism="best_effort", max_tokens=12)
    events = await events_of(client, task["task_id"])
    assert last(events)["tokens_in"] > 2
    assert 0 < last(events)["tokens_out"] <= 12
    assert text_of(events)
    long = await submit(client, **wanted, determinism="best_effort", max_tokens=250)
    answer = await post(client, f"/v1/tasks/{long['task_id']}/cancel")
    assert answer.status == 204
    again = await submit(client, **wanted, determinism="best_effort", max_tokens=3)
    assert last(await events_of(client, again["task_id"]))["tokens_out"] <= 3
    client.close()
