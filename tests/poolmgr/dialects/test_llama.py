"""The llama-server dialect against what real servers answered, and against what they must not."""

import json
import random
import tracemalloc
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import TaskId
from orchd.wire.shapes import FinishReason
from poolmgr.dialects import llama
from poolmgr.dialects.exchange import Broken, Finished, Job, Pieces
from poolmgr.dialects.llama_errors import http_error
from poolmgr.dialects.refused import ErrorReader
from poolmgr.mockengine import frames
from poolmgr.mockengine.text import voice

FOLDER = Path(__file__).resolve().parents[3] / "contracts/dialects/llama"
INDEX = json.loads((FOLDER / "index.json").read_text())
TASK = TaskId("00000000-0000-4000-8000-000000000001")
STREAMS = sorted(
    name
    for name, about in INDEX.items()
    if about.get("status") == 200
    and not name.startswith(("props", "health", "embedding", "rerank"))
)
GOOD = [name for name in STREAMS if not name.startswith("full")]


def job(max_tokens=12, **more):
    return Job(task_id=TASK, prompt="Hello there", max_tokens=max_tokens, **more)


def golden(name):
    return (FOLDER / f"{name}.txt").read_bytes()


def seen(events):
    """(text, what ended it): how the pieces fall into events is free."""
    texts = [text for event in events if isinstance(event, Pieces) for text in event.texts]
    ends = [event for event in events if not isinstance(event, Pieces)]
    assert all(texts), "a piece without text"
    assert all(event.texts for event in events if isinstance(event, Pieces))
    assert len(ends) <= 1
    assert not ends or events[-1] is ends[0]
    return "".join(texts), texts, ends[0] if ends else None


def read(data, max_tokens=12, cut=None):
    reader = llama.StreamReader(job(max_tokens))
    cut = cut or max(1, len(data))
    pieces = [data[at : at + cut] for at in range(0, len(data), cut)]
    events = [event for piece in pieces for event in reader.feed(piece)]
    return seen(events + reader.eof())


def plainly(data):
    """The texts and the last frame, read without any of our code."""
    values = [json.loads(line[6:]) for line in data.decode().splitlines() if line]
    return "".join(v["content"] for v in values), values[-1]


@pytest.mark.req("ORCH-3054", "OC-ADAPT-5001", "ORCH-3274", "ADAPT-3101")
@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("cut", [None, 1, 7, 100, 4096])
def test_a_recorded_stream_is_read_whole_and_cut_anywhere(name, cut):
    data = golden(name)
    text, last = plainly(data)
    got, texts, end = read(data, cut=cut)
    assert got == text
    assert isinstance(end, Finished)
    assert (end.tokens_in, end.tokens_out) == (last["tokens_evaluated"], last["tokens_predicted"])
    reason = FinishReason.LENGTH if last["stop_type"] == "limit" else FinishReason.STOP
    assert end.finish_reason is reason
    assert len(texts) <= end.tokens_out


@pytest.mark.parametrize("name", GOOD)
def test_what_comes_behind_the_end_is_ignored(name):
    reader = llama.StreamReader(job())
    before = seen(reader.feed(golden(name) + b'data: {"error":{}}\n\ndata: [DONE]\n\n\xff'))
    assert isinstance(before[2], Finished)
    assert reader.feed(golden(name)) == []
    assert reader.eof() == []


def test_a_stream_that_breaks_off_anywhere_says_so():
    data = golden("limit.debian")
    for at in range(0, len(data) - 2, 11):
        text, _, end = read(data[:at])
        assert plainly(data)[0].startswith(text)
        assert isinstance(end, Broken)
        assert end.error.kind is Kind.ENGINE_DIED


@pytest.mark.req("ORCH-3274")
def test_frames_are_not_tokens():
    text, texts, end = read(golden("unicode.debian"))
    assert text == '\u00e9\u20ac\u8a00\U0001f30d "q" \\ \n\u4e16\u754c'
    assert end.tokens_out > len(texts)
    _, texts, end = read(golden("eos.debian"))
    assert end.tokens_out == len(texts) + 1  # the end of the sequence


@pytest.mark.req("ORCH-3016")
@pytest.mark.parametrize("build", ["debian", "wheel"])
def test_a_context_that_fills_up_is_an_error_not_an_end(build):
    text, _, end = read(golden(f"full.{build}"), max_tokens=100000)
    assert text
    assert isinstance(end, Broken)
    assert end.error.kind is Kind.INVALID_PARAMS
    assert "the prompt has 7" in end.error.message
    assert "249 of 100000" in end.error.message


def test_a_context_that_is_full_with_the_last_token_asked_for_is_an_end():
    end = read(golden("full.debian"), max_tokens=249)[2]
    assert isinstance(end, Finished)
    assert end.finish_reason is FinishReason.LENGTH


