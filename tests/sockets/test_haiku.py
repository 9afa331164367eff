"""A haiku nobody could have written before: did a real model answer, and did the counts add up?

End to end through the public API, with a demand that is new in every run. A canned answer, a cache,
an echo or a made-up count does not pass. Without a GPU the real llama.cpp server runs on the CPU
under the stub NVML, with a tiny model whose words mean nothing: then the verse is not judged.
With REQUIRE_REAL_LLAMA=1 it is a GPU worker or a failure, and the verse must hold its words:

    REQUIRE_REAL_LLAMA=1 REAL_LLAMA_SERVER=/usr/bin/llama-server REAL_LLAMA_MODEL=/models/x.gguf \
        pytest tests/sockets/test_haiku.py
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import trio
from attrs import frozen

from orchd.kit.client import Client, Target
from tests.conftest import has_gpu
from tests.lab.llama import Command
from tests.lab.nvml import FakeNvml
from tests.sockets.suite import Suite
from tests.sockets.talk import events_of, last, names, submit, text_of
from tests.sockets.test_llama import llama_pool, ready_llama

pytestmark = [pytest.mark.engine, pytest.mark.slow]
SuiteOf = Callable[..., Suite]
NOUNS = (
    "anvil",
    "bramble",
    "cinder",
    "dynamo",
    "ember",
    "fjord",
    "granite",
    "heron",
    "iris",
    "juniper",
    "kestrel",
    "lantern",
)
PLACES = (
    "attic",
    "bridge",
    "cellar",
    "desert",
    "estuary",
    "forge",
    "garden",
    "harbour",
    "island",
    "jetty",
    "kiln",
    "ledge",
)
REAL = os.environ.get("REQUIRE_REAL_LLAMA") == "1"
CTX = 1024
VERSE_TOKENS = 64


@frozen
class Demand:
    """What is asked for: drawn anew in every run."""

    noun: str
    place: str
    nonce: str

    @classmethod
    def fresh(cls) -> Demand:
        """A demand that no run had before: the nonce has 64 bits."""
        return cls(secrets.choice(NOUNS), secrets.choice(PLACES), secrets.token_hex(8))

    @property
    def prompt(self) -> str:
        """The words for the model."""
        return (
            f"Order {self.nonce}. Write one haiku that has the words {self.noun} and {self.place} "
            "in it, and nothing else.\nHaiku:"
        )


@frozen
class Counted:
    """Tokens since the start, as somebody counted them."""

    tokens_in: int
    tokens_out: int
    decodes: int = 0
    """Times that the engine ran its model; 0 where the counter is not the engine's."""

    def since(self, before: Counted) -> Counted:
        """What came on top."""
        return Counted(
            self.tokens_in - before.tokens_in,
            self.tokens_out - before.tokens_out,
            self.decodes - before.decodes,
        )


@frozen
class Verse:
    """What came back, and the counts of its last frame."""

    text: str
    tokens_in: int
    tokens_out: int


async def page(client: Client) -> str:
    answer = await client.request("GET", "/metrics")
    assert answer.status == 200, answer.body
    return answer.body.decode()


def value(text: str, name: str) -> int:
    """The sum over a family of a scrape page."""
    found = re.findall(rf"^{re.escape(name)}(?:\{{[^}}]*\}})? (\S+)$", text, re.MULTILINE)
    return round(sum(float(each) for each in found))


async def engine_count(engine: Client) -> Counted:
    text = await page(engine)
    return Counted(
        value(text, "llamacpp:prompt_tokens_total"),
        value(text, "llamacpp:tokens_predicted_total"),
        value(text, "llamacpp:n_decode_total"),
    )


async def daemon_count(client: Client) -> Counted:
    text = await page(client)
    return Counted(value(text, "tokens_in_total"), value(text, "tokens_out_total"))


