"""Triton's two dialects against what a real server answered, and against what it must not."""

import json
import struct
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import TaskId
from orchd.wire.shapes import FinishReason
from poolmgr.dialects import protobuf, triton_grpc
from poolmgr.dialects.exchange import Broken, Finished, Job, Load, Pieces, Reply, Usage
from poolmgr.dialects.triton_server import TritonServer

FOLDER = Path(__file__).resolve().parents[3] / "contracts/dialects/triton"
INDEX = json.loads((FOLDER / "index.json").read_text())
TASK = TaskId("00000000-0000-4000-8000-000000000001")
WAYS = {"triton": TritonServer("tinyllm", grpc=False, profile="v1"),
        "triton-grpc": TritonServer("tinyllm", grpc=True, profile="v1")}  # fmt: skip


def golden(name):
    return (FOLDER / f"{name}.bin").read_bytes()


CONFIG = [Reply(200, golden("server.triton")), Reply(200, golden("config.triton"))]
for server in WAYS.values():
    server.read_props(CONFIG)


def job(max_tokens=12, prompt="Hello", **more):
    return Job(task_id=TASK, prompt=prompt, max_tokens=max_tokens, **more)


def read(way, data, max_tokens=12, cut=None, status=200):
    reader = WAYS[way].reader(job(max_tokens), status)
    cut = cut or max(1, len(data))
    events = [e for at in range(0, len(data), cut) for e in reader.feed(data[at : at + cut])]
    events += reader.eof()
    assert reader.eof() == [] == reader.feed(b"\0\0\0\0\1a"), "nothing follows"
    texts = [text for event in events if isinstance(event, Pieces) for text in event.texts]
    assert all(texts)
    return "".join(texts), events[-1]


@pytest.mark.req("ORCH-3057", "OC-ADAPT-5060", "OC-ADAPT-5070", "ORCH-3274", "ADAPT-3101")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("cut", [None, 1, 7, 100])
def test_a_recorded_stream_is_read_whole_and_cut_anywhere(way, cut):
    text, end = read(way, golden(f"limit.{way}"), cut=cut)
    assert text == "zgnubipwdkry"
    assert end == Finished(tokens_in=3, tokens_out=12, finish_reason=FinishReason.LENGTH)
    text, end = read(way, golden(f"stop.{way}"), max_tokens=60, cut=cut)
    assert len(text) == 40
    assert end == Finished(tokens_in=3, tokens_out=40, finish_reason=FinishReason.STOP)


@pytest.mark.req("ORCH-3276", "ORCH-3057")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("cut", [None, 1])
@pytest.mark.parametrize(
    ("name", "text", "words"),
    [("boom", "", "bad prompt"), ("late", "mt", "late failure"), ("toolong", "", "exceeds")],
)
def test_a_recorded_failure_is_one_of_ours(way, name, text, words, cut):
    got, end = read(way, golden(f"{name}.{way}"), cut=cut, status=INDEX[f"{name}.{way}"]["status"])
    assert got == text
    assert isinstance(end, Broken)
    assert words in end.error.message
    told = name == "toolong" or (name == "boom" and way == "triton")
    assert end.error.kind is (Kind.INVALID_PARAMS if told else Kind.WORKER_RESET)
    assert end.error.fields.path == ("$.prompt" if told else None)


def answer(*outputs, error=b""):
    """One message of a stream: (name, type, raw bytes) each."""
    inner = b"".join(
        protobuf.data(5, protobuf.data(1, name) + protobuf.data(2, kind) + protobuf.data(3, b"\1"))
        for name, kind, _ in outputs
    ) + b"".join(protobuf.data(6, raw) for _, _, raw in outputs)
    message = protobuf.data(2, inner)
    return triton_grpc.frame(0, (protobuf.data(1, error) if error else b"") + message)


def text(data):
    return (b"text_output", b"BYTES", struct.pack("<I", len(data)) + data)


DONE = triton_grpc.frame(0x80, b"grpc-status: 0\r\ngrpc-message: \r\n")


@pytest.mark.req("ORCH-3274")
def test_a_character_may_be_cut_between_answers():
    data = "\U0001f30d\u8a00".encode()
    stream = b"".join(answer(text(data[at : at + 2])) for at in range(0, len(data), 2)) + DONE
    got, end = read("triton-grpc", stream)
    assert got == "\U0001f30d\u8a00"
    assert isinstance(end, Finished)
    assert end.tokens_out == 4, "each answer is a token where the model counts none"
    got, _ = read("triton-grpc", answer(text(b"a\xffb")) + DONE)
    assert got == "a\ufffdb"


