"""The same cases for the mock engine and for two builds of the real llama.cpp server.

What poolmgr relies on: the adapter's launch arguments start it, health and props mean what we
think, streams are ordered and counted, leaving frees the slot, strict jobs repeat byte for byte.
"""

from __future__ import annotations

import http.client
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson
import pytest

from orchd.core.workloads import ADDED_TOKENS
from orchd.wire.errors import Kind
from orchd.wire.shapes import FinishReason
from poolmgr.engines.base import Broken, Finished, Load
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


def test_a_stream_has_its_tokens_in_order_and_truly_counted(server):
    """The pieces joined are what the same request says when it is not streamed [ORCH-3274]."""
    asked = job("one two three", max_tokens=40, seed=5)
    outcome = server.run(asked)
    body = orjson.loads(server.adapter.submit(asked).body)
    status, whole = server.ask("POST", "/completion", orjson.dumps(body | {"stream": False}))
    said = orjson.loads(whole)
    assert status == 200
    assert outcome.text == said["content"]
    assert isinstance(outcome.end, Finished)
    assert outcome.end.tokens_out == said["tokens_predicted"] <= 40
    assert outcome.end.tokens_in == said["tokens_evaluated"] > 0
    if outcome.end.tokens_out < 40:
        assert outcome.end.finish_reason is FinishReason.STOP
    else:
        assert outcome.end.finish_reason is FinishReason.LENGTH


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


def test_a_self_test_of_one_token(server):
    outcome = server.run(job(max_tokens=1))
    assert isinstance(outcome.end, Finished)
    assert outcome.end.tokens_out == 1


@pytest.mark.req("ORCH-3016")
def test_a_prompt_over_the_context_is_refused_with_its_figures(server):
    outcome = server.run(job("word " * 3000))
    assert outcome.texts == ()
    assert isinstance(outcome.end, Broken)
    assert outcome.end.error.kind is Kind.INVALID_PARAMS
    assert outcome.end.error.fields.path == "$.prompt"
    assert re.search(
        rf"the prompt has \d{{4,}} tokens, more than .* {CTX} ", outcome.end.error.message
    )
    assert isinstance(server.run(job()).end, Finished), "and it goes on serving"


@pytest.mark.req("ORCH-3016")
def test_a_context_that_fills_up_is_never_a_silent_end(server):
    seeds = (server.run(job("a b c", max_tokens=100_000, seed=seed)) for seed in range(20))
    full = next(outcome for outcome in seeds if not isinstance(outcome.end, Finished))
    assert full.texts
    assert isinstance(full.end, Broken)
    assert full.end.error.kind is Kind.INVALID_PARAMS
    assert "the context was full" in full.end.error.message


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


@pytest.mark.req("ORCH-3274")
def test_characters_arrive_whole(server):
    outcome = server.run(
        job("na\u00efve caf\u00e9 \U0001f30d \u8a00\u8449", max_tokens=200, seed=3)
    )
    assert isinstance(outcome.end, Finished | Broken)
    assert "\ufffd" not in outcome.text
    if server.name == "mock":
        assert max(outcome.text) > "\xff", "it speaks more than ASCII"


@pytest.mark.parametrize("name", servers.ALL)
def test_leaving_frees_the_slot_while_it_generates(name, tmp_path):
    """llama-server frees it in milliseconds; poolmgr promises 100 [OC-ADAPT-5011]."""
    more: dict[str, Any] = {"tokens_per_s": 200.0} if name == "mock" else {}
    with running(name, tmp_path, model=SLOW, ctx=16384, **more) as server:
        took = []
        for _ in range(10):
            connection, answer = server.open(server.adapter.submit(job(max_tokens=15000)).body)
            assert answer.status == 200
            assert answer.read1(10)
            assert server.busy()
            answer.close()
            connection.close()
            took.append(servers.until(lambda: not server.busy(), within_s=5))
        assert sorted(took)[8] < 0.1, "9 of 10: the machine may be busy with other tests once"


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


@pytest.mark.req("OC-ADAPT-5011")
@pytest.mark.parametrize("name", servers.ALL)
def test_a_killed_server_breaks_the_stream_off(name, tmp_path):
    more: dict[str, Any] = {"tokens_per_s": 200.0} if name == "mock" else {}
    with running(name, tmp_path, model=SLOW, ctx=16384, **more) as server:
        asked = job(max_tokens=15000)
        connection, answer = server.open(server.adapter.submit(asked).body)
        got = answer.read1(4096)
        threading.Timer(0.05, lambda: servers.kill(server)).start()
        with suppress(ConnectionError, http.client.HTTPException):
            while piece := answer.read1(65536):
                got += piece
        outcome = servers.read(server.adapter, asked, answer.status, got)
        assert outcome.texts
        assert isinstance(outcome.end, Broken)
        assert outcome.end.error.kind is Kind.ENGINE_DIED
        connection.close()


@pytest.mark.req("OC-ADAPT-5002")
def test_nothing_listens_anywhere_else(server):
    """No TCP port: the engine's own routes are reachable through the pool's socket only."""
    inodes = set()
    for link in Path(f"/proc/{server.pid}/fd").iterdir():
        target = str(link.readlink()) if link.is_symlink() else ""
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    for table in ("tcp", "tcp6"):
        lines = Path(f"/proc/{server.pid}/net/{table}").read_text().splitlines()[1:]
        assert not [line for line in lines if line.split()[9] in inodes]
