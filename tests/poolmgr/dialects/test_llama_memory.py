"""What llama-server's arguments mean for memory, and which of its lines matter later."""

from __future__ import annotations

import pytest
from attrs import evolve

from orchd.wire.errors import Kind, OrchError
from poolmgr.core.fit import RAM_OVERHEAD_BYTES, Need
from poolmgr.core.modelfile import Head
from poolmgr.dialects.llama_memory import (
    ALL_LAYERS,
    Placement,
    out_of_vram,
    placement,
    telling,
    why_on_cpu,
)
from poolmgr.engines.llamacpp import LlamaCpp
from tests.poolmgr.core.test_kvcache import UNTIED, keys
from tests.poolmgr.provision.test_models import pool

NONE = Placement(ctx=None, slots=None, layers=None)


@pytest.mark.parametrize(
    ("words", "changes"),
    [
        ("", {}),
        ("-c 100 -c 200 -np 3", {"ctx": 200, "slots": 3}),
        ("--ctx-size 0 --parallel x", {}),
        ("-ngl 12", {"layers": 12}),
        ("--gpu-layers all", {"layers": ALL_LAYERS}),
        ("--n-gpu-layers auto", {}),
        ("-ctk q8_0 --cache-type-v q4_0", {"type_k": "q8_0", "type_v": "q4_0"}),
        ("-kvu", {"unified": True}),
        ("-kvu --no-kv-unified", {"unified": False}),
        ("-nkvo", {"kv_on_gpu": False}),
        ("--no-mmap", {"mapped": False}),
        ("-lm dio", {"mapped": False}),
        ("--mlock", {"locked": True}),
        ("-lm mmap+mlock", {"locked": True}),
        ("--cpu-moe", {"moved": True}),
        ("-ot exps=CPU", {"moved": True}),
        ("-sm none", {"moved": True}),
        ("-sm layer -ts 3,1", {"split": (3.0, 1.0)}),
        ("-ts x", {}),
        ("-md draft.gguf --mmproj p.gguf", {"more": ("draft model", "projector")}),
        ("-c", {}),
    ],
)
def test_arguments_say_where_what_goes(words: str, changes: dict[str, object]) -> None:
    assert placement(words.split()) == evolve(NONE, **changes)  # type: ignore[arg-type]


OOM = "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 9.00 MiB on device 0: cudaMalloc failed: out of memory"  # noqa: E501
INSUFFICIENT = (
    "ggml_cuda_init: failed to initialize CUDA: CUDA driver version is insufficient for CUDA "
    "runtime version"
)


@pytest.mark.req("ORCH-3039", "OC-POOL-3012")
def test_lines_that_name_a_cause_are_told_apart() -> None:
    whole = "load_tensors: offloaded 33/33 layers to GPU"
    part = "load_tensors: offloaded 0/33 layers to GPU"
    assert out_of_vram(["x", OOM]) == OOM
    assert out_of_vram(["CUDA error: out of memory"])
    assert out_of_vram([whole, INSUFFICIENT]) is None
    assert why_on_cpu([whole]) is None
    assert why_on_cpu([whole, part]) == part
    assert why_on_cpu([INSUFFICIENT, part]) == INSUFFICIENT  # the first is the cause
    assert all(map(telling, (OOM, INSUFFICIENT, whole, part)))
    assert not telling("slot update_slots: id  0 | out of memory is not what this says")


def needs(words: str = "", head: Head = UNTIED, size: int | None = 500) -> Need:
    made = pool("/m.gguf")
    made = evolve(made, engine=evolve(made.engine, args=tuple(words.split())))
    return LlamaCpp().need(made, size, head)


KV = 2 * 2 * 128 * 4 * 2 * 1024  # K and V, heads, values, layers, f16, ctx


@pytest.mark.req("ORCH-3003", "OC-CORE-1014", "OC-POOL-3012")
@pytest.mark.parametrize(
    ("words", "weights", "kv", "host"),
    [
        ("", 421, KV, 0),
        ("-ngl 3", 221, KV // 2, KV // 2),
        ("--no-mmap", 421, KV, 10),
        ("--mlock", 421, KV, 500),
        ("-nkvo", 421, 0, KV),
        ("--cpu-moe", None, KV, 0),
        ("-ctk turbo3", 421, None, 0),
    ],
)
def test_an_engine_needs_what_its_file_and_arguments_say(
    words: str, weights: int | None, kv: int | None, host: int
) -> None:
    need = needs(words)
    assert (need.weights_bytes, need.kv_bytes) == (weights, kv)
    assert need.ram_bytes == RAM_OVERHEAD_BYTES + host
    assert need.floor_bytes == (None if weights is None else int(weights * 0.9))


@pytest.mark.req("OC-CORE-1014")
def test_what_its_file_does_not_say_stays_unknown() -> None:
    dark = needs(head=Head(why="m.gguf cannot be read: it is no GGUF file"))
    assert (dark.weights_bytes, dark.floor_bytes, dark.kv_bytes) == (500, None, None)
    assert dark.kv_why == "m.gguf cannot be read: it is no GGUF file"
    other = needs("-md d.gguf", head=evolve(UNTIED, keys=keys("gemma3")))  # type: ignore[arg-type]
    assert other.kv_why == "no formula for architecture gemma3"
    assert other.unknown == ("KV cache", "draft model")
    assert other.floor_bytes == int(421 * 0.9)  # weights are weights in any architecture
    assert needs(size=None).weights_bytes is None


@pytest.mark.req("ORCH-1102")
def test_arguments_that_keep_it_off_the_gpu_are_refused() -> None:
    with pytest.raises(OrchError) as caught:
        needs("-ngl 0")
    assert caught.value.kind is Kind.CONFIG_INVALID
