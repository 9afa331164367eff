"""The tiny model of tiny_gguf.py as a Hugging Face folder: the same weights, the same tokenizer.

Here: the folder's files (config.json, model.safetensors, tokenizer.json). Not here: the weights
(tiny_gguf.py). llama.cpp rotates channels (2i, 2i+1) of a head, Hugging Face (i, i + d/2): so the
rows of q and k are sorted anew, and both compute the same.
"""

from __future__ import annotations

import json
import random
import struct
import sys
from array import array
from pathlib import Path
from typing import Any

from tests.lab.tiny_gguf import (
    CHATML,
    PLAIN,
    SPECIAL,
    Matrix,
    TinyModel,
    logit_biases,
    noise,
    tensors,
    vocabulary,
)

NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def name_of(gguf: str) -> str:
    """`blk.0.attn_q.weight` as Hugging Face calls it."""
    parts = gguf.removesuffix(".weight").split(".")
    if parts[0] != "blk":
        return f"{NAMES[parts[0]]}.weight"
    return f"model.layers.{parts[1]}.{NAMES[parts[2]]}.weight"


def sorted_rows(values: array[float], columns: int, head_dim: int) -> array[float]:
    """Rows from (2i, 2i+1) to (i, i + d/2), head by head."""
    half, size = head_dim // 2, head_dim * columns
    made = array("f")
    for head in range(0, len(values), size):
        for part in (0, 1):
            for row in range(half):
                at = head + (2 * row + part) * columns
                made += values[at : at + columns]
    return made


def score(model: TinyModel) -> Matrix:
    """The head of a classifier with one class, which scores a text."""
    return "score.weight", (1, model.dim), noise(random.Random(model.seed + 1), model.dim, 1.0)


def write_safetensors(path: Path, model: TinyModel, *, classifier: bool) -> None:
    """The weights, as one file."""
    tokens, _, first_special = vocabulary()
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    parts: list[bytes] = []
    offset = 0
    biases = logit_biases(len(tokens), first_special, model.eos_bias)
    for name, shape, values in (
        *tensors(model, len(tokens), biases),
        *((score(model),) if classifier else ()),
    ):
        little = values[:]
        if name.endswith(("attn_q.weight", "attn_k.weight")):
            little = sorted_rows(values, shape[1], model.head_dim)
        if sys.byteorder == "big":
            little.byteswap()
        raw = little.tobytes()
        end = offset + len(raw)
        known = name if name == "score.weight" else name_of(name)
        header[known] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, end]}
        parts.append(raw)
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(parts))


def config(model: TinyModel, first_special: int, n_tokens: int) -> dict[str, Any]:
    """config.json."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": n_tokens,
        "hidden_size": model.dim,
        "intermediate_size": model.ffn,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.kv_heads,
        "head_dim": model.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": model.ctx,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "bos_token_id": first_special,
        "eos_token_id": first_special + 1,
        "pad_token_id": first_special + 4,
        "initializer_range": 0.02,
        "use_cache": True,
    }


def tokenizer(tokens: list[str], merges: list[str], first_special: int) -> dict[str, Any]:
    """tokenizer.json: byte-level BPE that puts the first special token before each text."""
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
             "use_regex": True}  # fmt: skip
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    bos = {"SpecialToken": {"id": SPECIAL[0], "type_id": 0}}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": first_special + at, "content": text, **plain, "special": True}
            for at, text in enumerate(SPECIAL)
        ],
        "normalizer": None,
        "pre_tokenizer": level,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [bos, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [bos, {"Sequence": {"id": "A", "type_id": 0}},
                     {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {
                SPECIAL[0]: {"id": SPECIAL[0], "ids": [first_special], "tokens": [SPECIAL[0]]}
            },
        },
        "decoder": level,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
            "ignore_merges": False, "vocab": {text: at for at, text in enumerate(tokens)},
            "merges": merges,
        },
    }  # fmt: skip


def write_tiny_hf(folder: Path, model: TinyModel = PLAIN, *, classifier: bool = False) -> None:
    """Write the folder's files; it exists. A `classifier` gives a text a score, and no text."""
    tokens, merges, first_special = vocabulary()
    special = {"bos_token_id": first_special, "eos_token_id": first_special + 1,
               "pad_token_id": first_special + 4}  # fmt: skip
    about = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": model.ctx,
        "bos_token": SPECIAL[0],
        "eos_token": SPECIAL[1],
        "pad_token": SPECIAL[4],
        "clean_up_tokenization_spaces": False,
        "chat_template": CHATML,
    }
    told = config(model, first_special, len(tokens))
    if classifier:
        one = {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
        told |= {"architectures": ["LlamaForSequenceClassification"], **one}
    for name, value in (
        ("config.json", told),
        ("generation_config.json", special),
        ("tokenizer.json", tokenizer(tokens, merges, first_special)),
        ("tokenizer_config.json", about),
    ):
        (folder / name).write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n")
    write_safetensors(folder / "model.safetensors", model, classifier=classifier)
