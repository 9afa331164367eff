"""The adapters as data: how they start an engine, what they refuse, what they make of its props."""

from pathlib import Path

import attrs
import orjson
import pytest
from attrs import evolve

from orchd.config.pool import Api, Engine, Faults, Model, Pool, SelfTestFault
from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import Count, DeviceMask, EngineId, PoolId, Positive, TaskId, Text
from orchd.wire.shapes import Workload
from poolmgr.core.modelfile import Head
from poolmgr.engines.base import Job, Load, Props, Reply, Tuning, Usage
from poolmgr.engines.mock import held_bytes
from poolmgr.engines.registry import adapter, refuse_strict, refuse_workload
from poolmgr.mockengine.options import Options, parse

FOLDER = Path(__file__).resolve().parents[3] / "contracts/dialects/llama"
TASK = TaskId("00000000-0000-4000-8000-000000000001")
SOCKET = Path("/run/poolmgr/p:0.engine.sock")
MODEL = Path("/models/m.gguf")


def pool(engine="llamacpp", *, slots=1, tensor_split=None, ref="file:/models/m.gguf", **more):
    return Pool(
        id=PoolId("p"),
        engine=Engine(id=EngineId(engine), **more),
        model=Model(ref=Text(ref)),
        replicas=(DeviceMask((0,)),),
        ctx=Positive(4096),
        slots=Positive(slots),
        tensor_split=tensor_split,
    )


LLAMA, MOCK = adapter(pool()), adapter(pool("mock"))


def job(**more):
    return Job(**{"task_id": TASK, "prompt": "Hello", "max_tokens": 5, **more})


def value_of(argv, option):
    assert argv.count(option) == 1, f"{option} once"
    return argv[argv.index(option) + 1]


