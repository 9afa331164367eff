"""Records contracts/dialects/openai and vllm: `python -m tests.engines.record_openai`.

With `ORCHD_TEST_VLLM=1` vLLM too. Each transcript is the body of one answer exactly as it came,
without the HTTP chunks. Run it after a new version, look at the difference, and see that
tests/poolmgr/dialects still passes.
"""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path
from typing import Any

import orjson

from poolmgr.engines.base import Call
from tests.engines.servers import OPENAI, Running, job, running
from tests.lab.needs import missing
from tests.lab.vllm import VLLM

FOLDER = Path(__file__).resolve().parents[2] / "contracts/dialects"
CTX = 256
LONG = "word " * 600
# name -> (what the adapter would send, changed so; why)
CASES: dict[str, tuple[dict[str, Any], str]] = {
    "limit": ({}, "max_tokens reached"),
    "eos": ({"max_tokens": 200, "temperature": 2.0}, "the model ended by itself"),
    "full": ({"max_tokens": 255, "ignore_eos": True}, "the context is full before max_tokens"),
    "nousage": ({"stream_options": None}, "a server that was not asked for usage"),
    "toolong": ({"prompt": LONG, "messages": [{"role": "user", "content": LONG}]},
                "the prompt is longer than the context: HTTP 400"),
    "badvalue": ({"max_tokens": "many"}, "a request that is none: HTTP 400"),
    "nomodel": ({"model": "nope"}, "another model than it serves: 404 from vLLM, llama.cpp serves"),
}  # fmt: skip
_PATH = re.compile(rb'"/[^"]*/(?=[^"/]*")')


def request(server: Running, change: dict[str, Any]) -> Call:
    """What the adapter sends, with the change; None takes a key out."""
    call = server.adapter.submit(job("Hello there", max_tokens=12))
    value = orjson.loads(call.body)
    other = "prompt" if "messages" in value else "messages"
    value.update({key: item for key, item in change.items() if key != other})
    body = orjson.dumps({key: item for key, item in value.items() if item is not None})
    return Call(method="POST", path=call.path, body=body)


def record(server: Running, folder: Path, suffix: str) -> dict[str, Any]:
    """Write the transcripts of one server; return their part of the index."""
    folder.mkdir(parents=True, exist_ok=True)
    calls = {name: (request(server, change), why) for name, (change, why) in CASES.items()}
    for call in {server.adapter.health(), *server.adapter.props(), server.adapter.usage()}:
        if call is not None:
            calls[call.path.rpartition("/")[2]] = (call, f"GET {call.path}")
    tokens = server.adapter.tokenize("Hello there")
    if tokens is not None:
        calls["tokenize"] = (tokens, f"POST {tokens.path}")
    index: dict[str, Any] = {}
    for name, (call, why) in calls.items():
        status, body = server.ask(call.method, call.path, call.body)
        for seed in range(64):
            if name != "eos" or b'"finish_reason":"stop"' in body:
                break
            again = orjson.dumps(orjson.loads(call.body) | {"seed": seed})
            status, body = server.ask(call.method, call.path, again)
        (folder / f"{name}.{suffix}.txt").write_bytes(_PATH.sub(b'"/models/', body))
        index[f"{name}.{suffix}"] = {"status": status, "why": why}
    return index


def main() -> None:
    """Write the transcripts of every server that is there."""
    found: dict[str, dict[str, Any]] = {"openai": {}}
    for name in OPENAI:
        with tempfile.TemporaryDirectory() as folder, running(name, Path(folder), ctx=CTX) as it:
            found["openai"] |= record(it, FOLDER / "openai", name)
    if not missing(VLLM):
        with tempfile.TemporaryDirectory() as folder, running("vllm", Path(folder), ctx=CTX) as it:
            found["vllm"] = record(it, FOLDER / "vllm", "vllm")
    for dialect, index in found.items():
        text = json.dumps(index, indent=1, sort_keys=True) + "\n"
        (FOLDER / dialect / "index.json").write_text(text)


if __name__ == "__main__":
    main()
