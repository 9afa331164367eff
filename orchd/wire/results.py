"""Results of embedding and rerank: bounds, and how they pass the daemons as JSON that is ready.

A vector is made into text once, by poolmgr, and copied from there: orchd parses no number of it.
"""

from __future__ import annotations

from typing import Any, Final

import orjson
from attrs import field, frozen

MAX_INPUTS: Final = 1024
"""Texts of one task."""
MAX_NUMBERS: Final = 1 << 18
"""Numbers in the vectors of one task: 64 texts of 4096 dimensions. As JSON about 5 MB, which is
kept for replay and leaves in one frame."""
MAX_RESULT_BYTES: Final = 8 << 20
"""Of one result as JSON: a number is at most 24 bytes long, and 21 on the average."""


@frozen
class Ready:
    """A value that is JSON already. It goes into an answer as it is."""

    json: bytes = field(repr=False)

    def as_json(self) -> Any:
        """Return what orjson writes without reading it."""
        return orjson.Fragment(self.json)


def embeddings(vectors: list[list[float]]) -> bytes:
    """Return `{dimension, embeddings}` as JSON. The vectors are in the order of the inputs, all of
    one dimension, at least one."""
    return orjson.dumps({"dimension": len(vectors[0]), "embeddings": vectors})


def ranking(scores: list[tuple[int, float]]) -> bytes:
    """Return `{ranking: [{index, score}]}` as JSON, the best first, the earlier one of equals."""
    best = sorted(scores, key=lambda pair: (-pair[1], pair[0]))
    return orjson.dumps({"ranking": [{"index": index, "score": score} for index, score in best]})
