"""Triton's own: a real tritonserver over HTTP and gRPC, asked by the test and by poolmgr."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from attrs import evolve

from orchd.config.pool import Api
from orchd.config.pool import Engine as EngineConfig
from orchd.kit.client import PeerError, Target
from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import EngineId, Text
from orchd.wire.shapes import FinishReason, Workload
from poolmgr.edge.engine import Engine
from poolmgr.engines.base import Broken, Finished, Load, Pieces, Service
from poolmgr.engines.registry import adapter
from tests.engines import servers
from tests.engines.servers import Running, job, pool, running
from tests.lab.cache import file_digest
from tests.lab.triton import SOURCE, TRTLLM

pytestmark = [
    pytest.mark.engine,
    pytest.mark.req("ORCH-3057", "OC-ADAPT-5060", "OC-ADAPT-5070"),
]


@pytest.fixture(scope="module", params=servers.TRITONS)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    with running(request.param, tmp_path_factory.mktemp("e"), delay_ms=2) as it:
        yield it


def test_props_name_both_versions_and_the_digest(server):
    props = server.props()
    assert props.engine_version == "2.51.0+trtllm-0.0-test"
    assert props.model_digest == f"sha256:{file_digest(SOURCE)}"
    assert (props.slots, props.ctx_max) == (None, None)


def test_a_model_that_is_not_there_is_named(server):
    engine = EngineConfig(id=EngineId("triton"), served_name=Text("nope"))
    other = evolve(server, adapter=adapter(evolve(pool("triton"), engine=engine)))
    with pytest.raises(OrchError) as caught:
        other.props()
    assert caught.value.kind is Kind.CONFIG_INVALID
    assert "'nope'" in caught.value.message


@pytest.mark.req("ORCH-3274")
def test_a_model_with_the_tensors_of_tensorrt_llm_is_asked_and_read(server):
    """Their names, types and the dimension of a batch, which the server itself checks; it tells no
    tokens of the prompt, and each answer is one."""
    api = server.adapter.submit(job()).service == "grpc"
    engine = EngineConfig(
        id=EngineId("triton"), served_name=Text(TRTLLM), api=Api.GRPC if api else Api.HTTP
    )
    other = evolve(server, adapter=adapter(evolve(pool("triton"), engine=engine)))
    assert other.props().engine_version == "2.51.0"
    asked = job("one two three", max_tokens=30, seed=3)
    text, _, tokens_out = server.whole(asked)
    outcome = other.run(asked)
    assert outcome.text == text
    assert len(outcome.texts) == tokens_out
    assert outcome.end == Finished(tokens_in=0, tokens_out=30, finish_reason=FinishReason.LENGTH)
    ended = other.run(job("x", max_tokens=500, seed=1))
    assert ended.end == Finished(tokens_in=0, tokens_out=77, finish_reason=FinishReason.STOP)
    assert isinstance(other.run(job("boom")).end, Broken)


@pytest.mark.req("ORCH-3276")
@pytest.mark.parametrize(
    ("prompt", "text", "words"), [("boom", "", "bad prompt"), ("boom-late", "mt", "late failure")]
)
def test_a_model_that_fails_says_so_and_serves_on(server, prompt, text, words):
    outcome = server.run(job(prompt))
    assert outcome.text == text
    assert isinstance(outcome.end, Broken)
    assert words in outcome.end.error.message
    early = Kind.INVALID_PARAMS if server.name == "triton" else Kind.WORKER_RESET
    assert outcome.end.error.kind is (Kind.WORKER_RESET if text else early)
    assert isinstance(server.run(job()).end, Finished)


def test_both_ways_say_the_same(server, tmp_path):
    other = "triton" if server.name == "triton-grpc" else "triton-grpc"
    asked = [job(f"Number {number}", max_tokens=100, seed=number) for number in range(3)]
    here = [server.run(one) for one in asked]
    with running(other, tmp_path) as twin:
        assert [twin.run(one) for one in asked] == here


async def open_engine(server: Running) -> Engine:
    """The engine as poolmgr asks it."""
    path = server.socket
    services: dict[Service, Target] = {"metrics": Target.unix(path.with_name("e.sock.metrics"))}
    if server.name == "triton-grpc":
        services["grpc"] = Target.unix(path.with_name("e.sock:2"))
    return Engine(Target.unix(path), server.adapter, 1, services=services)


@pytest.mark.req("ORCH-3600", "ORCH-3610")
async def test_poolmgr_asks_it_the_same_way(server: Running) -> None:
    engine = await open_engine(server)
    assert (await engine.probe())[0] is Load.SERVING
    assert await engine.changed(await engine.props()) is None
    await engine.try_out(Workload.COMPLETION)
    assert await engine.kv_ratio() is None, "this model has none; its metrics are asked"
    asked = job("one two three", max_tokens=60, seed=3)
    text, tokens_in, tokens_out = server.whole(asked)
    call = server.adapter.submit(asked)
    reader = server.adapter.reader(asked, 200)
    texts: list[str] = []
    async with engine.client.open(
        call.method, call.path, call.body, headers=dict(call.headers)
    ) as body:
        assert body.status == 200
        while data := await body.read_some():
            for event in reader.feed(data):
                if isinstance(event, Pieces):
                    texts += event.texts
                else:
                    assert event == Finished(
                        tokens_in=tokens_in,
                        tokens_out=tokens_out,
                        finish_reason=FinishReason.LENGTH,
                    )
    assert "".join(texts) == text
    engine.close()


@pytest.mark.req("OC-ADAPT-5011", "ORCH-3057")
async def test_leaving_cancels(server: Running) -> None:
    engine = await open_engine(server)
    call = server.adapter.submit(job(max_tokens=15000, seed=10))
    for _ in range(5):
        async with engine.client.open(
            call.method, call.path, call.body, headers=dict(call.headers)
        ) as body:
            assert await body.read_some()
            assert server.busy()
        with trio.fail_after(5):
            while server.busy():
                await trio.sleep(0.002)
    engine.close()


async def test_a_metrics_page_that_nobody_serves_is_no_fault(tmp_path: Path) -> None:
    other: dict[Service, Target] = {"metrics": Target.unix(tmp_path / "nobody")}
    engine = Engine(Target.unix(tmp_path / "e"), adapter(pool("triton")), 1, services=other)
    assert await engine.kv_ratio() is None
    with pytest.raises(PeerError):
        await engine.probe()
    engine.close()
