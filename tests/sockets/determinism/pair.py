"""Two replicas of one set on unlike GPUs, with the real llama.cpp server, and what a client sees.

Here: the configuration, the tasks, and the frames as they came over the public API. Not here: what
must be alike (test_replicas.py) and what may differ (test_differences.py).
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from uuid import uuid4

import trio
from attrs import frozen

from orchd.kit.client import Client
from tests.lab.llama import Command
from tests.lab.nvml import FakeNvml, once_shown
from tests.sockets.suite import Suite
from tests.sockets.talk import events_of, get, last, submit

SEEDS = range(64)
MAX_TOKENS = 32
PROMPT = "The quick brown fox went. " * 30
"""Longer than a small micro-batch, and than what flash attention reads at once: both then round
in another order. With 90 characters no setting makes a difference."""
POOL = "set"
READY_S = 30.0


@frozen
class Seen:
    """What one task gave: its token frames byte by byte, and how long they took."""

    frames: tuple[bytes, ...]
    reason: str
    replica_id: str
    first_token_ms: int | None
    """None: the text ended before its first token."""
    decode_time_ms: int

    @property
    def said(self) -> tuple[tuple[bytes, ...], str]:
        """What has to be the same wherever and whenever the task runs."""
        return self.frames, self.reason


def pool(
    command: Command,
    model: Path,
    *,
    pool_id: str = POOL,
    replicas: str = "[[0], [1]]",
    slots: int = 1,
    args: tuple[str, ...] = (),
) -> str:
    """A pool of the configuration."""
    argv, _env = command
    return f"""
[[pools]]
id = "{pool_id}"
engine = {{ id = "llamacpp", args = {json.dumps(list(args))} }}
model = {{ ref = "file:{model}" }}
replicas = {replicas}
ctx = 1024
slots = {slots}
provisioning = {{ mode = "binary", command = {json.dumps(once_shown(argv))} }}
"""


async def show_engines(suite: Suite, nvml: FakeNvml, gpus: dict[str, int]) -> None:
    """Show each replica's engine on its fake GPU, as a CUDA build does, and wait for Ready."""
    for replica_id, gpu in gpus.items():
        wait = partial(suite.wait_event, "engine_started", replica_id=replica_id)
        started = await trio.to_thread.run_sync(wait)
        nvml.follow_process(gpu, int(started["engine_pid"]), 300)
    await trio.to_thread.run_sync(suite.wait_ready)


async def run(client: Client, model: Path, gpu: int, **changes: object) -> Seen:
    """One strict task on the replica of that GPU, in a session of its own."""
    wanted: dict[str, object] = {
        "engine": "llamacpp",
        "model_ref": f"file:{model}",
        "prompt": PROMPT,
        "ctx": 1024,
        "max_tokens": MAX_TOKENS,
        "session_id": str(uuid4()),
        "placement": {"mode": "auto", "require_device_mask": [gpu]},
        **changes,
    }
    task = await submit(client, **wanted)
    events = await events_of(client, task["task_id"])
    assert events[-1].name == "end", events[-1].data
    told = await get(client, f"/v1/tasks/{task['task_id']}")
    end, timings = last(events), told["timings"]
    frames = tuple(event.data.encode() for event in events if event.name == "token")
    assert end["tokens_out"] >= len(frames)
    return Seen(
        frames=frames,
        reason=end["finish_reason"],
        replica_id=told["replica_id"],
        first_token_ms=timings.get("first_token_ms"),
        decode_time_ms=timings["decode_time_ms"],
    )