@pytest.mark.req("ORCH-3054", "OC-ADAPT-5010")
def test_llamacpp_is_started_on_its_socket_with_all_layers_on_its_gpus():
    launch = LLAMA.launch(pool(slots=4), MODEL, SOCKET, ("GPU-b", "GPU-a"))
    argv = launch.argv
    assert value_of(argv, "--model") == "/models/m.gguf"
    assert value_of(argv, "--host") == str(SOCKET)
    assert value_of(argv, "--ctx-size") == "16384", "4096 for each of 4 slots"
    assert value_of(argv, "--parallel") == "4"
    assert value_of(argv, "--n-gpu-layers") == "999"
    assert int(value_of(argv, "--threads-http")) >= 4 + 8
    assert launch.env == {"CUDA_VISIBLE_DEVICES": "GPU-b,GPU-a", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def test_the_operators_arguments_come_last_and_the_split_in_the_masks_order():
    made = pool(args=("--flash-attn", "on"), tensor_split=(2.0, 1.5))
    argv = LLAMA.launch(made, MODEL, SOCKET, ("GPU-a", "GPU-b")).argv
    assert argv[-2:] == ("--flash-attn", "on")
    assert value_of(argv, "--tensor-split") == "2,1.5"


def test_llamacpp_needs_a_model_file():
    with pytest.raises(OrchError) as caught:
        LLAMA.launch(pool(), None, SOCKET, ("GPU-a",))
    assert caught.value.kind is Kind.MODEL_MISSING


@pytest.mark.req("ORCH-3055", "OC-ADAPT-5021", "OC-ADAPT-5020")
def test_vllm_is_started_on_its_socket_with_its_logs_without_prompts():
    made = pool("vllm", slots=4, args=("--enforce-eager",))
    launch = adapter(made).launch(made, Path("/models/m"), SOCKET, ("GPU-b", "GPU-a"))
    argv = launch.argv
    assert argv[0] == "/models/m"
    assert value_of(argv, "--uds") == str(SOCKET)
    assert value_of(argv, "--served-model-name") == "p"
    assert value_of(argv, "--max-model-len") == "4096"
    assert value_of(argv, "--max-num-seqs") == "4"
    assert value_of(argv, "--tensor-parallel-size") == "2"
    assert value_of(argv, "--shutdown-timeout") == "10"
    assert value_of(argv, "--runner") == "generate"
    assert "--no-enable-log-requests" in argv
    assert argv[-1] == "--enforce-eager"
    assert not {"--host", "--port", "--api-key"} & set(argv)
    assert launch.env["CUDA_VISIBLE_DEVICES"] == "GPU-b,GPU-a"
    assert launch.env["HF_HUB_OFFLINE"] == "1"
    one = adapter(made).launch(made, Path("/m"), SOCKET, ("GPU-a",)).argv
    assert "--tensor-parallel-size" not in one
    need = adapter(made).need(made, 5 << 30, Head(weights_bytes=4 << 30))
    assert (need.weights_bytes, need.kv_bytes) == (4 << 30, None)
    assert adapter(made).out_of_vram(["a", "torch.OutOfMemoryError: CUDA out of memory."])
    assert adapter(made).why_on_cpu(["RuntimeError: No CUDA GPUs are available"])


@pytest.mark.req("ORCH-3057", "OC-ADAPT-5002")
@pytest.mark.parametrize("api", [None, Api.GRPC])
def test_triton_is_started_on_sockets_only(api):
    made = pool("triton", api=api, served_name=Text("ensemble"), args=("--log-verbose=1",))
    launch = adapter(made).launch(made, Path("/repository"), SOCKET, ("GPU-a",))
    argv = launch.argv
    assert f"--http-address=unix:{SOCKET}" in argv
    assert f"--metrics-address=unix:{SOCKET}.metrics" in argv
    assert ("--allow-grpc=false" in argv) is (api is None)
    assert (f"--grpc-address=unix:{SOCKET}" in argv) is (api is Api.GRPC)
    assert argv[-1] == "--log-verbose=1"
    assert set(launch.sockets) == ({"metrics", "grpc"} if api else {"metrics"})
    assert adapter(made).out_of_vram(["x", "CUDA out of memory"]) == "CUDA out of memory"
    assert adapter(made).need(made, 7, Head()).weights_bytes == 7


@pytest.mark.req("ORCH-3056", "OC-ADAPT-5002", "OC-ADAPT-5021")
def test_tgi_is_started_behind_a_bridge_with_a_port_that_nobody_shares():
    made = pool("tgi", slots=4, args=("--quantize", "awq"))
    launch = adapter(made).launch(made, Path("/models/m"), SOCKET, ("GPU-b", "GPU-a"))
    argv = launch.argv
    assert launch.bridge is not None
    assert value_of(argv, "--model-id") == "/models/m"
    assert value_of(argv, "--hostname") == "127.0.0.1"
    assert value_of(argv, "--port") == str(launch.bridge.port)
    assert value_of(argv, "--num-shard") == "2"
    assert value_of(argv, "--max-concurrent-requests") == "4"
    assert (value_of(argv, "--max-input-tokens"), value_of(argv, "--max-total-tokens")) == (
        "4095", "4096",
    )  # fmt: skip
    shard = value_of(argv, "--shard-uds-path")
    assert launch.files == (Path(f"{shard}-0"), Path(f"{shard}-1"))
    assert argv[-2:] == ("--quantize", "awq")
    assert launch.env["CUDA_VISIBLE_DEVICES"] == "GPU-b,GPU-a"
    assert (launch.env["HF_HUB_OFFLINE"], launch.env["USAGE_STATS"]) == ("1", "off")
    # strict jobs need one slot, and no prefix that is warm
    assert "PREFIX_CACHING" not in launch.env
    alone = pool("tgi")
    one = adapter(alone).launch(alone, Path("/m"), SOCKET, ("GPU-a",))
    assert one.env["PREFIX_CACHING"] == "0"
    assert value_of(one.argv, "--num-shard") == "1"
    need = adapter(made).need(made, 5 << 30, Head(weights_bytes=4 << 30))
    assert (need.weights_bytes, need.kv_bytes) == (4 << 30, None)
    ran_out = "Not enough memory to handle 4096 prefill tokens. You need to decrease"
    assert adapter(made).telling(ran_out)
    assert adapter(made).out_of_vram(["a", ran_out]) == ran_out
    assert adapter(made).why_on_cpu(["Could not import: CUDA is not available"])
    assert adapter(made).tuning(("-ub", "1")) == Tuning()


def test_an_engine_of_others_is_never_started():
    made = pool("openai")
    with pytest.raises(OrchError) as caught:
        adapter(made).launch(made, MODEL, SOCKET, ("GPU-a",))
    assert caught.value.kind is Kind.CONFIG_INVALID
    assert "provisioning.mode must be external" in caught.value.message
    assert adapter(made).need(made, 5, Head()).weights_bytes is None
    assert adapter(made).tuning(("-ub", "1")) == Tuning()


@pytest.mark.parametrize("engine", ["vllm", "tgi", "triton"])
def test_an_engine_that_we_start_needs_its_folder(engine):
    made = pool(engine)
    with pytest.raises(OrchError) as caught:
        adapter(made).launch(made, None, SOCKET, ("GPU-a",))
    assert caught.value.kind is Kind.MODEL_MISSING


@pytest.mark.req("ORCH-3045")
@pytest.mark.parametrize(
    ("engine", "most"),
    [("mock", None), ("llamacpp", 1), ("vllm", 1), ("tgi", 1), ("triton", 1), ("openai", 0)],
)
def test_each_engine_says_how_many_slots_strict_jobs_may_have(engine, most):
    one = adapter(pool(engine))
    assert one.strict_slots == most
    assert (refuse_strict(one, job(), slots=1) is None) is (most != 0)
    assert (refuse_strict(one, job(), slots=2) is None) is (most is None)


@pytest.mark.req("ORCH-3058")
def test_the_mock_engine_understands_every_argument_of_its_adapter():
    faults = Faults(
        refuse_load=True,
        refuse_model=Text("mock:bad"),
        die_after_tokens=Positive(1),
        hang_after_tokens=Positive(2),
        garbage_after_tokens=Positive(3),
        split_utf8=True,
        load_ms=Count(4),
        die_after_load_ms=Positive(5),
        self_test=SelfTestFault.KEEP_SLOT,
        slower=Positive(2),
        vram_mb=Count(7),
    )
    assert len(attrs.fields(Faults)) == 12, "a new fault belongs into this test"
    made = pool(
        "mock", slots=3, ref="mock:short", tokens_per_s=25.0, first_token_ms=20.0, faults=faults
    )
    assert parse(MOCK.launch(made, None, SOCKET, ("GPU-a",)).argv) == Options(
        socket=str(SOCKET), model="mock:short", slots=3, ctx=4096, tokens_per_s=12.5,
        first_token_ms=20.0, load_ms=4.0, refuse_load=True, refuse_model="mock:bad",
        die_after_tokens=1,
        hang_after_tokens=2, garbage_after_tokens=3, split_utf8=True, die_after_load_ms=5.0,
        self_test="keep_slot",
    )  # fmt: skip
    assert held_bytes(made) == (1024 + 7) << 20
    others = evolve(made.engine, faults=evolve(faults, only_model=Text("mock:other")))
    spared = evolve(made, engine=others)
    assert parse(MOCK.launch(spared, None, SOCKET, ()).argv) == Options(
        socket=str(SOCKET), model="mock:short", slots=3, ctx=4096, tokens_per_s=25.0,
        first_token_ms=20.0, refuse_model="mock:bad",
    )  # fmt: skip
    assert held_bytes(spared) == 1024 << 20
    plain = parse(MOCK.launch(pool("mock", tokens_per_s=0.0), None, SOCKET, ()).argv)
    assert plain == Options(
        socket=str(SOCKET), model="file:/models/m.gguf", ctx=4096, tokens_per_s=0
    )


@pytest.mark.req("ADAPT-API", "OC-ADAPT-5010")
@pytest.mark.parametrize(("build", "version"), [("debian", r"b11669"), ("wheel", "b0")])
def test_recorded_props_are_read(build, version):
    props = LLAMA.read_props([Reply(200, (FOLDER / f"props.{build}.txt").read_bytes())])
    assert props.engine_version.startswith(version)
    assert props == Props(engine_version=props.engine_version, slots=1, ctx_max=256)


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"build_info":""}', b'{"build_info":"b1"}'])
def test_props_of_something_else_are_refused(body):
    with pytest.raises(OrchError) as caught:
        LLAMA.read_props([Reply(200, body)])
    assert caught.value.kind is Kind.ENGINE_PROTOCOL


