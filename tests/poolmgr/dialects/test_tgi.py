"""TGI's dialect against answers written from its published API: no server of it was ever asked."""

import json
from pathlib import Path

import orjson
import pytest

from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import TaskId
from orchd.wire.shapes import FinishReason
from poolmgr.dialects.exchange import Broken, Finished, Job, Load, Pieces, Props, Reply, Usage
from poolmgr.dialects.tgi import TgiServer

FOLDER = Path(__file__).resolve().parents[3] / "contracts/dialects/tgi"
INDEX = json.loads((FOLDER / "index.json").read_text())
TASK = TaskId("00000000-0000-4000-8000-000000000001")
TGI = TgiServer(profile="v1")


def job(max_tokens=4, **more):
    return Job(task_id=TASK, prompt="Hello", max_tokens=max_tokens, **more)


def golden(name):
    return (FOLDER / f"{name}.txt").read_bytes()


def read(name, max_tokens=4, cut=None):
    data, reader = golden(name), TGI.reader(job(max_tokens), INDEX[name]["status"])
    cut = cut or len(data)
    events = [e for at in range(0, len(data), cut) for e in reader.feed(data[at : at + cut])]
    events += reader.eof()
    assert reader.eof() == [] == reader.feed(b"data:{}\n\n"), "nothing follows"
    texts = [text for event in events if isinstance(event, Pieces) for text in event.texts]
    return "".join(texts), events[-1]


@pytest.mark.req("ORCH-3056", "OC-ADAPT-5040", "ORCH-3274")
@pytest.mark.parametrize("cut", [None, 1, 9])
@pytest.mark.parametrize(
    ("name", "text", "count", "reason"),
    [
        ("limit", " What is- \u8a00\u8449", 4, FinishReason.LENGTH),
        ("eos", " Hi", 2, FinishReason.STOP),
        ("stopword", " Hi.", 2, FinishReason.STOP),
    ],
)
def test_a_stream_is_read_and_truly_counted(name, text, count, reason, cut):
    got, end = read(name, cut=cut)
    assert got == text
    assert end == Finished(tokens_in=6, tokens_out=count, finish_reason=reason)


@pytest.mark.req("ORCH-3276", "ORCH-3016", "OC-ADAPT-5040")
@pytest.mark.parametrize(
    ("name", "text", "kind", "path"),
    [
        ("full", " Hi.", Kind.INVALID_PARAMS, "$.max_tokens"),
        ("error200", "", Kind.INVALID_PARAMS, "$.max_tokens"),
        ("validation", "", Kind.INVALID_PARAMS, "$.prompt"),
        ("late", " Hi", Kind.WORKER_RESET, None),
        ("cut", " Hi", Kind.ENGINE_DIED, None),
        ("overloaded", "", Kind.REPLICA_EXHAUSTED, None),
    ],
)
@pytest.mark.parametrize("cut", [None, 1])
def test_every_fault_is_one_of_ours(name, text, kind, path, cut):
    got, end = read(name, cut=cut)
    assert got == text
    assert isinstance(end, Broken)
    assert (end.error.kind, end.error.fields.path) == (kind, path)


@pytest.mark.parametrize(
    "data",
    [
        b"data:[1]\n\n",
        b"data: [DONE]\n\n",
        b"<html>\n\n",
        b'data:{"token":{"text":1}}\n\n',
        b'data:{"token":{"text":"a"},"details":{"finish_reason":"length"}}\n\n',
        b'data:{"token":{"text":"a"},"details":{"finish_reason":"odd","generated_tokens":1,'
        b'"input_length":1}}\n\n',
    ],
)
def test_what_tgi_does_not_send_is_its_fault(data):
    events = TGI.reader(job(), 200).feed(data)
    assert isinstance(events[-1], Broken)
    assert events[-1].error.kind is Kind.ENGINE_PROTOCOL


@pytest.mark.req("ORCH-3056", "OC-ADAPT-5050")
def test_info_health_metrics_and_tokens():
    (call,) = TGI.props()
    assert (call.method, call.path) == ("GET", "/info")
    assert TGI.read_props([Reply(200, golden("info"))]) == Props(
        engine_version="3.3.6-b5e2a1c", slots=128, ctx_max=512,
        model_digest="git:0123456789abcdef0123456789abcdef01234567",
    )  # fmt: skip
    assert TGI.load_state(503, golden("notready"))[0] is Load.LOADING
    assert TGI.load_state(200, b"")[0] is Load.SERVING
    assert TGI.load_state(500, b"")[0] is Load.BROKEN
    assert TGI.read_usage(golden("metrics")) == Usage(slots_active=3, kv_cache_usage_ratio=None)
    assert TGI.read_tokenize(200, golden("tokenize")) == (1, 9906)
    for status, body in ((200, b"{}"), (200, b'[{"id":"1"}]'), (200, b""), (404, b"")):
        with pytest.raises(OrchError):
            TGI.read_tokenize(status, body)
    for reply in (Reply(200, b"{}"), Reply(200, b"x"), Reply(503, golden("notready"))):
        with pytest.raises(OrchError):
            TGI.read_props([reply])
    with pytest.raises(OrchError):
        TGI.read_usage(b"")


@pytest.mark.req("ORCH-3056", "ORCH-3277")
def test_a_request_says_the_job_and_nothing_else():
    call = TGI.submit(job(seed=2**63 + 7))
    assert (call.method, call.path) == ("POST", "/generate_stream")
    assert orjson.loads(call.body) == {
        "inputs": "Hello", "stream": True,
        "parameters": {
            "max_new_tokens": 4, "do_sample": True, "details": True, "return_full_text": False,
            "truncate": None, "temperature": 0.8, "top_k": 40, "top_p": 0.95, "seed": 7,
        },
    }  # fmt: skip
    assert "seed" not in orjson.loads(TGI.submit(job(strict=False)).body)["parameters"]
    for prompt in (None, "\ud800"):
        with pytest.raises(OrchError):
            TGI.submit(Job(task_id=TASK, prompt=prompt, max_tokens=1))
