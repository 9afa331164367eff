"""Embedding and rerank through the whole suite: the mock engine, and the real llama.cpp server."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from orchd.kit.client import Client
from orchd.wire import sse
from orchd.wire.results import MAX_RESULT_BYTES
from tests.fakes.tasks import task_body
from tests.lab.llama import Command
from tests.lab.nvml import FakeNvml
from tests.sockets.suite import SIMULATED, Suite
from tests.sockets.talk import events_of, get, last, post, stream, submit, until
from tests.sockets.test_llama import ask, ready_llama

SuiteOf = Callable[..., Suite]


def vectors_pool(engine: str = "tokens_per_s = 0", **keys: str) -> str:
    more = "\n".join(f"{key} = {value}" for key, value in keys.items())
    return f"""
[[pools]]
id = "demo"
engine = {{ id = "mock", {engine} }}
model = {{ ref = "mock:lorem" }}
devices = [0]
ctx = 512
workloads = ["embedding", "rerank"]
{more}
"""


def embed(*inputs: str, **more: Any) -> dict[str, Any]:
    return {"workload": "embedding", "prompt": None, "inputs": inputs, "ctx": 256, **more}


def rank(*inputs: str) -> dict[str, Any]:
    return embed(*inputs, workload="rerank")


async def end_of(client: Client, **changes: Any) -> Any:
    task = await submit(client, **changes)
    decoder, events = sse.Decoder(limit=2 * MAX_RESULT_BYTES), []
    with trio.fail_after(30):
        async with stream(client, task["task_id"]) as incoming:
            while data := await incoming.read_some():
                events += decoder.feed(data)
    assert [e.name for e in events if e.name not in ("narration", "metrics")] == ["started", "end"]
    return json.loads(events[-1].data)


@pytest.mark.slow
async def test_vectors_and_scores_come_back_and_the_largest_batch_does(suite_of: SuiteOf) -> None:
    config = SIMULATED + vectors_pool("tokens_per_s = 0, embedding_dim = 4096")
    client = suite_of(config).client()
    found = await get(client, "/v1/capabilities")
    assert found["engines"][0]["supported_workloads"] == ["embedding", "rerank"]
    end = await end_of(client, **embed("one text", "two"))
    assert (end["tokens_in"], end["tokens_out"], end["finish_reason"]) == (3, 0, "stop")
    assert end["result"]["dimension"] == 4096
    assert [len(vector) for vector in end["result"]["embeddings"]] == [4096, 4096]
    texts = [f"text {number}" for number in range(65)]
    assert len((await end_of(client, **embed(*texts[:64])))["result"]["embeddings"]) == 64
    refused = await post(client, "/v1/tasks", task_body(**embed(*texts)))
    assert refused.status == 400
    assert "send at most 64 texts" in json.loads(refused.body)["message"]
    end = await end_of(client, **rank("red fox", "a red car", "the red fox", "rain"))
    assert end["result"]["ranking"] == [
        {"index": 1, "score": 1.0},
        {"index": 0, "score": 0.5},
        {"index": 2, "score": 0.0},
    ]
    client.close()


@pytest.mark.slow
@pytest.mark.req("ORCH-3026", "SSE-1003")
async def test_a_cancel_and_a_reader_that_leaves_free_the_slot(suite_of: SuiteOf) -> None:
    """One slot, and 60 s of work for it, twice."""
    client = suite_of(SIMULATED + vectors_pool("tokens_per_s = 10")).client()
    long = embed(*["text"] * 600)
    canceled = await submit(client, **long)
    left = await submit(client, **long)
    assert (await post(client, f"/v1/tasks/{canceled['task_id']}/cancel")).status == 204
    async with stream(client, left["task_id"]) as incoming:
        await until(incoming, b'"action":"start"')
    assert (await end_of(client, **embed("a")))["result"]["dimension"] == 64
    for task in (canceled, left):
        assert (await get(client, f"/v1/tasks/{task['task_id']}"))["state"] == "canceled"
    client.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "word"),
    [
        ("garbage_after_tokens = 2", "no answer to embedding"),
        ("die_after_tokens = 2", "was started 3 times and died before a token"),
    ],
)
async def test_an_engine_that_breaks_is_told_in_the_stream(
    suite_of: SuiteOf, fault: str, word: str
) -> None:
    client = suite_of(
        SIMULATED + vectors_pool(f"tokens_per_s = 0, faults = {{ {fault} }}")
    ).client()
    broken = await submit(client, **embed("a", "b", "c"))
    error = last(await events_of(client, broken["task_id"]))
    assert word in error["message"]
    with trio.fail_after(30):
        while (await client.request("GET", "/readyz")).status != 200:
            await trio.sleep(0.05)
    assert (await end_of(client, **embed("a", "b")))["tokens_in"] == 2
    client.close()


def llama_pool(command: Command, model: Path, workload: str, args: tuple[str, ...]) -> str:
    argv, _env = command
    return f"""
[[pools]]
id = "llama"
engine = {{ id = "llamacpp", args = {json.dumps(list(args))} }}
model = {{ ref = "file:{model}" }}
devices = [0]
ctx = 1024
workloads = ["{workload}"]
provisioning = {{ mode = "binary", command = {json.dumps(list(argv))} }}
"""


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.req("ORCH-3054", "OC-CORE-1021")
async def test_the_real_engine_gives_vectors(
    suite_of: SuiteOf, llama_command: Command, tiny_gguf: Path, fake_nvml: FakeNvml
) -> None:
    env = fake_nvml.env | dict(llama_command[1])
    config = llama_pool(llama_command, tiny_gguf, "embedding", ("--pooling", "mean"))
    suite = suite_of(config, env=env, wait=False)
    await ready_llama(suite, fake_nvml)
    client = suite.client()
    health = await get(client, "/v1/pools/llama/health")
    assert health["replicas"][0]["snapshot"]["embedding_dim"] == 64
    long = "word and " * 230  # over llama.cpp's own micro-batch of 512 tokens
    asked = ask(tiny_gguf, **embed("the ring", long, "the ring", ctx=1024))
    end = await end_of(client, **asked)
    vectors = end["result"]["embeddings"]
    assert [len(vector) for vector in vectors] == [64] * 3
    assert vectors[0] == vectors[2] != vectors[1]
    told = await post(client, "/v1/tokenize", {"model_ref": f"file:{tiny_gguf}", "text": long})
    count = json.loads(told.body)["count"]
    assert 512 < count < end["tokens_in"]
    refused = await post(client, "/v1/tasks", task_body(**asked | {"ctx": count - 1}))
    assert f"$.inputs[1]: has {count} tokens" in json.loads(refused.body)["message"]
    client.close()


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.req("ORCH-3054")
async def test_the_real_engine_scores_each_document(
    suite_of: SuiteOf, llama_command: Command, tiny_gguf: Path, fake_nvml: FakeNvml
) -> None:
    """The tiny model has no classifier: what it scores means nothing, how it does is the same."""
    env = fake_nvml.env | dict(llama_command[1])
    suite = suite_of(llama_pool(llama_command, tiny_gguf, "rerank", ()), env=env, wait=False)
    await ready_llama(suite, fake_nvml)
    client = suite.client()
    ranking = (await end_of(client, **ask(tiny_gguf, **rank("the ring", "one", "two", "ring"))))[
        "result"
    ]["ranking"]
    assert sorted(row["index"] for row in ranking) == [0, 1, 2]
    scores = [row["score"] for row in ranking]
    assert scores == sorted(scores, reverse=True)
    client.close()