def test_usage_of_an_engine_that_says_little_is_told_as_unknown():
    usage = LLAMA.read_usage(b'[{"n_ctx":10,"is_processing":true},{"is_processing":false}]')
    assert usage == Usage(slots_active=1, kv_cache_usage_ratio=None)
    for body in (b"", b"{}", b"[1]"):
        with pytest.raises(OrchError) as caught:
            LLAMA.read_usage(body)
        assert caught.value.kind is Kind.ENGINE_PROTOCOL


@pytest.mark.req("ORCH-3390")
def test_tokens_are_asked_for_as_a_prompt_is_read():
    call = LLAMA.tokenize("<s>H\u00e9")
    assert call is not None
    assert (call.method, call.path) == ("POST", "/tokenize")
    asked = {"content": "<s>H\u00e9", "add_special": True, "parse_special": True}
    assert orjson.loads(call.body) == asked
    assert LLAMA.read_tokenize(200, b'{"tokens":[315,0,7]}') == (315, 0, 7)
    assert LLAMA.read_tokenize(200, b'{"tokens":[]}') == ()


@pytest.mark.req("ORCH-3276")
@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (200, b"", Kind.ENGINE_PROTOCOL),
        (200, b"[]", Kind.ENGINE_PROTOCOL),
        (200, b"{}", Kind.ENGINE_PROTOCOL),
        (200, b'{"tokens":[1,true]}', Kind.ENGINE_PROTOCOL),
        (200, b'{"tokens":[{"id":1,"piece":"a"}]}', Kind.ENGINE_PROTOCOL),
        (404, b'{"error":{"type":"not_found_error"}}', Kind.ENGINE_PROTOCOL),
        (503, b'{"error":{"type":"unavailable_error"}}', Kind.POOL_UNREADY),
    ],
)
def test_an_answer_without_tokens_is_an_error(status, body, kind):
    with pytest.raises(OrchError) as caught:
        LLAMA.read_tokenize(status, body)
    assert caught.value.kind is kind


