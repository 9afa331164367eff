"""Records contracts/dialects/llama from the real servers: `python -m tests.engines.record`.

Each transcript is the body of one answer exactly as it came, without the HTTP chunks. Run it after
a new llama.cpp, look at the difference, and see that tests/poolmgr/dialects still passes.
"""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path
from typing import Any

import orjson

from orchd.wire.shapes import Workload
from poolmgr.dialects import llama
from tests.engines.servers import REAL, job, running

FOLDER = Path(__file__).resolve().parents[2] / "contracts/dialects/llama"
UNICODE = r'root ::= "\u00e9\u20ac\u8a00\U0001f30d \"q\" \\ \n\u4e16\u754c"'
CTX = 256
_MODEL = re.compile(rb'"/[^"]*/(?=[^"/]*\.gguf)')

# name -> (what the adapter would send, changed so; why)
CASES: dict[str, tuple[dict[str, Any], str]] = {
    "limit": ({}, "max_tokens reached"),
    "eos": ({"n_predict": 400, "temperature": 2.5, "samplers": ["temperature"], "seed": 2},
            "the model ended by itself: a frame without content"),
    "unicode": ({"grammar": UNICODE, "n_predict": 48},
                "characters of several tokens, and what JSON escapes"),
    "progress": ({"return_progress": True, "n_predict": 4}, "progress frames before the tokens"),
    "full": ({"n_predict": 100000, "ignore_eos": True}, "the context is full before max_tokens"),
    "whole": ({"response_fields": None, "n_predict": 3}, "without response_fields"),
    "word": ({"stop": ["e"], "n_predict": 100}, "a stop word"),
    "toolong": ({"prompt": "hello " * 600}, "the prompt is longer than the context: HTTP 400"),
    "badjson": ({"prompt": None}, "a request that is none: HTTP 400"),
}  # fmt: skip


VECTORS: dict[Workload, tuple[tuple[str, ...], tuple[str, ...], str]] = {
    Workload.EMBEDDING: (("Hello there", "", "the ring"), ("--pooling", "mean"),
                         "three texts, one of them empty"),
    Workload.RERANK: (("the ring", "a thing", "the ring", ""), (),
                      "a query and three documents"),
}  # fmt: skip


def request(change: dict[str, Any]) -> bytes:
    """What the adapter sends, with the change; None takes a key out."""
    value = orjson.loads(llama.completion(job("Hello there", max_tokens=12)))
    value.update(change)
    return orjson.dumps({key: item for key, item in value.items() if item is not None})


def main() -> None:
    """Write the transcripts of both builds and an index of them."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    index: dict[str, Any] = {}
    for build in REAL:
        with tempfile.TemporaryDirectory() as folder, running(build, Path(folder), ctx=CTX) as it:
            props = orjson.loads(it.ask("GET", "/props")[1])
            for name, (change, why) in CASES.items():
                status, body = it.ask("POST", "/completion", request(change))
                (FOLDER / f"{name}.{build}.txt").write_bytes(body)
                index[f"{name}.{build}"] = {"status": status, "why": why}
            for name in ("props", "health"):
                status, body = it.ask("GET", f"/{name}")
                body = _MODEL.sub(rb'"/models/', body)  # not where this machine keeps it
                (FOLDER / f"{name}.{build}.txt").write_bytes(body)
                index[f"{name}.{build}"] = {"status": status, "why": f"GET /{name}"}
            index[build] = {"build_info": props["build_info"]}
        for workload, (inputs, args, why) in VECTORS.items():
            with (
                tempfile.TemporaryDirectory() as folder,
                running(build, Path(folder), ctx=CTX, workloads=(workload,), args=args) as it,
            ):
                call = it.adapter.submit(job(workload=workload, inputs=inputs))
                status, body = it.ask(call.method, call.path, call.body)
                (FOLDER / f"{workload}.{build}.txt").write_bytes(_MODEL.sub(rb'"/models/', body))
                index[f"{workload}.{build}"] = {"status": status, "why": why}
    (FOLDER / "index.json").write_text(json.dumps(index, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
