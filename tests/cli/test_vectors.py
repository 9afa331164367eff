"""orchctl embed and rerank: what is asked, and what is printed of the result."""

from __future__ import annotations

import orjson

from orchd.kit.http import json_response
from orchd.wire import codec, sse
from orchd.wire.control import Capabilities
from orchd.wire.errors import TABLE, Kind
from orchd.wire.shapes import TaskRequest, Workload
from tests.cli.peer import STARTED, capabilities, capability, stream

NUMBERS = [0.25] * 300_000  # over a megabyte as JSON


def serving(peer, result):
    both = capability("mock:vectors", Workload.EMBEDDING, Workload.RERANK)
    engines = (*capabilities("mock:lorem").engines, both)
    found = Capabilities(api_version="1.0.0", engines=engines)
    peer.say("GET", "/v1/capabilities", json_response(found))
    data: dict[str, object] = {"tokens_out": 0, "tokens_in": 5, "decode_time_ms": 7, "decode_ms": 7}
    data |= {"finish_reason": "stop", **result}
    peer.say("GET", "stream", stream(STARTED, sse.frame(2, "end", orjson.dumps(data))))


def test_embed_prints_a_vector_a_line(peer, orchctl):
    vectors = [[0.5, -1.0], NUMBERS]
    serving(peer, {"result": {"dimension": 2, "embeddings": vectors}})
    ran = orchctl("embed", "--url", peer.url, "one", "two")
    assert ran.code == 0
    assert [orjson.loads(line) for line in ran.out.splitlines()] == vectors
    assert "5 tokens read in 7 ms (stop)" in ran.err
    body = codec.loads(TaskRequest, peer.asked("/v1/tasks")[0].body)
    assert (body.workload, body.inputs, body.prompt) == ("embedding", ("one", "two"), None)
    assert (body.model_ref, body.ctx, body.max_tokens) == ("mock:vectors", 4000, 1)


def test_rerank_prints_the_documents_by_their_scores(peer, orchctl):
    ranking = [{"index": 1, "score": 0.75}, {"index": 0, "score": -2.0}]
    serving(peer, {"result": {"ranking": ranking}})
    ran = orchctl("rerank", "--url", peer.url, "what?", "a\nfirst \x1b[31m", "second")
    assert (ran.code, ran.out.splitlines()[0]) == (0, "0.75\tsecond")
    assert ran.out.splitlines()[1].startswith("-2\ta first")
    assert "\x1b" not in ran.out
    body = codec.loads(TaskRequest, peer.asked("/v1/tasks")[0].body)
    documents = ("a\nfirst \x1b[31m", "second")
    assert (body.workload, body.inputs) == ("rerank", ("what?", *documents))


def test_json_prints_the_frames(peer, orchctl):
    serving(peer, {"result": {"ranking": []}})
    ran = orchctl("rerank", "--json", "--url", peer.url, "q", "d")
    events = [orjson.loads(line) for line in ran.out.splitlines()]
    assert [event["event"] for event in events] == ["accepted", "started", "end"]
    assert events[-1]["data"]["result"] == {"ranking": []}


def test_a_result_that_is_none_is_an_error(peer, orchctl):
    serving(peer, {})
    assert orchctl("embed", "--url", peer.url, "a").code == TABLE[Kind.ENGINE_PROTOCOL].exit_code


def test_nothing_that_serves_embeddings_is_said(peer, orchctl):
    ran = orchctl("embed", "--url", peer.url, "a")
    assert ran.code != 0
    assert "nothing that is ready serves embeddings" in ran.err