@pytest.mark.req("ORCH-3274", "ADAPT-3101")
@pytest.mark.parametrize("cut", [None, 1, 3])
def test_other_forms_of_an_event_stream_are_read_too(cut):
    last = b'"stop":true,"stop_type":"eos","tokens_predicted":3,"tokens_evaluated":1}'
    data = (
        b": ping\n\n"
        b'event: message\r\nid: 7\r\ndata:{"content":"a","stop":false}\r\n\r\n'
        b"data: null\n\n"
        b'data: {"content":"\xc3\xa9",\ndata: "stop":false}\n\n'
        b":\n\ndata: [DONE]\n\nretry: 10\n\n"
        b'data: {"content":"z",' + last + b"\n\n"
    )
    text, texts, end = read(data, cut=cut)
    assert (text, texts) == ("a\u00e9z", ["a", "\u00e9", "z"])
    assert end == Finished(tokens_in=1, tokens_out=3, finish_reason=FinishReason.STOP)


BAD = {
    "no stream": b"\x00\xff\xfe garbage, no frame {]\n\n",
    "no JSON": b"data: {nonsense}\n\n",
    "no object": b"data: 7\n\n",
    "no content": b'data: {"stop":false}\n\n',
    "no counts": b'data: {"content":"","stop":true,"stop_type":"eos"}\n\n',
    "counts of no number": b'data: {"content":"","stop":true,"stop_type":"eos",'
    b'"tokens_predicted":"3","tokens_evaluated":true}\n\n',
    "no reason": b'data: {"content":"","stop":true,"stop_type":"none",'
    b'"tokens_predicted":3,"tokens_evaluated":1}\n\n',
    "half a frame": b'data: {"index":0,"content":"a","tokens":[1],"stop":false,"id\n\n',
    "an invalid text": b'data: {"index":0,"content":"\\q","tokens":[1],"stop":false,"id":1}\n\n',
}


@pytest.mark.req("ORCH-3276")
@pytest.mark.parametrize("data", BAD.values(), ids=BAD.keys())
@pytest.mark.parametrize("cut", [None, 1])
def test_what_is_no_answer_of_this_engine_is_named(data, cut):
    good = frames.token_frames(voice("m", "p", 1, ""), 0, 3, 1)
    _, texts, end = read(good + data + good, cut=cut)
    assert len(texts) == 3
    assert isinstance(end, Broken)
    assert end.error.kind is Kind.ENGINE_PROTOCOL


def test_an_event_without_end_is_bounded():
    reader = llama.StreamReader(job())
    fed = 0
    events: list[Pieces | Finished | Broken] = []
    while not events and fed < 4 << 20:
        events = reader.feed(b"x" * 65536)
        fed += 65536
    assert fed <= (1 << 20) + 2 * 65536
    assert seen(events)[2].error.kind is Kind.ENGINE_PROTOCOL


def test_a_last_frame_that_repeats_a_long_prompt_is_read():
    prompt = '"\n' * 700_000
    last = {"content": "", "stop": True, "stop_type": "eos", "prompt": prompt}
    last |= {"tokens_predicted": 1, "tokens_evaluated": 1}
    reader = llama.StreamReader(Job(task_id=TASK, prompt=prompt, max_tokens=5))
    data = frames.data_frame(last)
    events = [
        event for at in range(0, len(data), 65536) for event in reader.feed(data[at : at + 65536])
    ]
    assert isinstance(seen(events)[2], Finished)


@pytest.mark.req("ORCH-3276")
def test_a_late_error_is_mapped():
    data = b'data: {"error":{"code":500,"message":"Compute error.","type":"server_error"}}\n\n'
    end = read(golden("limit.debian")[:300].rpartition(b"\n\n")[0] + b"\n\n" + data)[2]
    assert end.error.kind is Kind.WORKER_RESET
    assert "Compute error." in end.error.message


ERRORS = [
    (400, "exceed_context_size_error", Kind.INVALID_PARAMS),
    (400, "invalid_request_error", Kind.INVALID_PARAMS),
    (401, "authentication_error", Kind.CONFIG_INVALID),
    (404, "not_found_error", Kind.ENGINE_PROTOCOL),
    (500, "server_error", Kind.WORKER_RESET),
    (501, "not_supported_error", Kind.CONFIG_INVALID),
    (503, "unavailable_error", Kind.POOL_UNREADY),
    (418, "teapot", Kind.ENGINE_PROTOCOL),
    (502, "of a proxy", Kind.WORKER_RESET),
    (503, "of a proxy", Kind.POOL_UNREADY),
]


@pytest.mark.req("ORCH-3276")
@pytest.mark.parametrize(("status", "kind", "ours"), ERRORS)
def test_every_error_of_the_engine_has_one_of_ours(status, kind, ours):
    body = orjson.dumps({"error": {"code": status, "message": "why", "type": kind}})
    reader = ErrorReader(status, http_error)
    assert [event for at in range(len(body)) for event in reader.feed(body[at : at + 1])] == []
    (event,) = reader.eof()
    assert isinstance(event, Broken)
    assert event.error.kind is ours
    assert "why" in event.error.message
    assert reader.eof() == []


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b'{"error":"x"}', b'{"error":{"type":[]}}']
)
def test_an_error_of_any_shape_is_an_error(body):
    assert http_error(500, body).kind is Kind.WORKER_RESET


