"""llama-server's own: the same cases for the mock engine and for two builds of the real server.

What poolmgr relies on beside test_every_engine.py: the adapter's launch arguments start it, health
and props mean what we think, texts are counted as prompts, strict jobs repeat byte for byte.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from orchd.core.limits.workloads import ADDED_TOKENS
from poolmgr.engines.base import Finished, Load
from tests.engines import servers
from tests.engines.servers import Running, job, running
from tests.lab.tiny_gguf import SLOW

pytestmark = [pytest.mark.engine, pytest.mark.req("ADAPT-API", "ORCH-3054", "OC-ADAPT-5001")]

CTX = 512


@pytest.fixture(scope="module", params=servers.ALL)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """One running server of each kind, with one slot."""
    with running(request.param, tmp_path_factory.mktemp("e"), ctx=CTX) as it:
        yield it


@pytest.mark.req("OC-ADAPT-5010")
def test_props_name_the_build_the_slots_and_the_context(server):
    props = server.props()
    assert re.fullmatch(r"mock-\d+|b\d+-\w+", props.engine_version)
    assert (props.slots, props.ctx_max) == (1, CTX)


@pytest.mark.req("OC-CORE-1021", "ORCH-3390")
@pytest.mark.parametrize(
    "text",
    [
        "Hello there",
        "",
        " a  b\n\tc ",
        "<|bos|>Hi<|eos|>",
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
        "na\u00efve caf\u00e9 \U0001f30d \u8a00\u8449\x00\x01",
        "word and " * 40,
    ],
)
def test_a_text_has_as_many_tokens_as_it_has_as_a_prompt(server, text):
    call = server.adapter.tokenize(text)
    assert call is not None
    tokens = server.adapter.read_tokenize(*server.ask(call.method, call.path, call.body))
    outcome = server.run(job(text, max_tokens=1))
    assert isinstance(outcome.end, Finished)
    assert len(tokens) == outcome.end.tokens_in
    assert len(tokens) <= len(text.encode()) + ADDED_TOKENS, "what orchd counts on unasked"


@pytest.mark.req("ORCH-3045", "OC-CORE-1030")
def test_strict_jobs_repeat_byte_for_byte_and_seeds_differ(server):
    prompts = [f"Tell me of {what}." for what in ("rivers", "stones", "the moon", "\u00e9t\u00e9")]
    first = [server.run(job(prompt, seed=7)) for prompt in prompts]
    for _ in range(3):
        for prompt, before in zip(reversed(prompts), reversed(first), strict=True):
            assert server.run(job(prompt, seed=7)) == before
    other = [server.run(job(prompt, seed=8)).text for prompt in prompts]
    assert [outcome.text for outcome in first] != other
    assert server.run(job()) == server.run(job(seed=0)), "no seed is one seed, for a strict job"


@pytest.mark.req("ORCH-3045", "OC-CORE-1030")
def test_strict_jobs_repeat_on_another_replica(server, tmp_path):
    asked = [job(f"Number {number} of", max_tokens=64, seed=number) for number in range(8)]
    here = [server.run(one) for one in asked]
    with running(server.name, tmp_path, ctx=CTX) as twin:
        assert [twin.run(one) for one in reversed(asked)][::-1] == here


def test_a_best_effort_job_without_a_seed_is_drawn_anew(server):
    texts = {server.run(job(strict=False)).text for _ in range(5)}
    assert len(texts) > 1


@pytest.mark.parametrize("name", servers.ALL)
def test_two_slots_have_the_whole_context_each_and_run_together(name, tmp_path):
    more: dict[str, Any] = {"tokens_per_s": 100.0} if name == "mock" else {}
    with running(name, tmp_path, model=SLOW, ctx=CTX, slots=2, **more) as server:
        props = server.props()
        assert (props.slots, props.ctx_max) == (2, CTX)
        open_streams = [server.open(server.adapter.submit(job(max_tokens=400)).body) for _ in "ab"]
        firsts = [answer.read1(5) for _, answer in open_streams]
        assert all(firsts)
        began = time.monotonic()
        assert server.load_state() is Load.SERVING
        assert time.monotonic() - began < 0.5, "health hangs while streams are open"
        for connection, answer in open_streams:
            answer.close()
            connection.close()


@pytest.mark.parametrize("name", servers.ALL)
def test_usage_grows_with_the_tokens_held(name, tmp_path):
    more: dict[str, Any] = {"tokens_per_s": 1000.0} if name == "mock" else {}
    with running(name, tmp_path, model=SLOW, ctx=4096, slots=2, **more) as server:
        usage = lambda: server.adapter.read_usage(server.ask("GET", "/slots")[1])  # noqa: E731
        assert (usage().slots_active, usage().kv_cache_usage_ratio) == (0, 0.0)
        connection, answer = server.open(server.adapter.submit(job(max_tokens=4000)).body)
        assert answer.read1(10)
        early = usage()
        assert early.slots_active == 1
        servers.until(lambda: (usage().kv_cache_usage_ratio or 0) > 0.1, within_s=5)
        assert 0 < (early.kv_cache_usage_ratio or 0) < 0.5
        answer.close()
        connection.close()


@pytest.mark.parametrize("name", servers.REAL)
def test_while_it_loads_it_says_so(name, tmp_path):
    """Every answer before it serves is 503; the model is small, so some starts show none."""
    seen: set[Load | None] = set()
    for round_ in range(20):
        folder = tmp_path / str(round_)
        folder.mkdir()
        with running(name, folder, wait=False, model=SLOW, ctx=32768) as server:
            deadline = time.monotonic() + servers.START_S
            while Load.SERVING not in seen and time.monotonic() < deadline:
                seen.add(server.load_state())
        assert Load.BROKEN not in seen
        if Load.LOADING in seen:
            return
        seen.clear()
    pytest.skip("it loaded too fast to be seen loading, 20 times")


def test_the_mock_loads_for_as_long_as_it_is_told(tmp_path):
    with running("mock", tmp_path, wait=False, args=("--load-ms", "150")) as server:
        servers.until(lambda: server.load_state() is Load.LOADING, within_s=5)
        status, body = server.ask("POST", "/completion", b"{}")
        assert server.adapter.load_state(status, body)[0] is Load.LOADING
        servers.until(lambda: server.load_state() is Load.SERVING, within_s=5)


@pytest.mark.parametrize("name", servers.ALL)
def test_it_starts_where_no_stale_socket_lies(name, tmp_path):
    """poolmgr unlinks a stale socket first, because the real server would not start over it."""
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(tmp_path / "e.sock"))
    stale.close()
    if name == "mock":
        with running(name, tmp_path) as server:
            assert server.load_state() is Load.SERVING
        return
    with running(name, tmp_path, wait=False) as server:
        deadline = time.monotonic() + 1
        while time.monotonic() < deadline:
            assert server.load_state() is None
            time.sleep(0.05)
    (tmp_path / "e.sock").unlink()
    with running(name, tmp_path) as server:
        assert server.load_state() is Load.SERVING
