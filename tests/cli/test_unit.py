"""One daemon of orchctl up: how it is started, believed, and started again. Real processes."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import orjson
import pytest
import trio

from orchd.cli import unit as units
from orchd.cli.unit import Unit
from orchd.kit import fds, log

TELL = """
import json, os, socket, sys, time
told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
told.connect(os.environ["NOTIFY_SOCKET"].replace("@", chr(0), 1))
def notify(text):
    told.send(text.encode())
"""
PASSED = """
names = os.environ["LISTEN_FDNAMES"].split(":")
count = int(os.environ["LISTEN_FDS"])
sockets = [socket.socket(fileno=3 + i) for i in range(count)]
said = {"own": os.environ["LISTEN_PID"] == str(os.getpid()), "names": names,
        "at": [each.getsockname() for each in sockets],
        "group": os.getpgrp() == os.getpid(), "left": os.listdir("/proc/self/fd"),
        "journal": os.environ.get("JOURNAL_STREAM")}
notify("READY=1\\nSTATUS=" + json.dumps(said))
time.sleep(60)
"""
READY = 'notify("READY=1")\ntime.sleep(60)\n'
OTHERS = """
if os.fork() == 0:
    notify("READY=1\\nSTATUS=from a child")
    os._exit(0)
os.wait()
notify("STATUS=from itself")
time.sleep(60)
"""


@pytest.fixture
def listeners(folder: Path) -> Iterator[dict[str, socket.socket]]:
    with contextlib.ExitStack() as stack:
        made = {
            name: stack.enter_context(fds.bind_unix(folder / f"{name}.sock"))
            for name in ("orchd.tcp", "orchd.unix")
        }
        yield made


@contextlib.asynccontextmanager
async def running(
    code: str, listeners: dict[str, socket.socket]
) -> AsyncIterator[tuple[Unit, trio.Event, Callable[[bool], Awaitable[None]]]]:
    """Run a daemon of this code; stop it at the end. Gives it, its stop, and a wait for ready."""
    stop = trio.Event()
    changes = trio.Event()

    def changed() -> None:
        nonlocal changes
        changes.set()
        changes = trio.Event()

    unit = Unit("demo:0", ["-c", TELL + code], listeners, stop, changed)

    async def wait(ready: bool) -> None:
        with trio.fail_after(10):
            while unit.ready is not ready:
                await changes.wait()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(unit.run)
        yield unit, stop, wait
        stop.set()
        unit.signal(signal.SIGTERM)


async def test_it_gets_its_sockets_as_from_systemd(listeners, folder, monkeypatch):
    monkeypatch.setenv("JOURNAL_STREAM", "8:1")
    with log.capture() as events:
        async with running(PASSED, listeners) as (unit, _, wait):
            await wait(True)
            assert unit.pid is not None
            await trio.lowlevel.checkpoint()
            said = orjson.loads(unit._status)
    assert said["own"] is True
    assert said["group"] is True
    assert said["names"] == ["orchd.tcp", "orchd.unix"]
    assert said["at"] == [f"{folder}/orchd.tcp.sock", f"{folder}/orchd.unix.sock"]
    assert said["journal"] is None
    # 0-2, the two sockets, the notify socket and the listing itself: nothing of ours leaks in
    assert len(said["left"]) == 7
    assert [each["event"] for each in events] == ["unit_stopped"]
    assert unit.pid is None


async def test_only_the_daemon_itself_is_believed(listeners):
    with log.capture() as events:
        async with running(OTHERS, listeners) as (unit, _, _wait):
            with trio.fail_after(10):
                while not events:
                    await trio.sleep(0.005)
            assert not unit.ready
    assert events[0]["human"] == "demo:0: from itself"


async def test_one_that_dies_is_said_and_started_again(listeners, monkeypatch):
    monkeypatch.setattr(units, "FIRST_DELAY_S", 0.01)
    with log.capture() as events:
        async with running(READY, listeners) as (unit, _, wait):
            await wait(True)
            first = unit.pid
            assert first is not None
            os.kill(first, signal.SIGKILL)
            await wait(False)
            await wait(True)
            assert unit.pid not in (None, first)
    died = [each for each in events if each["event"] == "unit_died"]
    assert [each["human"] for each in died] == [
        "demo:0 was ended by SIGKILL; starting it again in 0.01 s"
    ]


async def test_delays_double_to_their_bound_and_begin_anew_after_a_good_life(
    autojump_clock, listeners, monkeypatch
):
    lives = iter([1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 31.0, 1.0])

    async def live(_self: Unit) -> str:
        life = next(lives, None)
        if life is None:
            stop.set()
            return "ended"
        await trio.sleep(life)
        return "ended with exit code 1"

    monkeypatch.setattr(Unit, "_live", live)
    stop = trio.Event()
    with log.capture() as events:
        await Unit("x", [], listeners, stop, lambda: None).run()
    delays = [each["retry_s"] for each in events if each["event"] == "unit_died"]
    assert delays == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0, 0.2, 0.4]


async def test_a_stop_while_it_waits_to_start_again_ends_it_at_once(listeners, monkeypatch):
    monkeypatch.setattr(units, "FIRST_DELAY_S", 60.0)
    with log.capture() as events:
        async with running("sys.exit(3)", listeners) as (_, _stop, _wait):
            with trio.fail_after(10):
                while not events:
                    await trio.sleep(0.005)
    assert events[0]["human"] == "demo:0 ended with exit code 3; starting it again in 60 s"
