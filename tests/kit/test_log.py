"""Events: the three sinks, what is left out, what is redacted, what must not break."""

from __future__ import annotations

import io
import json
import os
import sys
from typing import Any

import pytest
import trio
import trio.testing

from orchd.kit import log, redact


@pytest.fixture(autouse=True)
def _own_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "_state", log._State())
    monkeypatch.setattr(redact, "_secrets", [])
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)


def _lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


@pytest.mark.req("HME-030", "ORCH-3303")
def test_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    log.setup("json", "orchd")
    log.event("admitted", "Task t waits at 2.", task_id="t", position=2, pool_id=None, ok=True)
    [line] = _lines(capsys)
    ts = line.pop("ts")
    assert len(ts) == len("2026-01-02T03:04:05.678Z")
    assert ts.endswith("Z")
    assert line == {
        "level": "info",
        "event": "admitted",
        "human": "Task t waits at 2.",
        "task_id": "t",
        "position": 2,
        "ok": True,
    }


def test_json_is_the_default_where_stderr_is_neither(capsys: pytest.CaptureFixture[str]) -> None:
    log.event("x")
    assert _lines(capsys)[0]["event"] == "x"


@pytest.mark.req("HME-030", "ORCH-3303")
def test_pretty_is_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    log.setup("pretty", "orchd")
    log.event("ready", "Pool demo is ready.", level="warning", pool_id="demo", why="two words")
    log.event("odd", "a\x1b[2Jb\nc\x9b2J", peer="d\x9b2Je\x7f", traceback="Traceback:\n  x\n")
    out = capsys.readouterr().err
    first, second, *rest = out.splitlines()
    assert first[13:] == 'warning Pool demo is ready.  pool_id=demo why="two words"'
    assert second[13:] == 'info    a [2Jb c 2J  peer="d 2Je "'
    assert rest == ["Traceback:", "  x"]


def test_colour_only_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for no_colour, coloured in ((False, True), (True, False)):
        terminal = Terminal()
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.delenv("NO_COLOR", raising=False)
        if no_colour:
            monkeypatch.setenv("NO_COLOR", "1")
        log.setup("auto", "orchd")  # a terminal: pretty
        log.event("x", "Hello.", level="error")
        assert "Hello." in terminal.getvalue()
        assert ("\033[31m" in terminal.getvalue()) is coloured


