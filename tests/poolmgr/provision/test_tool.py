"""Tools are asked: what they say is heard up to a bound, their end waited for to a deadline."""

from __future__ import annotations

import pytest

from poolmgr.provision.machine import tool

pytestmark = pytest.mark.slow


async def test_an_answer_is_told_with_its_end() -> None:
    assert await tool.ask(["sh", "-c", "echo out; echo err >&2; exit 3"]) == tool.Answer(
        3, "out\nerr"
    )


async def test_who_talks_for_ever_is_heard_up_to_a_bound() -> None:
    said = await tool.ask(["sh", "-c", f"yes word | head -c {2 * tool.MAX_ANSWER}"])
    assert said is not None
    assert said.code == 0
    assert tool.MAX_ANSWER // 2 < len(said.text) <= tool.MAX_ANSWER


async def test_who_does_not_end_and_who_is_not_there_say_nothing() -> None:
    assert await tool.ask(["sleep", "60"], deadline_s=0.2) is None
    assert await tool.ask(["/nonexistent/tool"]) is None
