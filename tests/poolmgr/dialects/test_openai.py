"""OpenAI's dialect against what real servers answered, and against what they must not."""

import json
from pathlib import Path

import orjson
import pytest

from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import TaskId
from orchd.wire.shapes import FinishReason
from poolmgr.dialects import openai, vllm
from poolmgr.dialects.exchange import Broken, Finished, Job, Load, Pieces, Props, Reply, Usage
from poolmgr.dialects.openai_errors import ErrorReader, http_error
from poolmgr.dialects.openai_server import OpenAiServer

FOLDER = Path(__file__).resolve().parents[3] / "contracts/dialects"
TASK = TaskId("00000000-0000-4000-8000-000000000001")
INDEX = {
    f"{dialect}/{name}": about["status"]
    for dialect in ("openai", "vllm")
    for name, about in json.loads((FOLDER / dialect / "index.json").read_text()).items()
}
GOOD = [name for name in INDEX if "/limit." in name or "/eos." in name]
SERVER = OpenAiServer("mock:lorem", base="/v1", form="completions", profile="v1")


def job(max_tokens=12, **more):
    return Job(task_id=TASK, prompt="Hello there", max_tokens=max_tokens, **more)


def golden(name):
    return (FOLDER / f"{name}.txt").read_bytes()


def read(data, max_tokens=12, cut=None, status=200):
    reader = SERVER.reader(job(max_tokens), status)
    cut = cut or max(1, len(data))
    events = [e for at in range(0, len(data), cut) for e in reader.feed(data[at : at + cut])]
    events += reader.eof()
    assert reader.eof() == [] == reader.feed(b"data: 1\n\n"), "nothing follows"
    texts = [text for event in events if isinstance(event, Pieces) for text in event.texts]
    ends = [event for event in events if not isinstance(event, Pieces)]
    assert all(texts)
    assert len(ends) == 1
    assert events[-1] is ends[0]
    return "".join(texts), ends[0]


def plainly(data):
    """Text, reason and usage, read without any of our code."""
    lines = [line[6:] for line in data.decode().splitlines() if line.startswith("data: {")]
    values = [json.loads(line) for line in lines]
    choices = [value["choices"][0] for value in values if value["choices"]]
    text = "".join(c.get("text") or c.get("delta", {}).get("content") or "" for c in choices)
    reason = next(c["finish_reason"] for c in choices if c["finish_reason"])
    return text, reason, next(value["usage"] for value in values if value.get("usage"))


@pytest.mark.req("ORCH-3055", "OC-ADAPT-5020", "OC-ADAPT-OAI-6000", "ORCH-3274", "ADAPT-3101")
@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("cut", [None, 1, 7, 100, 4096])
def test_a_recorded_stream_is_read_whole_and_cut_anywhere(name, cut):
    data = golden(name)
    text, reason, usage = plainly(data)
    got, end = read(data, max_tokens=200 if "eos" in name else 12, cut=cut)
    assert got == text != ""
    assert isinstance(end, Finished)
    assert (end.tokens_in, end.tokens_out) == (usage["prompt_tokens"], usage["completion_tokens"])
    assert end.finish_reason is FinishReason(reason)


@pytest.mark.req("ORCH-3016")
@pytest.mark.parametrize("name", [name for name in INDEX if "/full." in name])
def test_a_context_that_filled_up_is_no_quiet_end(name):
    if INDEX[name] != 200:
        assert http_error(INDEX[name], golden(name)).kind is Kind.INVALID_PARAMS
        return
    _, end = read(golden(name), max_tokens=255)
    assert isinstance(end, Broken)
    assert (end.error.kind, end.error.fields.path) == (Kind.INVALID_PARAMS, "$.max_tokens")
    assert "the context was full after 2" in end.error.message


@pytest.mark.req("ORCH-3276", "ORCH-3016")
@pytest.mark.parametrize("name", [name for name in INDEX if "/toolong." in name])
def test_a_prompt_over_the_context_has_its_figures(name):
    (end,) = [*(r := ErrorReader(INDEX[name])).feed(golden(name)), *r.eof()]
    assert isinstance(end, Broken)
    assert (end.error.kind, end.error.fields.path) == (Kind.INVALID_PARAMS, "$.prompt")
    assert "more than the context of 256 " in end.error.message


FRAME = b'data: {"choices":[{"index":0,"text":"a","finish_reason":null}]}\n\n'
LAST = b'data: {"choices":[{"index":0,"text":"b","finish_reason":"stop"}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\n'
DONE = b"data: [DONE]\n\n"
DEAD = b'data: {"error":{"message":"EngineCore died","type":"InternalServerError","code":500}}\n\n'


