"""Admission and cancel cost the same with 10 and with 100,000 tasks before them."""

import time
from collections.abc import Callable
from functools import partial

import pytest

from orchd.core.events import Cancel, ReplicaSeen, Submit, Tick
from orchd.core.front import Front
from tests.core.making import pool, request, snapshot, uid

SAMPLES = 400


def cost_us(waiting: int) -> dict[str, float]:
    """Return the median cost of a step with so many tasks in the queue, in microseconds."""
    front = Front([pool(queue_interactive=waiting + 2 * SAMPLES)])
    front.handle(ReplicaSeen(snapshot(tokens_per_s=1e9)), 0.0)
    for number in range(waiting + 1):
        front.handle(_submit(number), 0.0)
    found: dict[str, list[int]] = {"admit": [], "status": [], "cancel": [], "tick": []}
    for number in range(waiting + 1, waiting + 1 + SAMPLES):
        middle = uid(1 + (number * 7919) % (waiting - 1))
        found["admit"].append(_timed(partial(front.handle, _submit(number), 0.0)))
        found["status"].append(_timed(partial(front.task_status, middle, 0.0)))
        found["tick"].append(_timed(partial(front.handle, Tick(), 0.0)))
    for number in range(waiting + 1, waiting + 1 + SAMPLES):
        found["cancel"].append(_timed(partial(front.handle, Cancel(uid(number), "client"), 0.0)))
    return {name: sorted(times)[len(times) // 2] / 1000 for name, times in found.items()}


def _submit(number: int) -> Submit:
    return Submit(request(number, max_tokens=1, deadline_ms=10**9), b"", "c")


def _timed(step: Callable[[], object]) -> int:
    begin = time.perf_counter_ns()
    step()
    return time.perf_counter_ns() - begin


@pytest.mark.slow
@pytest.mark.req("OC-CORE-1003", "OC-CORE-1005")
def test_cost_does_not_grow_with_the_queue() -> None:
    few, many = cost_us(10), cost_us(100_000)
    for step, cost in many.items():
        assert cost < 4 * few[step] + 20, (step, few, many)
