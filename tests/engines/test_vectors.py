"""Embedding and rerank: the same cases for the mock engine, two builds of llama.cpp, and vLLM.

The weights are noise, so scores mean nothing; that they come, for each document, in what form, and
the same again, is what is proven of rerank. vLLM is opt-in: `make test-vllm`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from orchd.wire.errors import Kind
from orchd.wire.shapes import Workload
from poolmgr.engines.base import Broken, Finished, Job
from tests.engines import servers
from tests.engines.servers import Running, UnixConnection, job, running, until

pytestmark = [
    pytest.mark.engine,
    pytest.mark.timeout(300),
    pytest.mark.req("ADAPT-API", "ORCH-3054"),
]
EVERY = (*servers.ALL, "vllm")
CTX = 512
MEAN = ("--pooling", "mean")  # the model names none


@contextmanager
def serving(name: str, folder: Path, workload: Workload, **more: Any) -> Iterator[Running]:
    args = MEAN if workload is Workload.EMBEDDING and name in servers.REAL else ()
    with running(name, folder, ctx=CTX, workloads=(workload,), args=args, **more) as it:
        yield it


@pytest.fixture(scope="module", params=EVERY)
def embedder(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    with serving(request.param, tmp_path_factory.mktemp("e"), Workload.EMBEDDING) as it:
        yield it


@pytest.fixture(scope="module", params=EVERY)
def ranker(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    with serving(request.param, tmp_path_factory.mktemp("r"), Workload.RERANK) as it:
        yield it


def embed(*inputs: str) -> Job:
    return job(workload=Workload.EMBEDDING, inputs=inputs)


def rank(*inputs: str) -> Job:
    return job(workload=Workload.RERANK, inputs=inputs)


def result(server: Running, asked: Job) -> tuple[Finished, Any]:
    end = server.run(asked).end
    assert isinstance(end, Finished), end
    assert end.result is not None
    return end, orjson.loads(end.result)


def tokens(server: Running, text: str) -> int:
    call = server.adapter.tokenize(text)
    assert call is not None
    return len(server.adapter.read_tokenize(*server.ask(call.method, call.path, call.body)))


def test_each_text_has_its_vector_in_order(embedder: Running) -> None:
    texts = ("the ring", "", "na\u00efve \U0001f30d", "the ring")
    end, said = result(embedder, embed(*texts))
    vectors = said["embeddings"]
    assert [len(vector) for vector in vectors] == [said["dimension"]] * 4
    assert vectors[0] == vectors[3] != vectors[2]
    assert all(math.isclose(math.hypot(*vector), 1.0, rel_tol=1e-3) for vector in vectors)
    alone = [result(embedder, embed(text))[1]["embeddings"][0] for text in texts]
    for one, beside in zip(alone, vectors, strict=True):
        # what stands beside a text does not change its vector; vLLM's batches round otherwise
        assert one == (pytest.approx(beside, abs=1e-5) if embedder.name == "vllm" else beside)
    assert end.tokens_in == sum(tokens(embedder, text) for text in texts)
    assert end.tokens_out == 0


def test_each_document_has_its_score_and_the_best_is_first(ranker: Running) -> None:
    end, said = result(ranker, rank("the ring", "a thing", "the ring", ""))
    ranking = said["ranking"]
    assert sorted(row["index"] for row in ranking) == [0, 1, 2]
    scores = [row["score"] for row in ranking]
    assert scores == sorted(scores, reverse=True)
    assert end.tokens_in > 0
    assert result(ranker, rank("the ring", "a thing", "the ring", ""))[1] == said


def test_a_text_may_fill_the_context_and_not_more(embedder: Running) -> None:
    """512 is the micro-batch that llama.cpp would have: ctx decides [ORCH-3016]."""
    word = "the "
    longest = word * (CTX // tokens(embedder, word * 8) * 8 - 8)
    assert isinstance(embedder.run(embed("a", longest)).end, Finished)
    end = embedder.run(embed("a", word * 3000)).end
    assert isinstance(end, Broken)
    assert (end.error.kind, end.error.fields.path) == (Kind.INVALID_PARAMS, "$.inputs")
    assert isinstance(embedder.run(embed("a")).end, Finished), "and it goes on serving"


def test_a_pair_over_the_context_is_refused(ranker: Running) -> None:
    end = ranker.run(rank("the " * 400, "a", "the " * 400)).end
    assert isinstance(end, Broken)
    assert (end.error.kind, end.error.fields.path) == (Kind.INVALID_PARAMS, "$.inputs")
    assert isinstance(ranker.run(rank("a", "b")).end, Finished)


@pytest.mark.parametrize("server", servers.REAL)
def test_a_model_without_pooling_is_said_to_need_some(server: str, tmp_path: Path) -> None:
    with running(server, tmp_path, ctx=CTX, workloads=(Workload.EMBEDDING,)) as it:
        end = it.run(embed("a")).end
    assert isinstance(end, Broken)
    assert end.error.kind is Kind.CONFIG_INVALID
    assert "--pooling" in end.error.message


@pytest.mark.req("OC-ADAPT-5011")
@pytest.mark.parametrize("server", servers.ALL)
def test_leaving_frees_the_slot(server: str, tmp_path: Path) -> None:
    """A real server ends the texts that it has begun; llama.cpp looks once a second."""
    with serving(server, tmp_path, Workload.EMBEDDING) as it:
        call = it.adapter.submit(embed(*["the ring of the thing " * 60] * 200))
        connection = UnixConnection(it.socket)
        connection.request(call.method, call.path, call.body, dict(call.headers))
        time.sleep(0.05)
        connection.close()
        until(lambda: not it.busy(), 5.0)
        assert isinstance(it.run(embed("a")).end, Finished)
