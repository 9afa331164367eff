"""From main to exit code: signals, errors, what is said."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable

import pytest
import trio

from orchd.kit import log
from orchd.kit.run import run, started
from orchd.wire.errors import Kind, OrchError


def _run(main: Callable[[trio.Event], Awaitable[None]]) -> tuple[int, list[dict[str, object]]]:
    with log.capture() as events:
        return run(main, "orchd"), events


def test_main_that_returns_is_0() -> None:
    async def main(stop: trio.Event) -> None:
        assert not stop.is_set()

    assert _run(main) == (0, [])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_asks_for_an_orderly_stop(number: signal.Signals) -> None:
    async def main(stop: trio.Event) -> None:
        os.kill(os.getpid(), number)
        await stop.wait()
        await trio.sleep(0.001)

    code, events = _run(main)
    assert code == 0
    assert [event["event"] for event in events] == ["stopping"]
    assert events[0]["human"] == f"orchd is stopping on {number.name}"


def test_the_second_signal_cancels() -> None:
    cleaned = False

    async def main(stop: trio.Event) -> None:
        nonlocal cleaned
        os.kill(os.getpid(), signal.SIGTERM)
        await stop.wait()
        os.kill(os.getpid(), signal.SIGINT)
        try:
            await trio.sleep_forever()
        finally:
            cleaned = True

    code, events = _run(main)
    assert code == 130
    assert cleaned
    assert [event["event"] for event in events] == ["stopping", "stop_forced"]


STUBBORN = """
import os, signal, trio
from orchd.kit.run import run
async def main(stop):
    for _ in range(3):
        os.kill(os.getpid(), signal.SIGTERM)
        with trio.CancelScope(shield=True):
            await trio.sleep(0.05)
    with trio.CancelScope(shield=True):
        await trio.sleep_forever()
raise SystemExit(run(main, "stubborn"))
"""


def test_the_third_signal_ends_a_stop_that_hangs() -> None:
    done = subprocess.run(
        [sys.executable, "-c", STUBBORN], capture_output=True, timeout=20, check=False
    )
    assert done.returncode == 128 + signal.SIGTERM


@pytest.mark.parametrize("kind", [Kind.CONFIG_INVALID, Kind.DRIVER_UNAVAILABLE])
def test_an_orch_error_is_one_line_and_its_exit_code(kind: Kind) -> None:
    async def main(stop: trio.Event) -> None:
        async with trio.open_nursery():  # wraps it in a group
            raise OrchError(kind, "it is wrong")

    code, events = _run(main)
    [event] = events
    assert code == event["exit_code"] == OrchError(kind, "").row.exit_code
    assert event["human"] == f"orchd: it is wrong. {OrchError(kind, '').row.advice}"
    assert "traceback" not in event


def test_anything_else_is_logged_with_its_traceback() -> None:
    async def main(stop: trio.Event) -> None:
        raise ZeroDivisionError

    code, events = _run(main)
    [event] = events
    assert code == 70
    assert event["human"] == "orchd ended on an unexpected error: ZeroDivisionError"
    assert "test_run.py" in str(event["traceback"])


def test_an_orch_error_beside_another_is_not_the_whole_truth() -> None:
    async def main(stop: trio.Event) -> None:
        raise ExceptionGroup("two", [OrchError(Kind.CONFIG_INVALID, "x"), ValueError("y")])

    code, [event] = _run(main)
    assert code == 70
    assert "ValueError: y" in str(event["traceback"])


def test_started_freezes_what_there_is() -> None:
    before = gc.get_freeze_count()
    try:
        started()
        assert gc.get_freeze_count() > before + 1000
    finally:
        gc.unfreeze()
