"""Asking again: only what changes nothing, a few times, with a pause that is drawn."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from orchd.kit import retry
from orchd.kit.client import PeerError
from orchd.kit.incoming import Answer
from tests.kit.test_client import OK, says, scripted

BUSY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
LATER = b"HTTP/1.1 429 Too Many\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.req("ORCH-3612")
@given(failures=st.integers(1, 60), draw=st.floats(0, 1), told=st.none() | st.text(max_size=12))
def test_a_pause_is_drawn_and_bounded(failures: int, draw: float, told: str | None) -> None:
    pause = retry.pause_s(failures, told, draw)
    assert 0 <= pause <= retry.MAX_S
    if told is None:
        assert pause <= retry.FIRST_S * 2 ** (failures - 1)


@pytest.mark.parametrize(
    ("told", "least"), [("1", 1.0), ("900", retry.MAX_S), ("Wed, 21 Oct", 0.0), ("\u0661", 0.0)]
)
def test_what_the_server_asks_for_is_the_least(told: str, least: float) -> None:
    assert retry.pause_s(1, told, 0.0) == least


@pytest.mark.req("ORCH-3612", "ORCH-3611", "OC-ADAPT-OAI-6010")
async def test_a_call_that_changes_nothing_is_sent_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with scripted(says(), says(BUSY), says(LATER, OK)) as client:
        began = trio.current_time()
        answer = await client.request("GET", "/", attempts=4)
        assert (answer.status, answer.body) == (200, b"ok")
        assert trio.current_time() - began >= 1.0, "Retry-After was kept"


async def test_the_last_answer_counts(autojump_clock: trio.testing.MockClock) -> None:
    async with scripted(says(BUSY, BUSY)) as client:
        assert (await client.request("POST", "/", b"", attempts=2, repeatable=True)).status == 503
    async with scripted(says(), says()) as client:
        with pytest.raises(PeerError):
            await client.request("GET", "/", attempts=2)


async def test_one_attempt_is_one() -> None:
    async with scripted(says(BUSY, OK)) as client:
        assert (await client.request("GET", "/")).status == 503


@pytest.mark.req("ORCH-3612")
async def test_what_may_change_something_is_never_sent_twice() -> None:
    async with scripted(says(OK)) as client:
        with pytest.raises(ValueError, match="may not be sent twice"):
            await client.request("POST", "/", b"{}", attempts=2)


async def test_the_deadline_holds_for_all_attempts(autojump_clock: trio.testing.MockClock) -> None:
    async with scripted(says(LATER), says(LATER), says(LATER), says(OK)) as client:
        began = trio.current_time()
        with pytest.raises(PeerError) as broken:
            await client.request("GET", "/", attempts=9, deadline_s=2.5)
        assert broken.value.phase == "deadline"
        assert trio.current_time() - began == pytest.approx(2.5)


async def test_an_answer_that_stays_is_not_asked_for_again() -> None:
    seen: list[int] = []

    async def once() -> Answer:
        seen.append(1)
        return Answer(404, {}, b"")

    assert (await retry.persist(once, 5)).status == 404
    assert len(seen) == 1
