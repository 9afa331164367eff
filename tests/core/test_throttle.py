"""Token buckets of identities: what they let through, how long one waits, and who is forgotten."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchd.core.effects import Accepted
from orchd.core.limits.throttle import Rates, Throttle, cost
from orchd.wire.errors import Kind, OrchError
from orchd.wire.shapes import Workload
from tests.core.making import House, only, pool, request

pytestmark = [pytest.mark.req("ORCH-3006")]


def house(**rates: float) -> House:
    made = House.of(pool(queue_interactive=1000), rates=Rates(**rates))  # type: ignore[arg-type]
    made.see()
    return made


def test_a_burst_goes_through_and_then_the_rate_does() -> None:
    made = house(requests_per_s=2.0, burst=3)
    for number in range(3):
        made.admit(number)
    error = made.refuse(3)
    assert error.kind is Kind.THROTTLED
    envelope = error.envelope()
    assert (envelope.code, envelope.policy_label) == ("ADMISSION_REJECT", "throttle")
    assert (envelope.retriable, envelope.retry_after_ms) == (True, 500)
    assert "2 requests/s, 3 at once" in error.message
    made.wait(0.49)
    assert made.refuse(3).fields.retry_after_ms == 10
    made.wait(0.01)
    made.admit(3)
    made.refuse(4)
    made.wait(60)
    made.see()
    for number in range(4, 7):  # never more than a burst, however long the silence was
        made.admit(number)
    made.refuse(7)
    counts = made.front.counters()
    assert counts["tasks_rejected_total"] == {("mock", "throttled"): 4}
    assert counts["admission_backpressure_events_total"] == {("mock", "throttle"): 4}


def test_what_is_refused_for_another_reason_takes_nothing() -> None:
    made = house(requests_per_s=1.0, burst=1, tokens_per_min=1000)
    for _ in range(5):
        assert made.refuse(1, ctx=10**6).kind is Kind.INVALID_PARAMS
        assert made.refuse(1, model_ref="mock:other").kind is Kind.POOL_UNAVAILABLE
    assert made.refuse(1, max_tokens=990, deadline_ms=1, prompt_tokens=20).kind is (
        Kind.INVALID_PARAMS  # more than the bucket ever holds
    )
    made.admit(1)


def test_the_same_task_again_is_not_throttled() -> None:
    made = house(requests_per_s=0.1, burst=1)
    made.admit(1, digest=b"a")
    for _ in range(20):
        assert not only(made.submit(1, digest=b"a"), Accepted).fresh
    assert made.refuse(2).kind is Kind.THROTTLED


def test_tokens_are_those_of_the_prompt_and_max_tokens() -> None:
    made = house(tokens_per_min=600)
    made.admit(1, max_tokens=300, prompt_tokens=100)
    error = made.refuse(2, max_tokens=200, prompt_tokens=100)
    assert error.kind is Kind.THROTTLED
    assert error.fields.retry_after_ms == 10_000
    assert "600 tokens/min" in error.message
    made.admit(2, max_tokens=100, prompt_tokens=100)
    made.now += 30
    made.see()
    made.admit(3, max_tokens=200, prompt_tokens=100)


def test_a_task_that_no_bucket_holds_is_said_to_be_too_large() -> None:
    error = house(tokens_per_min=600).refuse(1, max_tokens=600, prompt_tokens=1)
    assert (error.kind, error.fields.path) == (Kind.INVALID_PARAMS, "$.max_tokens")
    assert "tokens_per_min" in error.message


def test_a_prompt_that_was_not_counted_is_estimated() -> None:
    assert cost(request(prompt="x" * 401, max_tokens=7), None) == 108
    assert cost(request(prompt="x" * 401, max_tokens=7), 3) == 10
    texts = request(prompt=None, inputs=("x" * 5, "y" * 4), workload=Workload.EMBEDDING)
    assert cost(texts, None) == 3
    ranked = request(prompt=None, inputs=("q" * 40, "x" * 5, "y" * 4), workload=Workload.RERANK)
    assert cost(ranked, None) == 2 * 10 + 3  # the query is read with each document


def test_without_rates_nothing_is_kept_and_capabilities_say_none() -> None:
    made = house()
    for number in range(50):
        made.admit(number)
    assert len(made.front.world.throttle) == 0
    assert made.front.capabilities(made.now).engines[0].rate_limits == {}


def test_capabilities_say_the_rates() -> None:
    made = house(requests_per_s=0.5, burst=4, tokens_per_min=60_000)
    assert made.front.capabilities(made.now).engines[0].rate_limits == {
        "requests_per_s": 0.5, "burst": 4, "tokens_per_min": 60_000,
    }  # fmt: skip


def test_no_prompt_is_counted_for_a_task_that_is_throttled() -> None:
    made = house(requests_per_s=0.1, burst=1)
    long = request(2, prompt="x" * 2000)
    assert made.front.counted_by(long, "me", made.now) == "demo:0"
    made.admit(1)
    assert made.front.counted_by(long, "me", made.now) is None
    assert made.front.counted_by(long, "somebody else", made.now) == "demo:0"


def refused(throttle: Throttle, who: str, now: float) -> float | None:
    """Return the wait in seconds, or take one request and return None."""
    try:
        throttle.check(who, request(), 1, now)
    except OrchError as error:
        return (error.fields.retry_after_ms or 0) / 1000
    throttle.take(who, request(), 1, now)
    return None


def test_nobody_is_put_out_of_the_table_before_his_buckets_are_full() -> None:
    throttle = Throttle(Rates(requests_per_s=1.0, burst=2), identities_max=2)
    assert refused(throttle, "a", 0.0) is None
    assert refused(throttle, "a", 0.0) is None
    assert refused(throttle, "b", 0.5) is None
    for number in range(1000):  # many names get nobody a fresh bucket
        assert refused(throttle, f"x{number}", 0.6) == pytest.approx(0.9, abs=0.01)
        assert refused(throttle, "a", 0.6) is not None
    assert len(throttle) == 2
    assert refused(throttle, "c", 1.5) is None  # b's buckets are full: it needs no place
    assert len(throttle) == 2


@given(
    st.lists(
        st.tuples(st.sampled_from("abcd"), st.sampled_from([0.0, 0.1, 0.7, 3.0])), max_size=80
    ),
    st.sampled_from([0.5, 1.0, 4.0]),
    st.integers(1, 4),
)
def test_nobody_gets_more_than_rate_and_burst(
    calls: list[tuple[str, float]], rate: float, burst: int
) -> None:
    throttle = Throttle(Rates(requests_per_s=rate, burst=burst), identities_max=2)
    now, let_in = 0.0, dict[str, list[float]]()
    for who, pause in calls:
        now += pause
        wait = refused(throttle, who, now)
        assert len(throttle) <= 2
        if wait is None:
            let_in.setdefault(who, []).append(now)
        else:
            assert wait > 0
    for times in let_in.values():
        for first in range(len(times)):
            for last in range(first, len(times)):
                most = burst + rate * (times[last] - times[first]) + 1e-3
                assert last - first + 1 <= most


@given(st.lists(st.sampled_from([0.0, 0.2, 1.0]), max_size=30), st.sampled_from([0.5, 3.0]))
def test_who_waits_as_long_as_he_is_told_is_let_in(pauses: list[float], rate: float) -> None:
    throttle, now = Throttle(Rates(requests_per_s=rate, burst=2)), 0.0
    for pause in pauses:
        now += pause
        wait = refused(throttle, "a", now)
        if wait is not None:
            now += wait
            assert refused(throttle, "a", now) is None
