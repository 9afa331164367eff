"""The quantisation of a model, read from its name: `model-Q4_K_M.gguf` is Q4_K_M.

A field of the log (`quant`, ORCH-3027), and of nothing that decides: a name may lie, and one that
says nothing is None, never a guess.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

_NAMED: Final = re.compile(
    r"""(?<![a-z0-9])(?:
        i?q[1-8](?:_(?:k(?:_(?:s|m|l|xl))?|[01]|xxs|xs|s|m|nl))?(?:_[48](?:_[48])?)?  # llama.cpp
      | tq[12]_0 | mxfp4 | nvfp4 | (?:bf|fp|f)(?:16|32) | fp8 | int[48] | w[48]a(?:8|16)
      | awq | gptq | exl2
    )(?![a-z0-9])""",
    re.VERBOSE | re.IGNORECASE,
)


@lru_cache(1024)  # the same few models come again and again
def quant_of(model_ref: str) -> str | None:
    """Return the quantisation that the last part of a reference names, in capitals."""
    name = model_ref.partition("?")[0].rstrip("/").rpartition("/")[2]
    found = _NAMED.search(name)
    return found[0].upper() if found else None