@pytest.mark.req("ORCH-3303", "ORCH-3311")
def test_the_journal_gets_fields(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from systemd import journal

    sent: list[tuple[str, ...]] = []
    # the library's own socket is a fixed path that tests cannot move: taken at its last step
    monkeypatch.setattr(journal, "sendv", lambda *fields: sent.append(fields))
    log.setup("journal", "poolmgr")
    log.event(
        "preload_failed", "It does not fit.", level="error",
        pool_id="demo", need_mb=24576, gpus=[0, 1], priority="batch", message="m", **{"1x-y": 1},
    )  # fmt: skip
    log.event("bare")
    assert set(sent[0]) == {
        "MESSAGE=It does not fit.",
        "PRIORITY=3",
        "SYSLOG_IDENTIFIER=poolmgr",
        "CODE_FUNC=preload_failed",
        "EVENT=preload_failed",
        "POOL_ID=demo",
        "NEED_MB=24576",
        "GPUS=[0,1]",
        "PRIORITY_=batch",
        "MESSAGE_=m",
        "X_Y=1",
    }
    assert "MESSAGE=bare" in sent[1]
    assert "PRIORITY=6" in sent[1]


@pytest.mark.req("ORCH-3311")
def test_the_journal_is_chosen_when_stderr_is_its_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    found = os.fstat(2)
    for stream, mode in ((f"{found.st_dev}:{found.st_ino}", "journal"), ("1:2", "json")):
        monkeypatch.setenv("JOURNAL_STREAM", stream)
        assert log._auto() == mode


def test_debug_events_need_asking(capsys: pytest.CaptureFixture[str]) -> None:
    log.setup("json", "orchd")
    assert not log.debugging()
    log.event("quiet", level="debug")
    log.setup("json", "orchd", debug=True)
    assert log.debugging()
    log.event("loud", level="debug")
    assert [line["event"] for line in _lines(capsys)] == ["loud"]


def test_capture_sees_all_levels_and_ends(capsys: pytest.CaptureFixture[str]) -> None:
    with log.capture() as outer:
        with log.capture() as inner:
            log.event("one", level="debug")
        log.event("two")
    log.event("three")
    assert [event["event"] for event in inner] == ["one"]
    assert [event["event"] for event in outer] == ["one", "two"]
    assert [line["event"] for line in _lines(capsys)] == ["two", "three"]


@pytest.mark.req("OC-CTRL-2041", "ORCH-3302")
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Authorization: Bearer abc.def-1", "Authorization: Bearer [redacted]"),
        ("authorization: basic dXNlcjpwdw==", "authorization: basic [redacted]"),
        ("GET /x?token=abcd1234&y=1", "GET /x?token=[redacted]&y=1"),
        ('{"auth_token": "abcd1234", "a": 1}', '{"auth_token": "[redacted]", "a": 1}'),
        ("api-key=abcd1234", "api-key=[redacted]"),
        ("https://user:pass@host/x", "https://user:[redacted]@host/x"),
        ("hf_abcdefghijklmnopqrst", "[redacted]"),
        ("my swordfish is swordfish2", "my [redacted] is [redacted]"),
        ("tokens_out=1234 max_tokens: 5678", "tokens_out=1234 max_tokens: 5678"),
        ("the token was wrong", "the token was wrong"),
        ("http://127.0.0.1:8484/v1", "http://127.0.0.1:8484/v1"),
    ],
)
def test_redaction(text: str, shown: str) -> None:
    log.add_secret("swordfish")
    log.add_secret("swordfish2")
    log.add_secret("is")  # too short to be one
    assert log.redact(text) == shown


@pytest.mark.req("OC-CTRL-2041", "ORCH-3302")
def test_no_sink_gets_a_secret(capsys: pytest.CaptureFixture[str]) -> None:
    log.add_secret("swordfish")
    with log.capture() as events:
        modes: tuple[log.Mode, ...] = ("json", "pretty")
        for mode in modes:
            log.setup(mode, "orchd")
            log.event(
                "x", "It said swordfish.",
                auth_token="a", nested={"password": "b1", "list": ["swordfish"]},
                error=ValueError("swordfish"), tokens_out=3, kv_bytes_per_token=512,
            )  # fmt: skip
    shown = capsys.readouterr().err + repr(events)
    assert "swordfish" not in shown
    assert "b1" not in shown
    assert events[0]["auth_token"] == "[redacted]"
    assert events[0]["tokens_out"] == 3
    assert events[0]["kv_bytes_per_token"] == 512


def test_an_event_never_raises(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log.setup("json", "orchd")
    deep: Any = 1
    for _ in range(50):
        deep = [deep]
    log.event(
        "odd", "half a \ud83d", big=2**70, nan=float("nan"), raw=b"\xff", deep=deep,
        long="x" * 100_000, obj=object(), ts="mine", level_="l", human_=1,
    )  # fmt: skip
    [line] = _lines(capsys)
    assert line["big"] == str(2**70)
    assert line["ts_"] == "mine"
    assert line["human"] == "half a \\ud83d"
    assert len(line["long"]) < 20_000

    class Broken(io.StringIO):
        def write(self, _text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Broken())
    log.event("lost")


async def test_info_is_written_at_the_end_of_the_turn_and_warnings_at_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    log.setup("json", "orchd")

    def written() -> list[str]:
        return [record["event"] for record in _lines(capsys)]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.keep_writing)
        await trio.testing.wait_all_tasks_blocked()
        log.event("first")
        log.event("second")
        assert written() == [], "nothing stands in the way of what is being done"
        await trio.testing.wait_all_tasks_blocked()
        assert written() == ["first", "second"]
        log.event("third")
        log.event("trouble", level="warning")
        assert written() == ["third", "trouble"], "in order, and at once"
        log.event("last")
        nursery.cancel_scope.cancel()
    assert written() == ["last"], "nothing is lost at the end"