@pytest.mark.req("ORCH-3276")
@pytest.mark.parametrize(
    ("data", "text", "kind", "words"),
    [
        (DEAD + DONE, "", Kind.WORKER_RESET, "EngineCore died"),
        (FRAME + DEAD + DONE, "a", Kind.WORKER_RESET, "EngineCore died"),
        (FRAME + b'data: {"object":"error","message":"no","code":400}\n\n', "a",
         Kind.INVALID_PARAMS, "no"),
        (FRAME + b'data: {"error":"plain words"}\n\n', "a", Kind.WORKER_RESET, "plain words"),
        (b'data: {"error":{"message":"This model\'s maximum context length is 10 tokens. However, '
         b'you requested 12 tokens","code":"context_length_exceeded"}}\n\n', "",
         Kind.INVALID_PARAMS, "the prompt has 12 tokens, more than the context of 10"),
        (FRAME, "a", Kind.ENGINE_DIED, "broke off"),
        (b"", "", Kind.ENGINE_DIED, "broke off"),
        (FRAME + LAST + DONE, "ab", Kind.ENGINE_PROTOCOL, "stream_options.include_usage"),
        (FRAME + USAGE + DONE, "a", Kind.ENGINE_PROTOCOL, "without a reason"),
        (FRAME + b"<html>\n\n", "a", Kind.ENGINE_PROTOCOL, "no event stream"),
        (FRAME + b"data: nonsense\n\n", "a", Kind.ENGINE_PROTOCOL, "not JSON"),
        (FRAME + b"data: [1]\n\n", "a", Kind.ENGINE_PROTOCOL, "no object"),
        (FRAME + b'data: {"x":1}\n\n', "a", Kind.ENGINE_PROTOCOL, "neither text"),
        (b'data: {"choices":[{"text":["x"]}]}\n\n', "", Kind.ENGINE_PROTOCOL, "text that is none"),
        (LAST.replace(b"stop", b"content_filter") + USAGE + DONE, "b", Kind.INVALID_PARAMS,
         "content filter"),
        (LAST.replace(b"stop", b"abort") + USAGE + DONE, "b", Kind.WORKER_RESET, "abort"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("cut", [None, 1, 50])
def test_every_fault_is_one_of_ours(data, text, kind, words, cut):
    got, end = read(data, cut=cut)
    assert isinstance(end, Broken)
    assert (got, end.error.kind) == (text, kind)
    assert words in end.error.message


@pytest.mark.req("OC-ADAPT-OAI-6000")
@pytest.mark.parametrize(
    "data",
    [
        FRAME + LAST + USAGE + DONE,
        FRAME + LAST + USAGE,  # transformers serve has no [DONE]
        FRAME + LAST[:-3] + b',"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\n' + DONE,
        b": ping\n\n" + (FRAME + LAST + USAGE + DONE).replace(b"\n", b"\r\n"),
        (FRAME + LAST + USAGE).replace(b"data: ", b"data:").rstrip(),
    ],
)
def test_other_servers_forms_are_read_too(data):
    data = data.replace(b'}]},"usage"', b'}],"usage"')
    got, end = read(data)
    assert got == "ab"
    assert end == Finished(tokens_in=3, tokens_out=2, finish_reason=FinishReason.STOP)


@pytest.mark.req("ORCH-3276", "OC-ADAPT-OAI-6000")
@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, b'{"error":{"message":"bad"}}', Kind.INVALID_PARAMS),
        (422, b'{"detail":[{"loc":["body"]}]}', Kind.INVALID_PARAMS),
        (401, b'{"error":{"message":"Incorrect API key"}}', Kind.CONFIG_INVALID),
        (403, b"", Kind.CONFIG_INVALID),
        (404, b'{"detail":"Not Found"}', Kind.CONFIG_INVALID),
        (429, b'{"error":{"message":"slow down"}}', Kind.REPLICA_EXHAUSTED),
        (503, b"<html>", Kind.POOL_UNREADY),
        (500, b'{"message":"boom"}', Kind.WORKER_RESET),
        (302, b"", Kind.ENGINE_PROTOCOL),
    ],
)
def test_every_status_is_one_of_ours(status, body, kind):
    assert http_error(status, body).kind is kind
    assert len(http_error(status, b"x" * 10000).message) < 700


