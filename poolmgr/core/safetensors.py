"""How many bytes of weights a safetensors file holds, from its header. Bytes in, a number out.

The format: a little-endian u64 with the header's length, then JSON: name -> dtype, shape and
`data_offsets` (github.com/huggingface/safetensors, README, Format).
"""

from __future__ import annotations

import json
import struct
from typing import Final

from poolmgr.core.gguf import Malformed, Short

MAX_HEADER: Final = 4 << 20
"""Bytes of JSON; a model of 1,000 tensors has some 100 KiB. The format allows 100 MB."""


def weights_bytes(data: bytes, file_bytes: int) -> int:
    """Return the bytes of all tensors. Raises Malformed, Short."""
    if len(data) < 8:
        raise Short if file_bytes >= 8 else Malformed("it is no safetensors file")
    (length,) = struct.unpack_from("<Q", data)
    if length > MAX_HEADER or length > file_bytes - 8:
        raise Malformed(f"its header claims {length} bytes")
    if len(data) < 8 + length:
        raise Short
    try:
        header = json.loads(data[8 : 8 + length])
    except (ValueError, RecursionError):
        raise Malformed("its header is no JSON") from None
    if not isinstance(header, dict):
        raise Malformed("its header is no table of tensors")
    total, room = 0, file_bytes - 8 - length
    for name, said in header.items():
        if name == "__metadata__":
            continue
        offsets = said.get("data_offsets") if isinstance(said, dict) else None
        match offsets:
            case [int() as begin, int() as end] if 0 <= begin <= end <= room:
                total += end - begin
            case _:
                raise Malformed(f"its tensor {name[:64]!r} has no place in the file")
    return total
