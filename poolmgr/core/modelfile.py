"""What a model's files say of its size, and which part of it llama.cpp puts on the GPUs.

Which tensors go where is llama.cpp's (src/llama-model.cpp, load_tensors): the input layer stays on
the host, the last layers and the output go to the GPUs. The file formats are gguf.py's and
safetensors.py's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from attrs import field, frozen

from poolmgr.core.gguf import Value

INPUT: Final = frozenset(
    [
        "token_embd.weight",
        "token_embd_norm.weight",
        "token_embd_norm.bias",
        "position_embd.weight",
        "token_types.weight",
        "per_layer_token_embd.weight",
    ]
)
_OUTPUT: Final = "output.weight"
_EMBEDDING: Final = "token_embd.weight"
_BLOCK: Final = re.compile(r"blk\.(\d{1,6})\.")


@frozen(kw_only=True)
class Head:
    """What the heads of all files of a model say together."""

    keys: Mapping[str, Value] = field(factory=dict)
    tensors: Mapping[str, int] | None = None
    """Bytes of each. None: not read."""
    weights_bytes: int | None = None
    """Of all tensors. None: not read."""
    why: str | None = None
    """Why it was not read, in words."""

    @property
    def layers(self) -> int | None:
        """How many layers repeat; None: not said."""
        arch = self.keys.get("general.architecture")
        count = self.keys.get(f"{arch}.block_count")
        return count if type(count) is int and count > 0 else None


@frozen
class Weights:
    """Bytes of weights, by where they are."""

    gpus: int
    host: int


def weights(head: Head, layers_on_gpu: int | None) -> Weights | None:
    """Return where the weights go with `--n-gpu-layers` (None: all); None where it is not known.

    The output counts as the last layer. A model without one of its own uses its embedding, which
    is then on the host and on the GPU.
    """
    tensors, layers = head.tensors, head.layers
    if tensors is None:
        return None
    first = 0
    if layers_on_gpu is not None:
        if layers is None:
            return None if layers_on_gpu else Weights(0, sum(tensors.values()))
        first = max(0, layers + 1 - layers_on_gpu)
    gpus = host = 0
    for name, size in tensors.items():
        block = _BLOCK.match(name)
        if name in INPUT or (int(block[1]) < first if block else layers_on_gpu == 0):
            host += size
        else:
            gpus += size
    if _OUTPUT not in tensors and layers_on_gpu != 0:
        gpus += tensors.get(_EMBEDDING, 0)
    return Weights(gpus, host)


def share_of_layers(head: Head, layers_on_gpu: int | None) -> float:
    """Return the part of the repeating layers, and so of the KV cache, that is on the GPUs."""
    layers = head.layers
    if layers_on_gpu is None or layers is None:
        return 1.0
    return max(0, min(layers, layers_on_gpu - 1)) / layers
