"""The ledger sees what it is there for."""

from __future__ import annotations

import os
import signal
import socket

import pytest
import trio

from orchd.kit.client import Client
from tests.hostile import ledger
from tests.sockets.suite import Suite
from tests.sockets.talk import submit

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "IDLE_S", 0.3)


async def test_connections_that_stay_open_are_seen(suite: Suite) -> None:
    socks: list[socket.socket] = []
    with pytest.raises(AssertionError, match="descriptors"):
        async with ledger.nothing_left(suite):
            where = ("127.0.0.1", suite.port)
            socks += [socket.create_connection(where) for _ in range(ledger.SLACK + 1)]
    for sock in socks:
        sock.close()


async def test_a_task_that_nobody_can_cancel_is_seen(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A poolmgr that stands still frees no slot."""

    async def none(_client: Client, path: str) -> dict[str, list[str]]:
        return {"tasks": []} if "tasks" in path else {}

    monkeypatch.setattr(ledger, "get", none)
    pids = [suite.pid_of("poolmgr", f"demo:{index}", "--config") for index in (0, 1)]
    client = suite.client()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(trio.TooSlowError):
            async with ledger.nothing_left(suite):
                await submit(client, max_tokens=2)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    monkeypatch.undo()
    await ledger.idle(client)
    client.close()