async def ask(client: Client, model: Path, prompt: str, seed: int) -> Verse:
    wanted: dict[str, Any] = {
        "engine": "llamacpp",
        "model_ref": f"file:{model}",
        "prompt": prompt,
        "seed": seed,
        "ctx": CTX,
        "max_tokens": VERSE_TOKENS,
        "session_id": str(uuid4()),
    }
    task = await submit(client, **wanted)
    events = await events_of(client, task["task_id"])
    assert names(events)[0] == "started"
    assert events[-1].name == "end", events[-1].data
    end = last(events)
    return Verse(text_of(events), end["tokens_in"], end["tokens_out"])


async def judge(suite: Suite, model: Path) -> None:
    """Ask four times, and hold every count and every text against the others."""
    engine_socket = suite.folder / "run" / "poolmgr" / "llama:0.engine.sock"
    with (
        closing(suite.client()) as client,
        closing(Client(Target.unix(engine_socket))) as engine,
    ):
        engine_before, daemon_before = await engine_count(engine), await daemon_count(client)
        one, other, seed = Demand.fresh(), Demand.fresh(), secrets.randbelow(1 << 31)
        verses = [
            await ask(client, model, one.prompt, seed),
            await ask(client, model, other.prompt, seed),
            await ask(client, model, one.prompt, seed + 1),
            await ask(client, model, one.prompt, seed),
        ]
        with trio.fail_after(10):  # the scrape pages are written once a second
            while True:
                engine_says = (await engine_count(engine)).since(engine_before)
                daemon_says = (await daemon_count(client)).since(daemon_before)
                if daemon_says.tokens_out == sum(verse.tokens_out for verse in verses):
                    break
                await trio.sleep(0.1)
    first, of_other, of_seed, again = verses
    assert first.text == again.text != "", "the same demand and seed: the same verse"
    assert len({first.text, of_other.text, of_seed.text}) == 3, "another one: another verse"
    assert one.nonce not in first.text, "an echo is no haiku"
    said = Counted(sum(v.tokens_in for v in verses), sum(v.tokens_out for v in verses))
    assert (daemon_says.tokens_in, daemon_says.tokens_out) == (said.tokens_in, said.tokens_out)
    assert (engine_says.tokens_in, engine_says.tokens_out) == (said.tokens_in, said.tokens_out)
    assert engine_says.decodes >= said.tokens_out, "the model ran once for each token"
    if REAL:
        lacking = {one.noun, one.place} - set(re.findall(r"\w+", first.text.lower()))
        assert not lacking, f"the verse lacks {lacking}: {first.text!r}"


def with_counters(config: str) -> str:
    """The pool of a configuration, with the engine's own counters on."""
    plain = 'engine = { id = "llamacpp" }'
    assert plain in config
    return config.replace(plain, 'engine = { id = "llamacpp", args = ["--metrics"] }')


@pytest.mark.skipif(REAL, reason="REQUIRE_REAL_LLAMA=1 asks for the GPU worker instead")
@pytest.mark.req("ORCH-3051")
async def test_a_fresh_haiku_is_made_and_counted_by_the_engine_itself(
    suite_of: SuiteOf, llama_command: Command, tiny_gguf: Path, fake_nvml: FakeNvml
) -> None:
    env = fake_nvml.env | dict(llama_command[1])
    config = with_counters(llama_pool(llama_command, tiny_gguf, ctx=CTX))
    suite = suite_of(config, env=env, wait=False)
    await ready_llama(suite, fake_nvml)
    await judge(suite, tiny_gguf)


@pytest.mark.skipif(not REAL, reason="needs a GPU worker: set REQUIRE_REAL_LLAMA=1 where one is")
@pytest.mark.timeout(600)
async def test_a_gpu_worker_writes_the_haiku_that_was_asked_for(suite_of: SuiteOf) -> None:
    assert has_gpu(), "REQUIRE_REAL_LLAMA=1, and there is no NVIDIA GPU"
    server, model = os.environ["REAL_LLAMA_SERVER"], Path(os.environ["REAL_LLAMA_MODEL"])
    config = with_counters(llama_pool(([server], {}), model, ctx=CTX))
    suite = suite_of(config, wait=False)
    await trio.to_thread.run_sync(suite.wait_ready)
    await judge(suite, model)
