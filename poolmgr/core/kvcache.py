"""The KV cache of llama.cpp, from what the GGUF says: bytes of a cell, and how many cells.

The formula is llama_kv_cache's of llama.cpp (src/llama-kv-cache.cpp): on each layer K is
n_embd_head_k * n_head_kv values of its type, V is n_embd_head_v * n_head_kv, for each of kv_size
cells in each of n_stream streams. It was compared with what llama-server b11669 prints
(tests/engines). For architectures that keep their past in another way there is no figure here, and
the reason is said: a guess that is too high would keep a working pool out for ever.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Final

from attrs import frozen

from poolmgr.core.gguf import Value

PLAIN: Final = frozenset({
    "llama", "qwen2", "qwen2moe", "qwen3", "qwen3moe", "mistral3", "granite", "granitemoe",
    "gemma", "starcoder2", "stablelm", "phi2", "internlm2", "command-r", "olmo", "olmo2",
    "glm4", "exaone", "nemotron", "smollm3", "gptneox", "gpt2", "falcon", "baichuan", "yi",
    "minicpm", "deepseek", "dbrx", "orion", "xverse", "codeshell", "bloom", "mpt",
    "seed_oss", "ernie4_5",
})  # fmt: skip
"""`general.architecture` of models whose every layer has a whole cache. Not here:
sliding windows (gemma2 and later, gpt-oss, cohere2), recurrent and hybrid ones (mamba, jamba,
qwen3next, lfm2), latent attention (deepseek2), layers that share a cache, encoders."""
MAX_LAYERS: Final = 4096
MAX_COUNT: Final = 1 << 20
"""Of heads, and of values in one; what a file claims beyond is not believed."""
PAD_CELLS: Final = 256
"""Cells come in such steps (llama_context: GGML_PAD(n_ctx, 256))."""
TYPE_BYTES: Final[Mapping[str, Fraction]] = {
    "f32": Fraction(4), "f16": Fraction(2), "bf16": Fraction(2), "q8_0": Fraction(34, 32),
    "q5_1": Fraction(24, 32), "q5_0": Fraction(22, 32), "q4_1": Fraction(20, 32),
    "q4_0": Fraction(18, 32), "iq4_nl": Fraction(18, 32),
}  # fmt: skip
"""Bytes of one value: a block of 32 with its scale (ggml-common.h)."""


@frozen
class Cell:
    """What one token of context takes."""

    k_values: int
    v_values: int
    """Over all layers."""

    def bytes(self, type_k: str, type_v: str) -> Fraction | None:
        """Return the bytes; None for a type that is not known."""
        k, v = TYPE_BYTES.get(type_k), TYPE_BYTES.get(type_v)
        return None if k is None or v is None else self.k_values * k + self.v_values * v


def cell(keys: Mapping[str, Value]) -> Cell | str:
    """Return what one token takes, or why it is not known."""
    arch = keys.get("general.architecture")
    if not isinstance(arch, str) or arch not in PLAIN:
        named = f"architecture {arch}" if isinstance(arch, str) else "a model without architecture"
        return f"no formula for {named[:80]}"
    if keys.get(f"{arch}.attention.sliding_window"):
        return f"{arch} with a sliding window keeps a part only"
    layers = _count(keys, f"{arch}.block_count")
    heads = _count(keys, f"{arch}.attention.head_count")
    width = _count(keys, f"{arch}.embedding_length")
    if layers is None or layers > MAX_LAYERS:
        return f"the file tells no {arch}.block_count"
    head = width // heads if width and heads else None
    k = _count(keys, f"{arch}.attention.key_length") or head
    v = _count(keys, f"{arch}.attention.value_length") or head
    of_kv = keys.get(f"{arch}.attention.head_count_kv", heads)
    per_layer = of_kv if isinstance(of_kv, tuple) else (of_kv,) * layers
    if k is None or v is None or len(per_layer) != layers:
        return f"the file tells no size of {arch}'s attention heads"
    total = 0
    for kv_heads in per_layer:
        if type(kv_heads) is not int or not 0 <= kv_heads <= MAX_COUNT:
            return f"the file tells no {arch}.attention.head_count_kv"
        total += kv_heads
    return Cell(k_values=k * total, v_values=v * total)


def cells(ctx: int, slots: int, *, unified: bool) -> int:
    """Return the cells of a context of `ctx` tokens in all, that `slots` divide or share."""
    padded = _padded(ctx)
    return padded if unified else slots * _padded(padded // slots)


def _padded(count: int) -> int:
    return -(-count // PAD_CELLS) * PAD_CELLS


def _count(keys: Mapping[str, Value], name: str) -> int | None:
    value = keys.get(name)
    return value if type(value) is int and 0 < value <= MAX_COUNT else None