@pytest.mark.parametrize(
    ("status", "kind", "load"),
    [
        (200, "", Load.SERVING),
        (503, "unavailable_error", Load.LOADING),
        (401, "authentication_error", Load.BROKEN),
        (404, "not_found_error", Load.BROKEN),
        (500, "server_error", Load.BROKEN),
    ],
)
def test_health_tells_loading_from_broken(status, kind, load):
    body = orjson.dumps({"error": {"code": status, "message": "why", "type": kind}})
    state, sentence = LLAMA.load_state(status, body)
    assert state is load
    assert sentence


@pytest.mark.req("ADAPT-API", "ORCH-3277")
def test_a_submission_carries_the_job_and_nothing_of_the_client():
    call = LLAMA.submit(job(seed=3))
    assert (call.method, call.path) == ("POST", "/completion")
    assert call.headers == (("content-type", "application/json"),)
    body = orjson.loads(call.body)
    assert (body["prompt"], body["n_predict"], body["seed"], body["stream"]) == (
        "Hello",
        5,
        3,
        True,
    )
    assert TASK not in call.body.decode()
    assert "Hello" not in repr(call), "no prompt in a log"
    assert "Hello" not in repr(job())


@pytest.mark.parametrize(
    ("workload", "path", "body"),
    [
        (Workload.EMBEDDING, "/v1/embeddings", {"input": ["a", "b"], "encoding_format": "base64"}),
        (Workload.RERANK, "/rerank", {"query": "a", "documents": ["b"]}),
    ],
)
def test_each_workload_has_its_own_request(workload, path, body):
    call = LLAMA.submit(job(workload=workload, inputs=("a", "b")))
    assert (call.method, call.path, orjson.loads(call.body)) == ("POST", path, body)
    for inputs in ((), ("\ud800", "b"), ("a",)):
        if workload is Workload.EMBEDDING and inputs == ("a",):
            continue
        with pytest.raises(OrchError) as caught:
            LLAMA.submit(job(workload=workload, inputs=inputs))
        assert caught.value.fields.path == "$.inputs"


