"""A tiny language model made of nothing: one GGUF file, the same bytes on every machine.

Here: the weights, the vocabulary and a writer for the part of GGUF they need (version 3, f32).
Not here: where the file is kept (llama.py) and who loads it. Needs neither gguf nor numpy.

How it is made to behave:
 * byte-level BPE vocabulary: 256 byte tokens, some English merges, five special tokens, so any
   text is encoded and decoded without loss;
 * channel 0 of the residual stream is constant (every embedding has the same value there and no
   layer writes to it), so column 0 of the output matrix is a logit bias per token: the output is
   printable ASCII, and the end of the sequence is as rare as `eos_bias` makes it;
 * every other weight is seeded noise, from additions and exact square roots only, so that no
   libm decides a bit of it.
"""

from __future__ import annotations

import math
import random
import struct
import sys
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from attrs import frozen

# "left right": pairs that are joined into one token; a leading "_" stands for a blank.
MERGES = (
    "t h,th e,i n,a n,an d,e r,r e,o n,a t,e n,o r,i s,i t,o u,e s,s t,in g,a l,e d,t o,o f,l e,"
    "c h,s h,a r,l l,e e,o o,w h,q u,i on,t ion,_ the,_ and,_ a,_ in,_ is,_ it,_ on,_ or,_ of,"
    "_ to,_ s,_ w,_ c,_ b,_ m,_ f,_ p,_ d,_ h,_ l,_ r,_ e,_ n,_ g,_ re,_ st,_ wh"
)
SPECIAL = ("<|bos|>", "<|eos|>", "<|im_start|>", "<|im_end|>", "<|pad|>")
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>'"
    " + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
ALIGNMENT = 32  # GGUF's default
UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9  # GGUF's value types
NORMAL_TOKEN, CONTROL_TOKEN = 1, 3
NEVER = -18.0  # a logit bias that no sampler gets past
CONSTANT = 8.0  # the value of channel 0
NOISE = 3.0  # spread of the part of the logits that depends on the context

Matrix = tuple[str, tuple[int, ...], "array[float]"]  # name, shape (rows first), values


@frozen
class TinyModel:
    """The shape of a model; dim / heads is a multiple of 32, what engines have kernels for."""

    name: str = "tiny-synthetic"
    seed: int = 0
    layers: int = 2
    dim: int = 64
    heads: int = 2
    kv_heads: int = 1
    ffn: int = 128
    ctx: int = 2048
    eos_bias: float = -1.0  # seen: the median sampled answer ends after 170 tokens

    @property
    def head_dim(self) -> int:
        """Channels of one attention head."""
        return self.dim // self.heads


PLAIN = TinyModel()
# 3,700 tokens/s on one thread (plain: 10,000), 32k of them, never an end: time to cancel and kill.
SLOW = TinyModel(name="tiny-slow", layers=4, dim=256, ctx=32768, eos_bias=NEVER)


def byte_alphabet() -> list[str]:
    """The usual reversible table of byte-level BPE, from byte to printable character."""
    keep = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    spare = iter(range(0x100, 0x200))
    return [chr(byte) if byte in keep else chr(next(spare)) for byte in range(256)]


def vocabulary() -> tuple[list[str], list[str], int]:
    """The tokens, the merges as GGUF writes them, and the number of the first special token."""
    alphabet = byte_alphabet()

    def spelled(text: str) -> str:
        return "".join(alphabet[byte] for byte in text.replace("_", " ").encode())

    pairs = [pair.split(" ") for pair in MERGES.split(",")]
    tokens = [*alphabet, *(spelled(left + right) for left, right in pairs)]
    merges = [f"{spelled(left)} {spelled(right)}" for left, right in pairs]
    return [*tokens, *SPECIAL], merges, len(tokens)


def bias_of_byte(byte: int) -> float:
    """How likely the model finds a byte: blanks and small letters most, control bytes never."""
    char = chr(byte)
    if char.isascii() and char.isalpha():
        return 0.0 if char.islower() else -2.5
    by_char = {" ": 1.0, ".": -1.0, ",": -1.0, "\n": -2.0}
    return by_char.get(char, -4.0 if 0x20 < byte < 0x7F else NEVER)


def logit_biases(n_tokens: int, first_special: int, eos_bias: float) -> list[float]:
    """One bias per token; of the special tokens only the end of sequence can come out."""
    biases = [bias_of_byte(byte) for byte in range(256)]
    biases += [1.0] * (first_special - 256)
    biases += [NEVER] * (n_tokens - first_special)
    biases[first_special + 1] = eos_bias
    return biases


def noise(rng: random.Random, count: int, spread: float) -> array[float]:
    """Nearly normal values: four uniform ones added (Irwin-Hall), scaled to the spread wanted."""
    scale, draw = spread * math.sqrt(3.0), rng.random
    return array("f", ((draw() + draw() + draw() + draw() - 2.0) * scale for _ in range(count)))


