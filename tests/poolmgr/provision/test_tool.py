"""Tools are asked: what they say is heard up to a bound, their end waited for to a deadline."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest
import trio

from orchd.wire.errors import Kind, OrchError
from poolmgr.provision.machine import tool
from tests.lab.needs import ROOT, require

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


async def test_a_log_that_is_full_hides_no_last_words(tmp_path: Path) -> None:
    log = tool.Log(tmp_path / "tool.log")
    lines = f"tr '\\0' x < /dev/zero | fold -w 1900 | head -c {tool.MAX_LOG + (1 << 20)}"
    with pytest.raises(OrchError, match="no space for kernels"):
        await tool.run(
            ["sh", "-c", f"{lines}; echo; echo no space for kernels; exit 1"],
            log, deadline_s=60.0, failed=Kind.PROVISION_FAILED,
        )  # fmt: skip
    log.close()
    assert tool.MAX_LOG - 4000 < (tmp_path / "tool.log").stat().st_size <= tool.MAX_LOG


async def test_who_does_not_end_and_who_is_not_there_say_nothing() -> None:
    assert await tool.ask(["sleep", "60"], deadline_s=0.2) is None
    assert await tool.ask(["/nonexistent/tool"]) is None


@pytest.mark.req("ORCH-3434")
async def test_of_root_that_became_another_one_tool_is_root_and_is_ended_as_any(
    tmp_path: Path,
) -> None:
    require((ROOT,))
    nobody, root = pwd.getpwnam("nobody"), pwd.getpwuid(0)
    log = tool.Log(tmp_path / "tool.log")
    said: list[str] = []
    with trio.fail_after(20), trio.CancelScope() as scope:

        def hear(line: str) -> None:
            said.append(line)
            if len(said) == 3:
                scope.cancel()

        os.seteuid(nobody.pw_uid)
        try:
            asked = await tool.ask(["sh", "-c", "id -u; id -ru; grep CapPrm /proc/self/status"])
            script = "id -u; echo $HOME; echo $$; exec sleep 600"
            await tool.run(
                ["sh", "-c", script], log, deadline_s=60.0, failed=Kind.INTERNAL, say=hear,
                root=True,
            )  # fmt: skip
        finally:
            os.seteuid(0)
            log.close()
    assert asked is not None
    *ids, rights = asked.text.split()
    assert ids == [str(nobody.pw_uid), str(nobody.pw_uid), "CapPrm:"]
    assert int(rights, 16) == 0
    user, home, pid = said
    assert (user, home) == ("0", root.pw_dir)
    assert not await trio.Path("/proc", pid).exists()
