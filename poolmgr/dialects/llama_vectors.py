"""Where llama-server embeds and ranks, and what its refusals mean. The answers are vectors.py's.

`/embeddings` would do too, but tells no token counts. Recorded from llama.cpp b11669 and b11549
(contracts/dialects/llama).
"""

from __future__ import annotations

import re
from typing import Final

from orchd.wire.errors import Kind, OrchError
from orchd.wire.shapes import Workload
from poolmgr.dialects import llama_errors

PATHS: Final = {Workload.EMBEDDING: "/v1/embeddings", Workload.RERANK: "/rerank"}
_TOO_LARGE = re.compile(r"input \((\d+) tokens\) is too large")


def refusal(status: int, body: bytes) -> OrchError:
    """Return what an answer other than 200 means: a text that is too long is the client's."""
    error = llama_errors.http_error(status, body)
    match = _TOO_LARGE.search(error.message)
    if match is not None:
        why = f"a text of {match[1]} tokens does not fit into the context of one slot"
        return OrchError(Kind.INVALID_PARAMS, why, path="$.inputs")
    if "ooling type 'none'" in error.message:
        why = 'the model names no pooling: add some to engine.args, such as ["--pooling", "mean"]'
        return OrchError(Kind.CONFIG_INVALID, why)
    if error.kind is Kind.INVALID_PARAMS:
        return OrchError(error.kind, error.message, path="$.inputs")
    return error