@pytest.mark.req("ORCH-3016", "OC-CORE-1021")
@pytest.mark.parametrize("build", ["debian", "wheel"])
def test_a_prompt_that_is_too_long_is_told_with_its_figures(build):
    status = INDEX[f"toolong.{build}"]["status"]
    error = http_error(status, golden(f"toolong.{build}"))
    assert (status, error.kind, error.fields.path) == (400, Kind.INVALID_PARAMS, "$.prompt")
    assert "2402 tokens" in error.message
    assert "256" in error.message


@pytest.mark.req("ORCH-3275")
def test_the_batch_is_read_as_the_single_frames_are():
    """The fast path and the slow path agree on every text, at every cut."""
    data = frames.token_frames(voice("m", "p", 3, ""), 0, 900, 1)
    text, texts, _ = read(data)
    chance = random.Random(1)
    reader, events, at = llama.StreamReader(job()), [], 0
    while at < len(data):
        size = chance.choice((1, 50, 113, 5000))
        events += reader.feed(data[at : at + size])
        at += size
    assert seen(events)[:2] == (text, texts)
    assert texts == plainly_texts(data)


@pytest.mark.req("ORCH-3275")
def test_a_long_stream_costs_no_more_memory_than_a_short_one():
    block = frames.token_frames(voice("m", "p", 3, ""), 0, 400, 1)
    peaks = []
    for batches in (2, 200):
        reader = llama.StreamReader(job())
        tracemalloc.start()
        for _ in range(batches):
            reader.feed(block)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]
    assert peaks[1] < 8 * len(block)


def plainly_texts(data):
    return [json.loads(line[6:])["content"] for line in data.decode().split("\n") if line]


@given(st.lists(st.text(max_size=12), max_size=12), st.integers(1, 40))
def test_any_text_comes_through(texts, cut):
    data = b"".join(
        b'data: {"index":0,"content":%b,"tokens":[1, 2],"stop":false,"id_slot":-1}\n\n'
        % orjson.dumps(text)
        for text in texts
    )
    assert read(data, cut=cut)[1] == [text for text in texts if text]
    assert read(data)[1] == [text for text in texts if text]


PARTS = st.one_of(
    st.binary(max_size=20),
    st.sampled_from([
        golden("limit.debian"), golden("progress.wheel"), b"\r\n", b"\n\n", b"data: ", b"data: {",
        b'"\\ud800"',
        b'data: {"index":0,"content":"', b'","tokens":[', b'],"stop":false,"', b"}\n\n",
        b'data: {"error":[]}\n\n', b'data: {"content":"","stop":true,"stop_type":[]}\n\n',
    ]),
)  # fmt: skip


@given(st.lists(PARTS, max_size=8))
def test_whatever_comes_the_reader_answers_once_and_never_raises(parts):
    reader = llama.StreamReader(job())
    events = [event for part in parts for event in reader.feed(part)] + reader.eof()
    end = seen(events)[2]
    assert isinstance(end, Finished | Broken)
    assert reader.feed(b"data: x\n\n") == reader.eof() == []


def test_a_text_that_looks_like_a_frame_is_a_text():
    evil = 'data: {"index":0,"content":"x","tokens":[1],"stop":false,"i":0}\n\n","tokens":["stop":1'
    data = (
        b'data: {"index":0,"content":%b,"tokens":[1],"stop":false,"id_slot":-1}\n\n'
        % orjson.dumps(evil)
    )
    assert read(data * 3)[1] == [evil] * 3


@pytest.mark.req("ORCH-3045", "OC-CORE-1030")
def test_a_strict_request_leaves_nothing_to_chance():
    body = orjson.loads(llama.completion(job(strict=True)))
    assert body["cache_prompt"] is False
    assert body["seed"] == llama.STRICT_SEED
    assert body["n_predict"] == 12
    assert llama.SAMPLERS["v1"].items() <= body.items()
    assert llama.completion(job(strict=True)) == llama.completion(job(strict=True, seed=0))
    free = orjson.loads(llama.completion(job(strict=False)))
    assert free["cache_prompt"] is True
    assert "seed" not in free


@pytest.mark.req("ORCH-3045")
@given(st.integers(-(2**63), 2**63 - 1))
def test_every_seed_is_one_the_engine_takes_as_it_is(seed):
    ours = llama.seed_of(job(seed=seed))
    assert ours is not None
    assert 0 <= ours < 0xFFFFFFFF  # that one would draw a seed
    if 0 <= seed < 0xFFFFFFFF:
        assert ours == seed


def test_a_request_without_a_valid_prompt_is_refused():
    for prompt in (None, "\ud800"):
        with pytest.raises(OrchError) as caught:
            llama.completion(Job(task_id=TASK, prompt=prompt, max_tokens=1))
        assert caught.value.kind is Kind.INVALID_PARAMS
        assert caught.value.fields.path == "$.prompt"
