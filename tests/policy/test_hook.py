"""The door: who is told, how often, and who waits."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from orchd.kit import log
from orchd.policy.hook import MAX_TOLD, Outbound
from orchd.policy.rules import Rules
from orchd.wire.address import parse
from orchd.wire.errors import Kind, OrchError

A = parse("https://a.b/x?token=SECRETSECRET")


@pytest.mark.req("ORCH-3206", "ORCH-3080")
def test_every_url_is_in_the_journal_once_and_without_its_query() -> None:
    door = Outbound(Rules(allow=("a.b",)), "model demo", lambda: 0.0)
    with log.capture() as events:
        for _ in range(3):
            assert door.permit(A) == 0
        with pytest.raises(OrchError) as caught:
            door.permit(parse("https://c.d/y"))
    assert [event["event"] for event in events] == ["outbound_allowed", "outbound_denied"]
    assert events[0]["url"] == "https://a.b/x"
    assert events[0]["purpose"] == "model demo"
    assert events[0]["rule"] == "policy.outbound.allow: a.b"
    assert events[1]["level"] == "warning"
    assert "SECRET" not in str(events)
    assert caught.value.kind is Kind.OUTBOUND_DENIED
    assert caught.value.message.startswith("model demo: https://c.d is named neither")


def test_what_it_remembers_is_bounded() -> None:
    door = Outbound(Rules(allow=("a.b",)), "x", lambda: 0.0)
    for number in range(MAX_TOLD + 10):
        door.permit(parse(f"https://a.b/{number}"))
    assert len(door._told) == MAX_TOLD


def test_a_tool_has_its_line_too() -> None:
    door = Outbound(Rules(), "packages", lambda: 0.0)
    with log.capture() as events:
        door.permit(None, via="pacman")
    assert (events[0]["via"], "url" in events[0]) == ("pacman", False)


@pytest.mark.req("ORCH-3206")
async def test_what_comes_too_often_waits_its_turn(autojump_clock: trio.testing.MockClock) -> None:
    door = Outbound(Rules(allow=("a.b",), per_minute=2), "x")
    began = trio.current_time()
    with log.capture() as events:
        for _ in range(5):
            await door.wait_permit(A)
    assert trio.current_time() - began == pytest.approx(120, abs=1)
    assert [event["event"] for event in events] == ["outbound_allowed", "outbound_delayed"]


def test_time_is_counted_by_the_minute() -> None:
    now = [0.0]
    door = Outbound(Rules(allow=("a.b",), per_minute=1), "x", lambda: now[0])
    assert door.permit(A) == 0
    now[0] = 45.0
    assert door.permit(A) == pytest.approx(15)
    now[0] = 60.0
    assert door.permit(A) == 0