def tensors(model: TinyModel, n_tokens: int, biases: list[float]) -> Iterator[Matrix]:
    """All weights in a fixed order, under the names that llama.cpp expects."""
    rng = random.Random(model.seed)
    dim, kv_dim = model.dim, model.kv_heads * model.head_dim
    inward, ones = 1.5 / math.sqrt(dim), array("f", [1.0]) * dim

    def matrix(name: str, rows: int, columns: int, spread: float) -> Matrix:
        return name, (rows, columns), noise(rng, rows * columns, spread)

    def silent_on_channel_0(name: str, columns: int, spread: float) -> Matrix:
        made = matrix(name, dim, columns, spread)
        made[2][:columns] = array("f", [0.0]) * columns
        return made

    embedding = matrix("token_embd.weight", n_tokens, dim, 1.0)
    embedding[2][::dim] = array("f", [CONSTANT]) * n_tokens
    yield embedding
    for layer in range(model.layers):
        block = f"blk.{layer}."
        yield block + "attn_norm.weight", (dim,), ones
        yield matrix(block + "attn_q.weight", dim, dim, inward)
        yield matrix(block + "attn_k.weight", kv_dim, dim, inward)
        yield matrix(block + "attn_v.weight", kv_dim, dim, inward)
        yield silent_on_channel_0(block + "attn_output.weight", dim, inward)
        yield block + "ffn_norm.weight", (dim,), ones
        yield matrix(block + "ffn_gate.weight", model.ffn, dim, inward)
        yield matrix(block + "ffn_up.weight", model.ffn, dim, inward)
        down = 1.5 / math.sqrt(model.ffn)
        yield silent_on_channel_0(block + "ffn_down.weight", model.ffn, down)
    yield "output_norm.weight", (dim,), ones
    output = matrix("output.weight", n_tokens, dim, NOISE / math.sqrt(dim))
    # After the last RMS norm channel 0 is about CONSTANT / rms(residual): divide it out again.
    rms = math.sqrt((CONSTANT**2 + (dim - 1) * (1 + 2 * model.layers)) / dim)
    output[2][::dim] = array("f", [bias * rms / CONSTANT for bias in biases])
    yield output


def string(text: str) -> bytes:
    """A GGUF string: length and UTF-8."""
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def value(item: str | bool | int | float | list[str] | list[int]) -> bytes:
    """A GGUF value with its type before it."""
    if isinstance(item, bool):
        return struct.pack("<I?", BOOL, item)
    if isinstance(item, int):
        return struct.pack("<II", UINT32, item)
    if isinstance(item, float):
        return struct.pack("<If", FLOAT32, item)
    if isinstance(item, str):
        return struct.pack("<I", STRING) + string(item)
    kind = STRING if isinstance(item[0], str) else INT32
    body = b"".join(string(i) if isinstance(i, str) else struct.pack("<i", i) for i in item)
    return struct.pack("<IIQ", ARRAY, kind, len(item)) + body


def metadata(model: TinyModel) -> dict[str, str | bool | int | float | list[str] | list[int]]:
    """The key-value part: shape, tokenizer, chat template."""
    tokens, merges, first_special = vocabulary()
    kinds = [NORMAL_TOKEN] * first_special + [CONTROL_TOKEN] * len(SPECIAL)
    return {
        "general.architecture": "llama",
        "general.name": model.name,
        "general.file_type": 0,  # all f32
        "llama.context_length": model.ctx,
        "llama.embedding_length": model.dim,
        "llama.block_count": model.layers,
        "llama.feed_forward_length": model.ffn,
        "llama.attention.head_count": model.heads,
        "llama.attention.head_count_kv": model.kv_heads,
        "llama.attention.key_length": model.head_dim,
        "llama.attention.value_length": model.head_dim,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.dimension_count": model.head_dim,
        "llama.rope.freq_base": 10000.0,
        "llama.vocab_size": len(tokens),
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": first_special,
        "tokenizer.ggml.eos_token_id": first_special + 1,
        "tokenizer.ggml.padding_token_id": first_special + 4,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": False,
        "tokenizer.chat_template": CHATML,
    }


def pad(handle: IO[bytes]) -> None:
    """Zeros up to the next multiple of the alignment."""
    handle.write(b"\0" * (-handle.tell() % ALIGNMENT))


def write_tiny_gguf(path: Path, model: TinyModel = PLAIN) -> None:
    """Write the model to `path`."""
    tokens, _, first_special = vocabulary()
    biases = logit_biases(len(tokens), first_special, model.eos_bias)
    made = list(tensors(model, len(tokens), biases))
    keys = metadata(model)
    with path.open("wb") as handle:
        handle.write(struct.pack("<4sIQQ", b"GGUF", 3, len(made), len(keys)))
        for key, item in keys.items():
            handle.write(string(key) + value(item))
        offset = 0
        for name, shape, values in made:
            # GGUF counts dimensions from the fastest one; type 0 is f32.
            dims = struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
            handle.write(string(name) + dims + struct.pack("<IQ", 0, offset))
            offset += (4 * len(values) + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT
        pad(handle)
        for _, _, values in made:
            little = values[:]
            if sys.byteorder == "big":
                little.byteswap()
            handle.write(little.tobytes())
            pad(handle)
