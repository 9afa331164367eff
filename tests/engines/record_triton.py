"""Records contracts/dialects/triton from a real server: `python -m tests.engines.record_triton`.

Each transcript is the body of one answer exactly as it came, over gRPC with its frames. Run it
after a new tritonserver, look at the difference, and see that tests/poolmgr/dialects still passes.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from poolmgr.engines.base import Call
from tests.engines.servers import TRITONS, job, running
from tests.lab.triton import MODEL

FOLDER = Path(__file__).resolve().parents[2] / "contracts/dialects/triton"
JOBS = {
    "limit": (job("one two three", max_tokens=12, seed=5), "max_tokens reached"),
    "stop": (job("one two three", max_tokens=60, seed=0), "the model ended by itself"),
    "boom": (job("boom"), "the model fails before its first token"),
    "late": (job("boom-late"), "the model fails after two tokens"),
    "toolong": (job("word " * 600), "the prompt is longer than the model takes"),
}
CALLS = {
    "ready": (Call(method="GET", path="/v2/health/ready"), "GET /v2/health/ready"),
    "server": (Call(method="GET", path="/v2"), "GET /v2"),
    "config": (Call(method="GET", path=f"/v2/models/{MODEL}/config"), "the model's configuration"),
    "nomodel": (Call(method="GET", path="/v2/models/nope/config"), "a model that is not there"),
    "badjson": (
        Call(method="POST", path=f"/v2/models/{MODEL}/generate_stream", body=b'{"text'),
        "a request that is none",
    ),
}


def main() -> None:
    """Write the transcripts of both ways, and an index of them."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    index: dict[str, Any] = {}
    for name in TRITONS:
        with tempfile.TemporaryDirectory() as folder, running(name, Path(folder), ctx=512) as it:
            calls = {key: (it.adapter.submit(one), why) for key, (one, why) in JOBS.items()}
            if name == "triton":
                calls |= CALLS
            for key, (call, why) in calls.items():
                status, body = it.ask_call(call)
                (FOLDER / f"{key}.{name}.bin").write_bytes(body)
                index[f"{key}.{name}"] = {"status": status, "why": why}
    (FOLDER / "index.json").write_text(json.dumps(index, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
