"""The determinism suite: a strict task is the same bytes on every replica of its set, each time.

64 fixed seeds through the public API, with the real llama.cpp server under the settings that the
suite itself gives it. What the figures say of latency is told at the end of the run, per device.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.lab.llama import Command
from tests.lab.nvml import FakeNvml
from tests.sockets.determinism.pair import SEEDS, Seen, pool, run, show_engines
from tests.sockets.suite import Suite

pytestmark = [pytest.mark.engine, pytest.mark.slow]
GPUS = (0, 1)
AGAIN = range(63, -1, -4)
Record = Callable[[str, object], None]


def per_device(seen: dict[int, list[Seen]]) -> list[str]:
    """Lines of a table: what a task took on each device."""
    lines = []
    for gpu, all_of in seen.items():
        first = sorted(s.first_token_ms for s in all_of if s.first_token_ms is not None)
        rates = [len(s.frames) * 1000 / max(1, s.decode_time_ms) for s in all_of]
        lines.append(
            f"GPU {gpu}: {len(all_of)} tasks, first token p50 {statistics.median(first):.0f} ms, "
            f"max {first[-1]} ms, {statistics.median(rates):.0f} frames/s"
        )
    return lines


@pytest.mark.req("OC-TEST-7001", "OC-TEST-7002", "OC-TEST-7003", "ORCH-3045", "ORCH-3050")
@pytest.mark.req("OC-CORE-1030", "HME-041")
async def test_a_seed_is_the_same_bytes_on_both_replicas_and_again(
    suite_of: Callable[..., Suite],
    llama_command: Command,
    tiny_gguf: Path,
    fake_nvml: FakeNvml,
    record_property: Record,
) -> None:
    env = fake_nvml.env | dict(llama_command[1])
    suite = suite_of(pool(llama_command, tiny_gguf), env=env, wait=False)
    await show_engines(suite, fake_nvml, {"set:0": 0, "set:1": 1})
    with closing(suite.client()) as client:
        seen: dict[int, list[Seen]] = {gpu: [] for gpu in GPUS}
        for seed in SEEDS:
            for gpu in GPUS:
                seen[gpu].append(await run(client, tiny_gguf, gpu, seed=seed))
        # again, in another order: what an engine did before leaves no trace
        again = [await run(client, tiny_gguf, 1, seed=seed) for seed in AGAIN]
    first, second = seen[0], seen[1]
    assert {each.replica_id for each in first} == {"set:0"}
    assert {each.replica_id for each in second} == {"set:1"}
    assert [each.said for each in first] == [each.said for each in second]
    assert len({each.said for each in first}) > len(SEEDS) // 2, "seeds make a difference"
    assert [each.said for each in again] == [first[seed].said for seed in AGAIN]
    for line in per_device(seen):
        record_property("latency per device", line)
