"""Which prompts are counted before admission, and by whom."""

from __future__ import annotations

from typing import Any

import pytest

from orchd.core.events import DrainAll
from orchd.core.limits.workloads import ADDED_TOKENS, most_tokens, to_count
from orchd.wire.control import MAX_TEXT_BYTES
from orchd.wire.errors import Kind, OrchError
from orchd.wire.shapes import Workload
from tests.core.making import House, pool, request, snapshot

ROOM = 1000 - 100  # ctx and max_tokens of making.request
MOST = ROOM - ADDED_TOKENS
LONG = "x" * (MOST + 1)


@pytest.mark.req("OC-CORE-1021", "ORCH-3016")
@pytest.mark.parametrize(
    ("more", "asked"),
    [
        ({"prompt": ""}, False),
        ({"prompt": "x" * MOST}, False),
        ({"prompt": "x" * (MOST + 1)}, True),
        ({"prompt": "\u8a00" * (MOST // 3)}, False),
        ({"prompt": "\u8a00" * (MOST // 3 + 1)}, True),
        ({"prompt": "", "max_tokens": 1000 - ADDED_TOKENS}, False),
        ({"prompt": "", "max_tokens": 1001 - ADDED_TOKENS}, True),
        ({"prompt": None}, False),
    ],
)
def test_a_prompt_may_overflow_from_its_bytes_on(more: dict[str, Any], asked: bool) -> None:
    assert bool(to_count(request(**more))) is asked


def counted_by(house: House, number: int = 1, **more: Any) -> str | None:
    return house.front.counted_by(request(number, **({"prompt": LONG} | more)), "me", house.now)


@pytest.mark.req("OC-CORE-1021")
def test_the_idlest_replica_of_the_pool_that_would_take_it_is_asked() -> None:
    house = House.of(pool("small", ctx=800), pool("demo", replicas=3))
    house.see(snapshot("small:0"), snapshot("demo:0"), snapshot("demo:1"))
    assert counted_by(house) == "demo:0"
    assert house.admit(7).started.replica_id == "demo:0"
    assert counted_by(house) == "demo:1"
    house.lose("demo:1")
    assert counted_by(house) == "demo:0", "a busy one tells as well"


@pytest.mark.parametrize(
    "more",
    [
        {"prompt": "short"},
        {"model_ref": "mock:other"},
        {"ctx": 9000},
        {"max_tokens": 1001},
        {"sampler_profile_version": "v2"},
        {"prompt": "x" * (MAX_TEXT_BYTES + 1)},
    ],
)
def test_nobody_is_asked_for_what_is_refused_anyhow_or_cannot_be_counted(
    house: House, more: dict[str, Any]
) -> None:
    assert counted_by(house, **more) is None


@pytest.mark.req("ORCH-3024")
def test_nobody_is_asked_for_a_task_that_is_known(house: House) -> None:
    house.admit(1)
    assert counted_by(house, 1) is None
    assert counted_by(house, 2) == "demo:0"


def test_nobody_is_asked_where_nothing_is_admitted() -> None:
    house = House.of(pool(queue_interactive=1))
    assert counted_by(house) is None, "no replica is ready"
    house.see()
    for number in (7, 8):
        house.admit(number)
    assert counted_by(house) is None, "the queue is full"
    assert counted_by(house, priority="batch") == "demo:0"
    house.send(DrainAll())
    assert counted_by(house, priority="batch") is None, "orchd stops"


@pytest.mark.req("ORCH-3391")
def test_a_text_is_told_by_any_ready_replica_of_the_model() -> None:
    house = House.of(pool("a"), pool("b"), pool("c", model_ref="mock:c"))
    with pytest.raises(OrchError) as unready:
        house.front.tokenized_by("mock:lorem", house.now)
    assert unready.value.kind is Kind.POOL_UNREADY
    house.see(snapshot("b:0"), snapshot("c:0", model_ref="mock:c"))
    assert house.front.tokenized_by("mock:lorem", house.now) == "b:0"
    assert house.front.tokenized_by("mock:c", house.now) == "c:0"
    with pytest.raises(OrchError) as unknown:
        house.front.tokenized_by("mock:none", house.now)
    assert unknown.value.kind is Kind.UNKNOWN_NAME
    assert "mock:c, mock:lorem" in unknown.value.message


def test_a_query_counts_with_each_of_its_documents() -> None:
    asked = request(prompt=None, inputs=("query", "a", "bc"), workload=Workload.RERANK)
    assert most_tokens(asked) == 2 * (5 + ADDED_TOKENS) + 1 + 2 + 2 * ADDED_TOKENS
    assert most_tokens(request(prompt="four")) == 4 + ADDED_TOKENS
