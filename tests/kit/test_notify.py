"""The notify socket, read as systemd reads it."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import trio

from orchd.kit import notify
from orchd.kit.notify import MAX_STATUS, Notifier
from tests.fakes.peers import short_folder


@pytest.fixture
def manager(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The manager's end."""
    with short_folder() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(folder / "n"))
        sock.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(folder / "n"))
        monkeypatch.delenv("WATCHDOG_USEC", raising=False)
        monkeypatch.delenv("WATCHDOG_PID", raising=False)
        yield sock


def _heard(manager: socket.socket) -> list[str]:
    heard = []
    while True:
        try:
            heard.append(manager.recv(4096).decode("utf-8"))
        except BlockingIOError:
            return heard


def test_states(manager: socket.socket) -> None:
    notifier = Notifier()
    notifier.status("Loading\nweights \u2192 40 %")
    notifier.ready("Ready: 2 slots")
    notifier.stopping("x" * 1000)
    assert _heard(manager) == [
        "STATUS=Loading weights \u2192 40 %",
        "READY=1\nSTATUS=Ready: 2 slots",
        "STOPPING=1\nSTATUS=" + "x" * MAX_STATUS,
    ]
    notifier.stay("Draining: 2 tasks", 30.0)
    assert _heard(manager) == ["EXTEND_TIMEOUT_USEC=30000000\nSTATUS=Draining: 2 tasks"]
    notifier.close()
    notifier.status("not heard")
    assert _heard(manager) == []


def _fill(notifier: Notifier) -> None:
    """Say so much that nobody has room for more."""
    with_room = 0
    while notifier.status(f"line {with_room}"):
        with_room += 1
        assert with_room < 100_000


def test_a_manager_that_does_not_listen_holds_up_nobody(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "WAIT_S", 0.02)
    with contextlib.closing(Notifier()) as notifier:
        _fill(notifier)
        began = time.monotonic()
        notifier.ready("Ready")
        assert 0.02 <= time.monotonic() - began < 1.0
    assert not [text for text in _heard(manager) if "READY=1" in text]


@pytest.mark.parametrize("state", ["READY=1", "STOPPING=1"])
def test_a_manager_that_is_slow_hears_what_matters(manager: socket.socket, state: str) -> None:
    heard: list[str] = []
    with contextlib.closing(Notifier()) as notifier:
        _fill(notifier)
        late = threading.Timer(0.02, lambda: heard.extend(_heard(manager)))
        late.start()
        notifier.ready("now") if state == "READY=1" else notifier.stopping("now")
        late.join()
    assert f"{state}\nSTATUS=now" in heard + _heard(manager)


async def test_a_beat_that_had_no_room_is_repeated_soon(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch, autojump_clock: object
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "10000000")
    notifier = Notifier()
    _fill(notifier)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(notifier.keep_beating, lambda: True)
        await trio.sleep(1)
        assert "WATCHDOG=1" not in _heard(manager)
        await trio.sleep(1)
        assert _heard(manager) == ["WATCHDOG=1"]
        nursery.cancel_scope.cancel()
    notifier.close()


@pytest.mark.req("OC-CTRL-2041", "ORCH-3302")
def test_no_secret_in_the_status(manager: socket.socket) -> None:
    with contextlib.closing(Notifier()) as notifier:
        notifier.status("cannot fetch https://me:hunter2@host/")
    assert _heard(manager) == ["STATUS=cannot fetch https://me:[redacted]@host/"]


def test_silent_without_systemd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    Notifier().ready("nobody hears")


async def test_beats_while_alive(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch, autojump_clock: object
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "10000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    notifier = Notifier()
    assert notifier.watchdog_s == 5.0
    alive = True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(notifier.keep_beating, lambda: alive)
        await trio.sleep(12)
        assert _heard(manager) == ["WATCHDOG=1"] * 3
        alive = False
        await trio.sleep(20)
        assert _heard(manager) == []
        alive = True
        await trio.sleep(5)
        assert _heard(manager) == ["WATCHDOG=1"]
        nursery.cancel_scope.cancel()
    notifier.close()


@pytest.mark.parametrize(("usec", "pid"), [(None, None), ("0", None), ("x", None), ("5", "1")])
async def test_no_watchdog_for_us(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch, usec: str | None, pid: str | None
) -> None:
    for name, value in (("WATCHDOG_USEC", usec), ("WATCHDOG_PID", pid)):
        if value is not None:
            monkeypatch.setenv(name, value)
    notifier = Notifier()
    assert notifier.watchdog_s is None
    await notifier.keep_beating(lambda: True)
    assert _heard(manager) == []
    notifier.close()
