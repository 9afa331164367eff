"""The file of a pool's socket: missed when it is gone, and acted on once nobody is linked."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from orchd.kit import fds
from orchd.kit.sockfile import SocketFile, files_of
from orchd.wire.errors import Kind, OrchError
from poolmgr.edge import door


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "demo:0.sock"


@pytest.fixture
def listeners(path: Path) -> Iterator[list[socket.socket]]:
    with fds.bind_unix(path) as unix, fds.bind_tcp("127.0.0.1", 0) as tcp:
        yield [unix, tcp]


def test_a_file_is_missed_when_it_is_gone_or_another(
    path: Path, listeners: list[socket.socket]
) -> None:
    (file,) = files_of(listeners)
    assert (file.path, file.removed()) == (path, False)
    path.unlink()
    assert file.removed()
    with fds.bind_unix(path):
        assert file.removed(), "it leads to somebody else"
    assert SocketFile.of(path.with_name("never")).removed()


async def test_nothing_is_done_while_a_link_stands(
    path: Path, listeners: list[socket.socket], autojump_clock: MockClock
) -> None:
    linked = True
    ended: list[OrchError] = []

    async def watch() -> None:
        ended.append(await door.shut(listeners, lambda: linked))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        await trio.sleep(10 * door.LOOK_S)
        remove(path)
        await trio.sleep(10 * door.LOOK_S)
        assert not ended, "what runs on the link is let be"
        linked = False
        await trio.sleep(2 * door.LOOK_S)
    (error,) = ended
    assert (error.kind, str(path) in error.message) == (Kind.SOCKET_REMOVED, True)


def remove(path: Path) -> None:
    path.unlink()
