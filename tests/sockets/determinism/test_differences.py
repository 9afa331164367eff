"""What does change the bytes, on the real engine, and is kept out of a set or of strict tasks."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import trio

from orchd.kit.client import Client
from tests.fakes.tasks import task_body
from tests.lab.fixtures import MakeNvml
from tests.lab.llama import Command
from tests.lab.nvml import FakeNvml, Gpu, uuid_of
from tests.sockets.determinism.pair import POOL, PROMPT, Seen, pool, run, show_engines
from tests.sockets.suite import Suite
from tests.sockets.talk import get, post

pytestmark = [pytest.mark.engine, pytest.mark.slow]
SuiteOf = Callable[..., Suite]
SOME = range(16)
SLOTS = 4
ROUNDS = 10


async def snapshot(client: Client, pool_id: str) -> dict[str, object]:
    """What the only replica of a pool says of itself."""
    (replica,) = (await get(client, f"/v1/pools/{pool_id}/health"))["replicas"]
    return dict(replica["snapshot"])


@pytest.mark.req("ORCH-3046", "OC-CORE-1031", "OC-CORE-1032")
async def test_another_micro_batch_is_another_text_and_no_replica_of_the_set(
    suite_of: SuiteOf, llama_command: Command, tiny_gguf: Path, make_nvml: MakeNvml
) -> None:
    nvml = make_nvml([Gpu(uuid_of(index)) for index in range(3)])
    env = nvml.env | dict(llama_command[1])
    config = pool(llama_command, tiny_gguf) + pool(
        llama_command,
        tiny_gguf,
        pool_id="other",
        replicas="[[2]]",
        args=("--ubatch-size", "8"),
    )
    suite = suite_of(config, env=env, wait=False)
    await show_engines(suite, nvml, {"set:0": 0, "set:1": 1, "other:2": 2})
    with closing(suite.client()) as client:
        texts: dict[int, list[Seen]] = {
            gpu: [await run(client, tiny_gguf, gpu, seed=seed) for seed in SOME] for gpu in (0, 2)
        }
        differ = [a.said != b.said for a, b in zip(texts[0], texts[2], strict=True)]
        assert any(differ), (
            "a micro-batch of 8 rounds as one of 512: nothing would need to be pinned"
        )
        # what rounds differently cannot join: a replica of the set, but for its micro-batch
        said = await snapshot(client, "other")
        identity = {
            "pool_id": POOL,
            "replica_id": "set:1",
            "engine": "llamacpp",
            "engine_version": said["engine_version"],
            "sampler_profile_version": said["sampler_profile_version"],
            "slots_total": 1,
            "model_ref": f"file:{tiny_gguf}",
            "model_digest": said["model_digest"],
            "flash_attention": said.get("flash_attention"),
            "ubatch": said["ubatch"],
        }
        assert identity["ubatch"] == 8
        refused = await post(client, "/v1/workers/register", identity)
        assert refused.status == 409, refused.body
        assert "ubatch" in json.loads(refused.body)["message"]


@pytest.mark.req("ORCH-3045")
async def test_slots_that_share_batches_differ_and_take_no_strict_task(
    suite_of: SuiteOf, llama_command: Command, tiny_gguf: Path, fake_nvml: FakeNvml
) -> None:
    env = fake_nvml.env | dict(llama_command[1])
    config = pool(llama_command, tiny_gguf, replicas="[[0]]", slots=SLOTS)
    suite = suite_of(config, env=env, wait=False)
    await show_engines(suite, fake_nvml, {"set:0": 0})
    with closing(suite.client()) as client:
        strict = task_body(engine="llamacpp", model_ref=f"file:{tiny_gguf}", ctx=256)
        refused = await post(client, "/v1/tasks", strict)
        assert refused.status == 400
        assert "slots" in json.loads(refused.body)["message"]

        async def best_effort(seed: int, into: dict[int, Seen]) -> None:
            prompt = f"{seed} {PROMPT}"
            more = {"seed": seed, "prompt": prompt, "determinism": "best_effort", "kv_hint": "cold"}
            into[seed] = await run(client, tiny_gguf, 0, **more)

        alone: dict[int, Seen] = {}
        for seed in range(2 * SLOTS):
            await best_effort(seed, alone)
        for _ in range(ROUNDS):
            together: dict[int, Seen] = {}
            async with trio.open_nursery() as nursery:
                for seed in alone:
                    nursery.start_soon(best_effort, seed, together)
            if any(together[seed].said != alone[seed].said for seed in alone):
                break
        else:
            pytest.fail(
                f"in {ROUNDS} rounds of {SLOTS} slots no text changed: strict could be allowed"
            )
