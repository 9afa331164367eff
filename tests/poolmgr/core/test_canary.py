"""The canary's verdict: what the new engine did against what the pool asks."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import evolve

from orchd.wire.errors import Kind, OrchError
from poolmgr.core.canary import Answer, Wanted, figures, judge, planned_bytes, rate
from poolmgr.core.fit import Need

GIB = 1 << 30
HASH = "sha256:aa"
ANSWER = Answer(text="It is Paris.", sha256=HASH, tokens=4, tokens_per_s=40.0)
NOTHING = Wanted(expect=None, expect_sha256=None, min_rate_ratio=0.0, vram_margin_bytes=GIB)
NEED = Need(weights_bytes=4 * GIB, kv_bytes=GIB, gpu_overhead_bytes=GIB)


@pytest.mark.req("OC-CTRL-2003", "ORCH-3038")
@pytest.mark.parametrize(
    ("wanted", "old", "held", "misses"),
    [
        ({}, 1000.0, 8 * GIB, []),
        ({"expect": "Paris"}, None, None, []),
        ({"expect": "London"}, None, None, ["canary.expect is not in its answer of 4 tokens"]),
        ({"expect_sha256": HASH}, None, None, []),
        ({"expect_sha256": "sha256:0"}, None, None, [f"its answer has {HASH}, and", "sha256:0"]),
        ({"min_rate_ratio": 0.5}, 80.0, None, []),
        ({"min_rate_ratio": 0.5}, None, None, []),  # it has run no job: there is nothing to compare
        (
            {"min_rate_ratio": 0.5}, 80.4, None,
            ["it does 40 tokens/s, and", "asks for 0.5 of the old model's 80.4 tokens/s"],
        ),
        (
            {}, None, 8 * GIB + 1,
            ["it holds 8.0 GiB of VRAM, and 7.0 GiB were counted with a margin of 1.0 GiB"],
        ),
        ({"expect": "x", "expect_sha256": "y"}, None, 9 * GIB, ["expect is", "has sha", "9.0 GiB"]),
    ],
)  # fmt: skip
def test_a_miss_is_told_with_its_figures(
    wanted: dict[str, Any], old: float | None, held: int | None, misses: list[str]
) -> None:
    seen = figures(ANSWER, old, held, planned_bytes(NEED, 2))
    asked = evolve(NOTHING, **wanted)
    if not misses:
        judge(asked, ANSWER, seen)
        return
    with pytest.raises(OrchError) as caught:
        judge(asked, ANSWER, seen)
    assert caught.value.kind is Kind.CANARY_FAILED
    assert all(miss in caught.value.message for miss in misses), caught.value.message


def test_what_is_not_known_is_not_compared() -> None:
    assert planned_bytes(evolve(NEED, kv_bytes=None), 1) is None
    assert planned_bytes(evolve(NEED, weights_bytes=None), 1) is None
    assert planned_bytes(evolve(NEED, more=("draft model",)), 1) is None
    judge(NOTHING, None, figures(None, 10.0, 99 * GIB, None))
    assert figures(None, None, None, None).sha256 is None


@pytest.mark.parametrize(
    ("tokens", "spent_s", "said"), [(1, 1.0, None), (11, 0.0, None), (11, 0.5, 20.0)]
)
def test_a_rate_is_that_between_the_first_and_the_last_token(
    tokens: int, spent_s: float, said: float | None
) -> None:
    assert rate(tokens, spent_s) == said
