"""What a model asks for: from the keys of a GGUF, and from a config.json."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolmgr.core.gguf import Value
from poolmgr.core.modelfile import Head
from poolmgr.core.requirements import ModelRequirements, of

LLAMA: dict[str, Value] = {
    "general.architecture": "llama",
    "general.file_type": 15,
    "llama.context_length": 8192,
    "llama.block_count": 32,
    "llama.embedding_length": 4096,
    "llama.attention.head_count": 32,
    "llama.attention.head_count_kv": 8,
}
# of meta-llama/Llama-3.1-8B-Instruct
CONFIG: dict[str, Any] = {
    "model_type": "llama", "torch_dtype": "bfloat16", "max_position_embeddings": 131072,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
    "hidden_size": 4096,
}  # fmt: skip


@pytest.mark.req("ORCH-3003")
def test_of_a_gguf() -> None:
    asks = of(Head(keys=LLAMA, tensors={"x": 7}, weights_bytes=7), {})
    assert asks == ModelRequirements(
        arch="llama", quant="Q4_K_M", ctx_trained=8192, layers=32, weights_bytes=7,
        kv_bytes_per_token=2 * 32 * 8 * 128 * 2,
    )  # fmt: skip
    assert asks.words == (
        "llama, Q4_K_M, 32 layers, trained for 8192 tokens, 131072 bytes of KV cache a token"
    )


@pytest.mark.req("ORCH-3003")
def test_of_safetensors_and_a_config() -> None:
    asks = of(Head(weights_bytes=9), CONFIG)
    assert asks == ModelRequirements(
        arch="llama", quant="bfloat16", ctx_trained=131072, layers=32, weights_bytes=9,
        kv_bytes_per_token=131072,
    )  # fmt: skip
    awq = of(Head(), CONFIG | {"quantization_config": {"quant_method": "awq"}})
    assert awq.quant == "awq"


@pytest.mark.parametrize("key", ["sliding_window", "kv_lora_rank", "layer_types"])
def test_where_no_formula_holds_there_is_no_figure(key: str) -> None:
    assert of(Head(), CONFIG | {key: 512}).kv_bytes_per_token is None


def test_of_nothing() -> None:
    assert of(Head(why="no"), {}).words == "its files tell nothing"


@given(st.dictionaries(st.sampled_from(sorted(CONFIG)), st.none() | st.integers() | st.text() |
                       st.lists(st.integers(), max_size=2) | st.floats()))  # fmt: skip
def test_whatever_a_config_says(config: dict[str, object]) -> None:
    asks = of(Head(), config)
    assert asks.kv_bytes_per_token is None or asks.kv_bytes_per_token > 0
    assert asks.words