@pytest.mark.parametrize(
    ("outputs", "count"),
    [
        ([(b"token_ids", b"INT32", struct.pack("<3i", 1, 2, 3))], 3),
        ([(b"num_output_tokens", b"UINT32", struct.pack("<I", 5))], 5),
        ([(b"logprobs", b"FP16", b"\0\0")], 1),
    ],
)
def test_tokens_are_counted_as_the_model_tells(outputs, count):
    _, end = read("triton-grpc", answer(text(b"abc"), *outputs) + DONE)
    assert isinstance(end, Finished)
    assert (end.tokens_in, end.tokens_out) == (0, count)


@pytest.mark.req("ORCH-3276")
@pytest.mark.parametrize(
    ("data", "kind", "words"),
    [
        (b"", Kind.ENGINE_DIED, "broke off"),
        (answer(text(b"a")), Kind.ENGINE_DIED, "broke off"),
        (b"HTTP/1.1 400", Kind.ENGINE_PROTOCOL, "no gRPC message"),
        (struct.pack(">BI", 0, 1 << 30), Kind.ENGINE_PROTOCOL, "no gRPC message"),
        (triton_grpc.frame(0, b"\xff\xff\xff"), Kind.ENGINE_PROTOCOL, "none of a model of text"),
        (answer((b"text_output", b"BYTES", b"\x09\0\0\0a")), Kind.ENGINE_PROTOCOL, "none of"),
        (triton_grpc.frame(0x80, b"x: y"), Kind.ENGINE_PROTOCOL, "without a gRPC status"),
        (triton_grpc.frame(0x80, b"grpc-status: 14\r\ngrpc-message: gone"), Kind.POOL_UNREADY,
         "gone"),
        (triton_grpc.frame(0x80, b"grpc-status: 5"), Kind.CONFIG_INVALID, "no message"),
        (answer(error=b"Exceeds maximum queue size"), Kind.REPLICA_EXHAUSTED, "queue"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("cut", [None, 1])
def test_what_is_no_answer_is_the_engines_fault(data, kind, words, cut):
    _, end = read("triton-grpc", data, cut=cut)
    assert isinstance(end, Broken)
    assert end.error.kind is kind
    assert words in end.error.message


@pytest.mark.req("ORCH-3276")
@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (404, golden("nomodel.triton"), Kind.CONFIG_INVALID),
        (500, golden("badjson.triton"), Kind.WORKER_RESET),
        (501, b"", Kind.CONFIG_INVALID),
        (503, b'{"error":"Exceeds maximum queue size"}', Kind.REPLICA_EXHAUSTED),
        (503, b"<html>", Kind.POOL_UNREADY),
        (418, b"", Kind.ENGINE_PROTOCOL),
    ],
)
def test_every_status_is_one_of_ours(status, body, kind):
    _, end = read("triton", body, status=status)
    assert isinstance(end, Broken)
    assert end.error.kind is kind


@pytest.mark.parametrize(
    "data", [b"data: [DONE]\n\n", b"data: [1]\n\n", b'data: {"text_output":5}\n\n', b"<html>\n\n"]
)
def test_http_events_that_are_none(data):
    _, end = read("triton", data)
    assert isinstance(end, Broken)
    assert end.error.kind is Kind.ENGINE_PROTOCOL


@pytest.mark.req("ORCH-3057", "OC-ADAPT-5060")
def test_a_request_has_what_the_model_takes_and_nothing_else():
    call = WAYS["triton"].submit(job(seed=2**31 + 4))
    assert call.path == "/v2/models/tinyllm/generate_stream"
    asked = {
        "text_input": "Hello", "max_tokens": 12, "temperature": 0.8, "seed": 5, "stream": True,
        "return_num_input_tokens": True, "return_num_output_tokens": True,
    }  # fmt: skip
    assert orjson.loads(call.body) == asked
    call = WAYS["triton-grpc"].submit(job(seed=5))
    assert (call.path, call.service) == (triton_grpc.PATH, "grpc")
    flags, size = struct.unpack_from(">BI", call.body)
    assert (flags, size) == (0, len(call.body) - 5)
    fields = list(protobuf.fields(call.body[5:]))
    tensors = [value for number, _, value in fields if number == 5 and isinstance(value, bytes)]
    names = [next(protobuf.fields(tensor))[2] for tensor in tensors]
    assert names == [name.encode() for name in asked]
    for way in WAYS.values():
        with pytest.raises(OrchError) as caught:
            way.submit(job(prompt="\ud800"))
        assert caught.value.fields.path == "$.prompt"


def test_vllms_backend_takes_its_sampling_as_one_text():
    server = TritonServer("v", grpc=False, profile="v1")
    with pytest.raises(OrchError) as caught:
        server.submit(job())
    assert caught.value.kind is Kind.POOL_UNREADY, "not before it told what it takes"
    rows = [{"name": name, "data_type": kind} for name, kind in (
        ("text_input", "TYPE_STRING"), ("stream", "TYPE_BOOL"),
        ("sampling_parameters", "TYPE_STRING"), ("exclude_input_in_output", "TYPE_BOOL"),
        ("return_finish_reason", "TYPE_BOOL"),
    )]  # fmt: skip
    config = {"input": rows, "output": [{"name": "text_output"}], "max_batch_size": 8}
    props = server.read_props([CONFIG[0], Reply(200, orjson.dumps(config))])
    assert (props.engine_version, props.model_digest) == ("2.51.0", None)
    asked = orjson.loads(server.submit(job(seed=3)).body)
    assert orjson.loads(asked.pop("sampling_parameters")) == {
        "max_tokens": 12, "temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05, "seed": 3,
    }  # fmt: skip
    assert asked == {
        "text_input": "Hello", "stream": True, "exclude_input_in_output": True,
        "return_finish_reason": True,
    }  # fmt: skip
    del rows[2]
    server.read_props([CONFIG[0], Reply(200, orjson.dumps(config))])
    with pytest.raises(OrchError) as caught:
        server.submit(job())
    assert "cannot be told how much" in caught.value.message
    rows[0]["data_type"] = "TYPE_INT32"
    for replies in (
        [CONFIG[0], Reply(200, orjson.dumps(config))],
        [Reply(200, b"{}"), CONFIG[1]],
        [CONFIG[0], Reply(404, golden("nomodel.triton"))],
    ):
        with pytest.raises(OrchError):
            server.read_props(replies)


@pytest.mark.req("ORCH-3057", "ORCH-3274")
def test_a_model_that_repeats_its_text_with_each_token_is_refused():
    """TensorRT-LLM's `accumulate_tokens`: its answers could not be told from new ones."""
    rows = [{"name": "text_input", "data_type": "TYPE_STRING"}]
    config: dict[str, object] = {"input": rows, "output": [{"name": "text_output"}]}
    for said, good in (("true", False), ("false", True), ("${accumulate_tokens}", True)):
        config["parameters"] = {"accumulate_tokens": {"string_value": said}}
        replies = [CONFIG[0], Reply(200, orjson.dumps(config))]
        server = TritonServer("tensorrt_llm_bls", grpc=False, profile="v1")
        if good:
            server.read_props(replies)
            continue
        with pytest.raises(OrchError) as caught:
            server.read_props(replies)
        assert caught.value.kind is Kind.CONFIG_INVALID
        assert "accumulate_tokens to false" in caught.value.message


@pytest.mark.req("ORCH-3057", "OC-ADAPT-5070")
def test_health_and_metrics():
    server = WAYS["triton"]
    assert server.load_state(200, b"")[0] is Load.SERVING
    assert server.load_state(400, b"")[0] is Load.LOADING
    assert server.load_state(500, b"")[0] is Load.BROKEN
    page = b'nv_inference_pending_request_count{model="a"} 2\nnv_inference_count{model="a"} 9\n'
    assert server.read_usage(page) == Usage(slots_active=2, kv_cache_usage_ratio=None)
    page += b"""nv_trt_llm_request_metrics{model="a",request_type="active",version="1"} 3
nv_trt_llm_request_metrics{model="a",request_type="max",version="1"} 512
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="fraction",model="a",version="1"} 0.25
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="max",model="a",version="1"} 4000
nv_gpu_utilization NaN
"""
    assert server.read_usage(page) == Usage(slots_active=3, kv_cache_usage_ratio=0.25)
    with pytest.raises(OrchError):
        server.read_usage(b"nothing 1\n")


@given(values=st.lists(st.tuples(st.integers(1, 9), st.integers(0, 2**64 - 1) | st.binary())))
def test_protobuf_reads_what_it_writes(values):
    message = b"".join(
        protobuf.number(field, value) if isinstance(value, int) else protobuf.data(field, value)
        for field, value in values
    )
    assert [(field, value) for field, _, value in protobuf.fields(message)] == values


@given(data=st.binary(max_size=40))
def test_protobuf_never_reads_past_its_end(data):
    try:
        found = list(protobuf.fields(data))
    except protobuf.BadMessage:
        return
    assert sum(len(value) for _, _, value in found if isinstance(value, bytes)) <= len(data)
