"""llama-server's vectors and scores: what real servers answered, and what they must not answer."""

from __future__ import annotations

import base64
import math
import struct
from pathlib import Path
from typing import Any

import orjson
import pytest

from orchd.wire import results
from orchd.wire.errors import Kind
from orchd.wire.ids import TaskId
from orchd.wire.shapes import FinishReason, Workload
from poolmgr.dialects.exchange import Broken, Finished, Job
from poolmgr.dialects.llama_vectors import refusal
from poolmgr.dialects.vectors import MAX_BODY, VectorsReader

FOLDER = Path(__file__).resolve().parents[3] / "contracts/dialects/llama"
TASK = TaskId("00000000-0000-4000-8000-000000000001")
EMBED = Job(task_id=TASK, workload=Workload.EMBEDDING, inputs=("a", "", "b"), max_tokens=1)
RANK = Job(task_id=TASK, workload=Workload.RERANK, inputs=("q", "a", "b", "c"), max_tokens=1)
BUILDS = ("debian", "wheel")


def read(job: Job, body: bytes, status: int = 200, cut: int | None = None) -> Finished | Broken:
    reader, size = VectorsReader(job, status, refusal), cut or max(1, len(body))
    for at in range(0, len(body), size):
        assert reader.feed(body[at : at + size]) == []
    (end,) = reader.eof()
    assert reader.eof() == [] == reader.feed(b"more"), "nothing follows"
    assert isinstance(end, Finished | Broken)
    return end


def packed(*numbers: float) -> str:
    return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()


def answer(*rows: tuple[int, Any], tokens: Any = 7, name: str = "embedding") -> bytes:
    rank = name == "relevance_score"
    listed = [{"index": index, name: value} for index, value in rows]
    return orjson.dumps({"usage": {"prompt_tokens": tokens}, "results" if rank else "data": listed})


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("cut", [None, 1, 100])
def test_vectors_of_a_real_server(build: str, cut: int | None) -> None:
    end = read(EMBED, (FOLDER / f"embedding.{build}.txt").read_bytes(), cut=cut)
    assert isinstance(end, Finished)
    assert (end.tokens_out, end.finish_reason) == (0, FinishReason.STOP)
    assert end.tokens_in > 3
    assert end.result is not None
    said = orjson.loads(end.result)
    assert said["dimension"] == 64
    assert [len(vector) for vector in said["embeddings"]] == [64, 64, 64]
    assert all(math.isclose(math.hypot(*v), 1, rel_tol=1e-3) for v in said["embeddings"])


@pytest.mark.parametrize("build", BUILDS)
def test_scores_of_a_real_server(build: str) -> None:
    end = read(RANK, (FOLDER / f"rerank.{build}.txt").read_bytes())
    assert isinstance(end, Finished)
    assert end.result is not None
    ranking = orjson.loads(end.result)["ranking"]
    assert {row["index"] for row in ranking} == {0, 1, 2}
    assert [row["score"] for row in ranking] == sorted(
        (row["score"] for row in ranking), reverse=True
    )


def test_vectors_are_put_into_the_order_of_the_inputs() -> None:
    end = read(EMBED, answer((2, packed(3)), (0, packed(1)), (1, packed(2))))
    assert isinstance(end, Finished)
    assert end.result == b'{"dimension":1,"embeddings":[[1.0],[2.0],[3.0]]}'
    assert end.tokens_in == 7


def test_the_earlier_of_equal_documents_is_first() -> None:
    end = read(RANK, answer((2, 0.5), (1, 1), (0, 0.5), name="relevance_score"))
    assert isinstance(end, Finished)
    assert end.result == (
        b'{"ranking":[{"index":1,"score":1.0},{"index":0,"score":0.5},{"index":2,"score":0.5}]}'
    )


THREE = ((0, packed(1, 2)), (1, packed(1, 2)))


@pytest.mark.req("ORCH-3276")
@pytest.mark.parametrize(
    ("job", "body"),
    [
        (EMBED, b""),
        (EMBED, b"garbage"),
        (EMBED, b"[]"),
        (EMBED, b'{"garbage":1}'),
        (EMBED, answer(*THREE)),
        (EMBED, answer(*THREE, (1, packed(1, 2)))),
        (EMBED, answer(*THREE, ("2", packed(1, 2)))),  # type: ignore[arg-type]
        (EMBED, answer(*THREE, (2, packed(1)))),
        (EMBED, answer(*((n, packed()) for n in range(3)))),
        (EMBED, answer(*THREE, (2, [1, "2"]))),
        (EMBED, answer(*THREE, (2, "AAA="))),
        (EMBED, answer(*THREE, (2, packed(1, math.nan)))),
        (EMBED, answer(*THREE, (2, packed(1, math.inf)))),
        (EMBED, answer(*THREE, (2, packed(1, 2)), tokens="7")),
        (EMBED, answer(*THREE, (2, packed(1, 2)), tokens=-1)),
        (RANK, answer((0, 1), (1, 1), (2, None), name="relevance_score")),
        (RANK, answer((0, 1), (1, 1), name="relevance_score")),
    ],
)
def test_what_is_no_result_is_the_engines_fault(job: Job, body: bytes) -> None:
    end = read(job, body)
    assert isinstance(end, Broken)
    assert end.error.kind is Kind.ENGINE_PROTOCOL


def test_an_answer_without_end_is_not_kept() -> None:
    reader = VectorsReader(EMBED, 200, refusal)
    events = [reader.feed(b"x" * (1 << 20)) for _ in range(MAX_BODY // (1 << 20) + 1)]
    (end,) = next(event for event in events if event)
    assert isinstance(end, Broken)
    assert end.error.kind is Kind.ENGINE_PROTOCOL


def test_more_numbers_than_a_task_gives_back_are_refused() -> None:
    half = packed(*[0.5] * (results.MAX_NUMBERS // 2))
    end = read(EMBED, answer(*((n, half) for n in range(3))))
    assert isinstance(end, Broken)
    assert (end.error.kind, end.error.fields.path) == (Kind.INVALID_PARAMS, "$.inputs")


def test_the_largest_result_fits_its_bound() -> None:
    worst = -1.1754943508222875e-38  # the longest f32 as decimal digits
    numbers = [worst] * results.MAX_NUMBERS
    assert len(results.embeddings([numbers])) <= results.MAX_RESULT_BYTES


@pytest.mark.req("ORCH-3276")
@pytest.mark.parametrize(
    ("status", "said", "kind", "path"),
    [
        (500, "input (602 tokens) is too large to process", Kind.INVALID_PARAMS, "$.inputs"),
        (500, "out of memory", Kind.WORKER_RESET, None),
        (503, "Loading model", Kind.POOL_UNREADY, None),
        (400, '"input" must not be empty', Kind.INVALID_PARAMS, "$.inputs"),
        (400, "Pooling type 'none' is not OAI compatible", Kind.CONFIG_INVALID, None),
        (501, "Start it with `--reranking`", Kind.CONFIG_INVALID, None),
    ],
)
def test_a_refusal_is_one_of_ours(status: int, said: str, kind: Kind, path: str | None) -> None:
    types = {500: "server_error", 503: "unavailable_error", 501: "not_supported_error"}
    fault = {"code": status, "message": said, "type": types.get(status, "invalid_request_error")}
    end = read(EMBED, orjson.dumps({"error": fault}), status)
    assert isinstance(end, Broken)
    assert (end.error.kind, end.error.fields.path) == (kind, path)