@pytest.mark.req("ORCH-3277", "ORCH-3055")
def test_a_request_says_the_job_and_nothing_else():
    call = SERVER.submit(job(seed=2**31 + 6))
    assert (call.method, call.path) == ("POST", "/v1/completions")
    assert orjson.loads(call.body) == {
        "model": "mock:lorem", "prompt": "Hello there", "max_tokens": 12, "stream": True,
        "stream_options": {"include_usage": True}, "temperature": 0.8, "top_p": 0.95, "seed": 7,
    }  # fmt: skip
    chat = OpenAiServer("m", base="/api/v1", form="chat", profile="v1").submit(job(strict=False))
    value = orjson.loads(chat.body)
    assert chat.path == "/api/v1/chat/completions"
    assert value["messages"] == [{"role": "user", "content": "Hello there"}]
    assert "seed" not in value
    assert "prompt" not in value
    for prompt in (None, "\ud800"):
        with pytest.raises(OrchError) as caught:
            SERVER.submit(Job(task_id=TASK, prompt=prompt, max_tokens=1))
        assert caught.value.fields.path == "$.prompt"


@pytest.mark.req("ORCH-3055", "ORCH-3045", "ORCH-3277")
def test_a_strict_job_of_vllm_finds_no_warm_prefix():
    server = vllm.VllmServer("m", base="/v1", form="completions", profile="v1")
    value = orjson.loads(server.submit(job(seed=-1)).body)
    assert (value["seed"], value["top_k"], value["min_p"]) == (2**63 - 1, 40, 0.05)
    again = orjson.loads(server.submit(job(seed=-1)).body)
    other = Job(task_id=TaskId(TASK[:-1] + "2"), prompt="Hello there", max_tokens=12)
    assert value["cache_salt"] == again["cache_salt"]
    assert value["cache_salt"] != orjson.loads(server.submit(other).body)["cache_salt"]
    assert TASK not in value["cache_salt"]
    assert "cache_salt" not in orjson.loads(server.submit(job(strict=False)).body)


@pytest.mark.req("ORCH-3055", "OC-ADAPT-5020", "OC-ADAPT-5030")
def test_what_vllm_says_of_itself():
    server = vllm.VllmServer("p", base="/v1", form="completions", profile="v1")
    assert [call.path for call in server.props()] == ["/version", "/v1/models"]
    told = [Reply(200, golden(f"vllm/{name}.vllm")) for name in ("version", "models")]
    assert server.read_props(told) == Props(engine_version="0.32.0", slots=None, ctx_max=256)
    assert server.load_state(200, golden("vllm/health.vllm"))[0] is Load.SERVING
    assert server.load_state(503, b"")[0] is Load.BROKEN, "its core is dead; it does not load"
    assert server.load_state(404, b"")[0] is Load.BROKEN
    usage = server.read_usage(golden("vllm/metrics.vllm"))
    assert usage == Usage(slots_active=0, kv_cache_usage_ratio=0.0)
    tokens = server.read_tokenize(200, golden("vllm/tokenize.vllm"))
    assert len(tokens) == 7
    with pytest.raises(OrchError):
        server.read_usage(b"")
    for replies in ([Reply(200, b"{}"), told[1]], [told[0], Reply(200, b"{}")]):
        with pytest.raises(OrchError) as caught:
            server.read_props(replies)
        assert caught.value.kind is Kind.ENGINE_PROTOCOL
    for status, body in ((200, b'{"tokens":["a"]}'), (200, b""), (400, b"{}")):
        with pytest.raises(OrchError):
            server.read_tokenize(status, body)
    chat = vllm.VllmServer("p", base="/v1", form="chat", profile="v1")
    assert chat.tokenize("a") is None


@pytest.mark.req("ORCH-3276", "ORCH-3016")
def test_vllm_does_not_count_the_tokens_of_a_text_that_is_far_too_long():
    words = (
        b'{"error":{"message":"This model\'s maximum context length is 512 tokens. However, your '
        b"prompt contains 15000 characters (which is more than the upper bound for 512 input "
        b'tokens)","type":"BadRequestError","param":"input_text","code":400}}'
    )
    error = http_error(400, words)
    assert (error.kind, error.fields.path) == (Kind.INVALID_PARAMS, "$.prompt")
    assert "15000 characters" in error.message
    assert "context of 512 tokens" in error.message


def test_the_model_must_be_one_that_it_serves():
    listed = Reply(200, golden("openai/models.openai"))
    assert SERVER.read_props([listed]).engine_version == "unknown"
    with pytest.raises(OrchError) as caught:
        OpenAiServer("x", base="/v1", form="chat", profile="v1").read_props([listed])
    assert caught.value.kind is Kind.CONFIG_INVALID
    assert "it serves: mock:lorem" in caught.value.message
    for status, body, kind in (
        (200, b"[]", Kind.ENGINE_PROTOCOL),
        (200, b'{"data":[1]}', Kind.ENGINE_PROTOCOL),
        (401, b"{}", Kind.CONFIG_INVALID),
    ):
        with pytest.raises(OrchError) as caught:
            SERVER.read_props([Reply(status, body)])
        assert caught.value.kind is kind
    assert openai.seed_of(job(strict=True)) == 0
