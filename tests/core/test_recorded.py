"""A 24 GB and a 12 GB GPU without a pin, on snapshots that poolmgrs really said (snapshots/)."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import orjson
import pytest

from orchd.wire import codec
from orchd.wire.ids import Positive
from orchd.wire.snapshot import Snapshot
from tests.core.making import House, pool

RECORDED = orjson.loads((Path(__file__).parent / "snapshots" / "24-and-12-gb.json").read_bytes())
QWEN_7B, QWEN_3B = "mock:qwen-7b", "mock:qwen-3b"

pytestmark = [pytest.mark.req("ORCH-1103", "HME-010", "ORCH-3820")]


def moment(name: str) -> House:
    """Return a house that has just seen the snapshots of one moment."""
    house = House.of(
        pool("big", model_ref=QWEN_7B, queue_interactive=64),
        pool("small", model_ref=QWEN_7B, replica_ids=("small:1",), queue_interactive=64),
        pool("pair", 2, model_ref=QWEN_3B, queue_interactive=64),
    )
    house.see(*(codec.structure(Snapshot, each) for each in RECORDED["moments"][name]))
    return house


def placed(house: House, count: int, model: str = QWEN_7B, tokens: int = 100) -> list[str]:
    """Return where so many tasks go that come at once: a replica, or a pool to wait in."""
    said = []
    for number in range(count):
        admitted = house.admit(number, model_ref=model, max_tokens=tokens, session_id=f"s-{number}")
        said.append(admitted.started.replica_id or f"waits in {admitted.accepted.pool_id}")
    return said


def test_before_anything_is_measured_load_and_free_vram_share_the_work() -> None:
    assert placed(moment("idle"), 6) == [
        "big:0", "small:1", "big:0", "small:1", "waits in big", "waits in small",
    ]  # fmt: skip


@pytest.mark.req("ORCH-3902")
def test_when_both_are_measured_the_faster_gpu_takes_more() -> None:
    """big: 20 ms and 100 tokens/s. small: 40 ms and 40 tokens/s, so 2.5 times as long."""
    said = placed(moment("measured"), 8)
    assert said[:2] == ["big:0", "big:0"]
    assert said[2:4] == ["waits in big", "waits in big"]  # over in 2.1 s; small: 2.6 s
    assert said[4:6] == ["small:1", "small:1"]
    assert Counter(where.removeprefix("waits in ")[:3] for where in said) == {"big": 6, "sma": 2}


@pytest.mark.req("ORCH-3012", "OC-CORE-1012")
def test_within_one_set_the_gpu_with_more_free_vram_goes_first() -> None:
    house = moment("measured")
    assert placed(house, 3, QWEN_3B) == ["pair:0", "pair:1", "waits in pair"]
    for number in (0, 1):
        house.finish(number)
    assert house.front.task_status(house.admit(9, model_ref=QWEN_3B).task_id, house.now).replica_id


def test_what_the_snapshots_say_of_busy_slots_is_not_counted_twice() -> None:
    """orchd counts its own leases; a fresh orchd has none, whatever poolmgrs are still doing."""
    assert placed(moment("busy"), 2) == ["big:0", "big:0"]


@pytest.mark.req("ORCH-3010", "ORCH-3901")
def test_a_draining_gpu_gets_nothing_and_the_other_takes_all() -> None:
    house = moment("draining")
    assert placed(house, 4) == ["big:0", "big:0", "waits in big", "waits in big"]
    house.admit(9, model_ref=QWEN_7B)
    log = house.front.task_status(house.admit(10, model_ref=QWEN_7B).task_id, house.now).decision
    assert log is not None
    assert {c.replica_id: c.excluded for c in log.considered} == {
        "big:0": None, "small:1": "draining",
    }  # fmt: skip


@pytest.mark.parametrize("ctx", [4096, 8192])
def test_a_context_goes_where_it_fits(ctx: int) -> None:
    house = moment("measured")
    admitted = house.admit(1, model_ref=QWEN_7B, ctx=Positive(ctx))
    assert admitted.started.replica_id == "big:0"
    error = house.refuse(2, model_ref=QWEN_3B, ctx=Positive(8192))
    assert error.fields.path == "$.ctx"
