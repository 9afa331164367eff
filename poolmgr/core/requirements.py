"""What a model asks for, from its own files: architecture, quantisation, context, layers, KV cache.

Bytes and JSON have been read (gguf.py, provision/models/heads.py); what the files do not tell stays
None. Whether it fits is fit.py's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from attrs import frozen

from poolmgr.core import kvcache
from poolmgr.core.gguf import Value
from poolmgr.core.kvcache import Cell
from poolmgr.core.modelfile import Head

FILE_TYPES: Final[Mapping[int, str]] = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K",
    11: "Q3_K_S", 12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S",
    17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS", 21: "Q2_K_S", 22: "IQ3_XS",
    23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S",
    29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0",
    38: "MXFP4_MOE",
}  # fmt: skip
"""`general.file_type` of a GGUF (llama.cpp, include/llama.h, enum llama_ftype)."""
_BYTES: Final[Mapping[str, int]] = {"float32": 4, "float16": 2, "bfloat16": 2}
_OTHER_CACHES: Final = ("kv_lora_rank", "layer_types", "sliding_window", "mamba_d_state")
"""Keys of a config.json whose models keep their past in another way than a whole cache a layer."""
MAX_COUNT: Final = 1 << 24


@frozen(kw_only=True)
class ModelRequirements:
    """What is known of a model before an engine has loaded it."""

    arch: str | None = None
    quant: str | None = None
    ctx_trained: int | None = None
    """Tokens of context that it was made for."""
    layers: int | None = None
    weights_bytes: int | None = None
    kv_bytes_per_token: int | None = None
    """With a cache of 16 bits (GGUF), or of the weights' own type."""

    @property
    def words(self) -> str:
        """What is known, for a sentence: `llama, Q4_K_M, 32 layers, trained for 8192 tokens`."""
        known = (
            self.arch,
            self.quant,
            None if self.layers is None else f"{self.layers} layers",
            None if self.ctx_trained is None else f"trained for {self.ctx_trained} tokens",
            None
            if self.kv_bytes_per_token is None
            else f"{self.kv_bytes_per_token} bytes of KV cache a token",
        )
        return ", ".join(one for one in known if one is not None) or "its files tell nothing"


def of(head: Head, config: Mapping[str, object]) -> ModelRequirements:
    """Return the requirements of a model: `config` is its config.json, empty where it has none."""
    if head.keys:
        return _of_gguf(head)
    return _of_config(config, head.weights_bytes)


def _of_gguf(head: Head) -> ModelRequirements:
    keys = head.keys
    arch = keys.get("general.architecture")
    kind = keys.get("general.file_type")
    cell = kvcache.cell(keys)
    a_token = cell.bytes("f16", "f16") if isinstance(cell, Cell) else None
    return ModelRequirements(
        arch=arch[:80] if isinstance(arch, str) else None,
        quant=FILE_TYPES.get(kind) if type(kind) is int else None,
        ctx_trained=_count(keys.get(f"{arch}.context_length")),
        layers=head.layers,
        weights_bytes=head.weights_bytes,
        kv_bytes_per_token=None if a_token is None else int(a_token),
    )


def _of_config(config: Mapping[str, object], weights_bytes: int | None) -> ModelRequirements:
    arch, kind = config.get("model_type"), config.get("torch_dtype") or config.get("dtype")
    how = config.get("quantization_config")
    quant = how.get("quant_method") if isinstance(how, dict) else kind
    layers = _count(config.get("num_hidden_layers"))
    heads = _count(config.get("num_attention_heads"))
    width = _count(config.get("hidden_size"))
    of_kv = _count(config.get("num_key_value_heads")) or heads
    head = _count(config.get("head_dim")) or (width // heads if width and heads else None)
    each = _BYTES.get(kind) if isinstance(kind, str) else None
    whole = not any(config.get(key) for key in _OTHER_CACHES)
    kv = 2 * layers * of_kv * head * each if whole and layers and of_kv and head and each else None
    return ModelRequirements(
        arch=arch[:80] if isinstance(arch, str) else None,
        quant=quant[:80] if isinstance(quant, str) else None,
        ctx_trained=_count(config.get("max_position_embeddings")),
        layers=layers,
        weights_bytes=weights_bytes,
        kv_bytes_per_token=kv,
    )


def _count(value: Value | object) -> int | None:
    return value if type(value) is int and 0 < value <= MAX_COUNT else None