@pytest.mark.parametrize(
    ("workload", "flag"), [(Workload.EMBEDDING, "--embeddings"), (Workload.RERANK, "--reranking")]
)
def test_llama_server_is_started_for_the_workload_with_a_batch_of_the_whole_context(workload, flag):
    made = attrs.evolve(pool(slots=2), workloads=(workload,))
    argv = LLAMA.launch(made, MODEL, SOCKET, ("GPU-a",)).argv
    assert argv.count(flag) == 1
    assert value_of(argv, "--ubatch-size") == value_of(argv, "--batch-size") == "4096"
    assert LLAMA.tuning(LLAMA.serving(made)).ubatch == 4096
    plain = LLAMA.launch(pool(), MODEL, SOCKET, ("GPU-a",)).argv
    assert not {"--embeddings", "--reranking", "--ubatch-size"} & set(plain)


def test_a_workload_that_the_pool_does_not_serve_is_refused():
    error = refuse_workload((Workload.COMPLETION,), job(workload=Workload.RERANK))
    assert error is not None
    assert (error.kind, error.fields.path) == (Kind.INVALID_PARAMS, "$.workload")
    assert refuse_workload((Workload.RERANK,), job(workload=Workload.RERANK)) is None


@pytest.mark.req("ORCH-3045", "OC-CORE-1030")
def test_strict_on_slots_that_share_a_batch_is_refused_not_weakened():
    error = refuse_strict(LLAMA, job(), slots=4)
    assert error is not None
    assert error.kind is Kind.INVALID_PARAMS
    assert error.fields.path == "$.determinism"
    assert "best_effort" in error.message
    assert "slots = 1" in error.message
    assert refuse_strict(LLAMA, job(), slots=1) is None
    assert refuse_strict(LLAMA, job(strict=False), slots=4) is None
    assert refuse_strict(MOCK, job(), slots=4) is None


def test_an_unknown_engine_is_named_with_the_known():
    with pytest.raises(OrchError) as caught:
        adapter(pool("gguf"))
    assert caught.value.kind is Kind.CONFIG_INVALID
    assert "llamacpp, mock" in caught.value.message


@pytest.mark.req("ORCH-3046", "OC-CORE-1032")
@pytest.mark.parametrize("adapter", [LLAMA, MOCK])
@pytest.mark.parametrize(
    ("arguments", "tuning"),
    [
        ((), Tuning(ubatch=512, flash_attention="auto")),
        (("-ub", "256"), Tuning(ubatch=256, flash_attention="auto")),
        (("--ubatch-size", "64", "-ub", "128"), Tuning(ubatch=128, flash_attention="auto")),
        # no micro-batch is larger than a batch
        (("--batch-size", "100"), Tuning(ubatch=100, flash_attention="auto")),
        (("--flash-attn", "off"), Tuning(ubatch=512, flash_attention="off")),
        (("-fa", "on", "-ub", "many"), Tuning(ubatch=None, flash_attention="on")),
        (("-fa", "--no-warmup"), Tuning(ubatch=512, flash_attention="on")),
        (("--no-warmup", "-fa"), Tuning(ubatch=512, flash_attention="on")),
    ],
)
def test_what_arguments_change_of_the_output_is_told(adapter, arguments, tuning):
    assert adapter.tuning(arguments) == tuning


def test_the_mock_engine_takes_the_arguments_that_are_read():
    made = attrs.evolve(pool("mock"), engine=attrs.evolve(
        pool("mock").engine, args=("--ubatch-size", "64", "--flash-attn", "on")
    ))  # fmt: skip
    options = parse(MOCK.launch(made, None, SOCKET, ()).argv)
    assert (options.ubatch_size, options.flash_attn) == (64, "on")
