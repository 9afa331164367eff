"""A reload that fails, with the real llama.cpp server, while a client streams."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest
import trio

from orchd.kit.client import Client
from tests.lab.llama import Command
from tests.lab.nvml import FakeNvml
from tests.sockets.suite import Suite
from tests.sockets.talk import events_of, get, last, post, stream, submit, until
from tests.sockets.test_llama import ask, llama_pool, ready_llama

pytestmark = [pytest.mark.engine, pytest.mark.slow]
SuiteOf = Callable[..., Suite]
HEALTH = "/v1/pools/llama/health"
CTX = 32_768


async def failed(client: Client, model: Path, **more: str) -> dict[str, Any]:
    """Reload with a model that is no good; return the health, and hold that it served on."""
    body = {"new_model_ref": f"file:{model}", **more}
    assert (await post(client, "/v1/pools/llama/reload", body)).status == 202
    with trio.fail_after(60):
        while "reloading" in (health := await get(client, HEALTH)):
            assert health["ready"]
            await trio.sleep(0.05)
    assert health["ready"]
    return dict(health)


@pytest.mark.req("OC-CTRL-2003", "ORCH-3038", "ORCH-3097", "ORCH-3421", "ORCH-3821", "ORCH-3049")
async def test_the_real_engine_serves_on_whatever_is_wrong_with_the_new_model(
    suite_of: SuiteOf, llama_command: Command, slow_gguf: Path, fake_nvml: FakeNvml, tmp_path: Path
) -> None:
    env = fake_nvml.env | dict(llama_command[1])
    old, other = tmp_path / "old.gguf", tmp_path / "other.gguf"
    shutil.copyfile(slow_gguf, old)
    os.link(slow_gguf, other)
    with old.open("rb") as file:
        digest = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    config = llama_pool(llama_command, old, ctx=CTX, slots=2).replace(
        f'ref = "file:{old}"', f'ref = "file:{old}", digest = "{digest}"'
    )
    config += 'canary = { expect = "what no random model says" }\n'
    suite = suite_of(config, env=env, wait=False)
    await ready_llama(suite, fake_nvml)
    client = suite.client()
    task = await submit(client, **ask(old, ctx=CTX, max_tokens=CTX - 64, determinism="best_effort"))
    where = f"/v1/tasks/{task['task_id']}"
    async with stream(client, task["task_id"]) as incoming:
        await until(incoming, b"event: token")

        missing = await failed(client, tmp_path / "none.gguf")
        assert missing["last_error"]["kind"] == "model_missing"
        assert missing["replicas"][0]["snapshot"]["gates"] == {
            "model": "passed", "engine": "passed", "health": "passed",
        }  # fmt: skip

        wrong = "sha256:" + "0" * 64
        another = await failed(client, other, digest=wrong)
        assert another["last_error"]["kind"] == "digest_mismatch"
        assert wrong in another["last_error"]["message"]
        assert another["model_ref"] == f"file:{old}"

        big = tmp_path / "big.gguf"
        big.touch()
        os.truncate(big, 200 << 30)  # sparse: it takes no room on the disk
        too_big = await failed(client, big)
        assert too_big["last_error"]["kind"] == "vram_short"
        assert "big.gguf needs 200" in too_big["last_error"]["message"]

        broken = tmp_path / "broken.gguf"  # a new file in its place: the engine has the old mapped
        shutil.copyfile(old, broken)
        os.truncate(broken, broken.stat().st_size - 1)
        broken.rename(old)
        corrupt = await failed(client, old)
        assert corrupt["last_error"]["kind"] == "digest_mismatch"
        assert digest in corrupt["last_error"]["message"]

        mark = len(suite.events)

        async def show_engine() -> None:
            wait = partial(suite.wait_event, "engine_started", mark)
            pid = int((await trio.to_thread.run_sync(wait))["engine_pid"])
            fake_nvml.follow_process(0, pid, 300)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(show_engine)
            canary = await failed(client, other, digest=digest)  # it has this one: it is a link
        assert canary["last_error"]["kind"] == "canary_failed", canary["last_error"]
        assert "canary.expect is not in its answer" in canary["last_error"]["message"]
        seen = canary["replicas"][0]["snapshot"]["reload"]["canary"]
        assert 1 <= seen["tokens"] <= 16
        assert seen["vram_bytes"] == 300 << 20
        assert canary["model_ref"] == f"file:{old}"

        # the stream goes on
        made = now = (await get(client, where))["tokens_out"]
        with trio.fail_after(20):
            while now == made:
                await until(incoming, b"event: token")
                now = (await get(client, where))["tokens_out"]
        assert (await get(client, where))["state"] == "running"
    assert (await post(client, f"{where}/cancel")).status == 204
    events = await events_of(client, task["task_id"])
    assert last(events)["finish_reason"] == "canceled"
    # every self-test is an artifact: of the start, and of the engine that lost to the canary
    with trio.fail_after(10):
        while len(found := await reports(client)) < 2:
            await trio.sleep(0.05)
    for one in found:
        assert one["passed"]
        assert [step["name"] for step in one["steps"]] == [
            *("identity", "gpu", "decode", "cancel", "metrics", "log"),
        ]
        assert {step["result"] for step in one["steps"]} == {"passed"}
        assert one["gpu_proof"] == "verified"
    client.close()


async def reports(client: Client) -> list[dict[str, Any]]:
    listed = await get(client, "/v1/artifacts?tag=self-test")
    each = [await get(client, f"/v1/artifacts/{one['id']}") for one in listed["artifacts"]]
    assert all(one["kind"] == "trace" and "replica:llama:0" in one["tags"] for one in each)
    return [orjson.loads(one["content"]) for one in each]
