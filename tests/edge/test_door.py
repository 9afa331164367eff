"""The file of orchd's own socket: its loss is said, with the way out, and nothing else is done."""

from __future__ import annotations

import socket
from contextlib import closing
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from orchd.edge.door import LOOK_S, watch
from orchd.kit import fds
from orchd.kit.notify import Notifier


async def test_a_removed_socket_file_is_said_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    path = tmp_path / "orchd.sock"
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd,
        fds.bind_unix(path) as listener,
        fds.bind_tcp("127.0.0.1", 0) as tcp,
    ):
        systemd.bind(str(tmp_path / "notify"))
        systemd.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        with closing(Notifier()) as notifier:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(watch, [listener, tcp], notifier, "Serving")
                await trio.sleep(2 * LOOK_S)
                with pytest.raises(BlockingIOError):
                    systemd.recv(4096)
                remove(path)
                await trio.sleep(2 * LOOK_S)
                nursery.cancel_scope.cancel()
        said = systemd.recv(4096).decode()
        assert f"Serving. {path} was removed" in said
        assert "systemctl restart orchd.socket" in said


def remove(path: Path) -> None:
    path.unlink()
