"""The formula of the KV cache, against figures that llama.cpp itself has printed."""

from __future__ import annotations

import pytest

from poolmgr.core.kvcache import Cell, cell, cells
from poolmgr.core.modelfile import Head, Weights, share_of_layers, weights

MIB = 1 << 20


def keys(arch: str = "llama", **said: object) -> dict[str, object]:
    shape: dict[str, object] = {
        "block_count": 4,
        "embedding_length": 256,
        "attention.head_count": 2,
    }
    shape |= {name.replace("__", "."): value for name, value in said.items()}
    named = {f"{arch}.{name}": value for name, value in shape.items() if value is not None}
    return {"general.architecture": arch, **named}


PRINTED = [
    # ctx, slots, unified, K, V, MiB that llama-server b11669 prints for tests/lab's tiny-slow
    (16384, 2, False, "f16", "f16", 32.00),
    (1000, 3, False, "q8_0", "f16", 2.30),
    (1000, 2, True, "q8_0", "q4_0", 0.81),
]


@pytest.mark.req("OC-CORE-1014", "OC-POOL-3002")
@pytest.mark.parametrize(("ctx", "slots", "unified", "k", "v", "mib"), PRINTED)
def test_the_formula_gives_what_llama_server_printed(
    ctx: int, slots: int, unified: bool, k: str, v: str, mib: float
) -> None:
    made = cell(keys(attention__head_count_kv=1))  # type: ignore[arg-type]
    assert isinstance(made, Cell)
    each = made.bytes(k, v)
    assert each is not None
    assert round(float(each * cells(ctx, slots, unified=unified)) / MIB, 2) == mib


def test_llama_3_8b_takes_128_kib_a_token() -> None:
    # Meta's: 32 layers, 8 KV heads of 128: 32 * 8 * 128 * 2 values of 2 bytes
    shape = {"block_count": 32, "embedding_length": 4096, "attention__head_count": 32}
    made = cell(keys(**shape, attention__head_count_kv=8))  # type: ignore[arg-type]
    assert isinstance(made, Cell)
    assert made.bytes("f16", "f16") == 128 << 10
    assert made.bytes("f16", "turbo3") is None


def test_heads_may_be_told_for_each_layer_and_without_grouping() -> None:
    per_layer = cell(keys(attention__head_count_kv=(1, 2, 0, 1)))  # type: ignore[arg-type]
    assert per_layer == Cell(4 * 128, 4 * 128)
    assert cell(keys()) == Cell(4 * 256, 4 * 256)  # type: ignore[arg-type]
    own = cell(keys(attention__key_length=192, attention__value_length=64))  # type: ignore[arg-type]
    assert own == Cell(4 * 2 * 192, 4 * 2 * 64)


@pytest.mark.req("OC-CORE-1014")
@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({}, "a model without architecture"),
        (keys("gemma3"), "no formula for architecture gemma3"),
        (keys("mamba"), "no formula for architecture mamba"),
        (keys("deepseek2"), "no formula for architecture deepseek2"),
        (keys(attention__sliding_window=4096), "sliding window"),
        (keys(block_count=None), "tells no llama.block_count"),
        (keys(block_count=1 << 40), "tells no llama.block_count"),
        (keys(attention__head_count=None), "size of llama's attention heads"),
        (keys(attention__head_count_kv=(1, 2)), "size of llama's attention heads"),
        (keys(attention__head_count_kv=1 << 62), "tells no llama.attention.head_count_kv"),
        (keys(attention__head_count_kv="many"), "tells no llama.attention.head_count_kv"),
    ],
)
def test_what_is_not_known_is_said_and_not_guessed(said: dict[str, object], why: str) -> None:
    told = cell(said)  # type: ignore[arg-type]
    assert isinstance(told, str)
    assert why in told


BLOCKS = {f"blk.{number}.ffn_up.weight": 100 for number in range(4)}
UNTIED = Head(
    keys=keys(),  # type: ignore[arg-type]
    tensors={"token_embd.weight": 10, "output.weight": 20, "output_norm.weight": 1, **BLOCKS},
)
TIED = Head(keys=keys(), tensors={"token_embd.weight": 10, **BLOCKS})  # type: ignore[arg-type]


@pytest.mark.req("OC-POOL-3012")
@pytest.mark.parametrize(
    ("head", "layers", "where"),
    [
        (UNTIED, None, Weights(421, 10)),
        (UNTIED, 999, Weights(421, 10)),
        (UNTIED, 5, Weights(421, 10)),
        (UNTIED, 4, Weights(321, 110)),  # the output is the last of five
        (UNTIED, 1, Weights(21, 410)),
        (UNTIED, 0, Weights(0, 431)),
        (TIED, None, Weights(410, 10)),
        (TIED, 0, Weights(0, 410)),
        (Head(why="no GGUF"), None, None),
    ],
)
def test_the_last_layers_go_to_the_gpu_and_the_input_stays(
    head: Head, layers: int | None, where: Weights | None
) -> None:
    assert weights(head, layers) == where


@pytest.mark.parametrize(
    ("layers", "share"), [(None, 1), (5, 1), (99, 1), (3, 0.5), (1, 0), (0, 0)]
)
def test_the_cache_of_a_layer_is_where_the_layer_is(layers: int | None, share: float) -> None:
    assert share_of_layers(UNTIED, layers) == share
