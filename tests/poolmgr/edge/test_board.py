"""What is told when: snapshots to links, STATUS= to systemd, and when the watchdog is fed."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from attrs import evolve

from orchd.config.schema import Settings
from orchd.kit.notify import Notifier
from orchd.wire.ids import Count, DeviceMask, ReplicaId
from orchd.wire.link import Decoder, body
from orchd.wire.snapshot import HEARTBEAT_S, Phase, Snapshot
from poolmgr.core.life import Life
from poolmgr.core.lifewords import Begun
from poolmgr.core.slots import Slots
from poolmgr.edge import board as module
from poolmgr.edge import replica as replicas
from poolmgr.edge.board import Board
from poolmgr.edge.replica import Replica
from poolmgr.engines.registry import adapter
from tests.poolmgr.provision.test_models import pool

NAME, MASK = ReplicaId("p:0"), DeviceMask((0,))


class Heard:
    """A link that keeps what it is sent, and when."""

    def __init__(self) -> None:
        self.at: list[float] = []
        self.snapshots: list[Snapshot] = []

    def send(self, message: bytes) -> None:
        self.at.append(trio.current_time())
        ((_, _, data),) = Decoder().feed(message)
        self.snapshots.append(body(Snapshot, data))


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """systemd's end of the notify socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "n"))
        sock.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "n"))
        yield sock


def said(manager: socket.socket) -> list[str]:
    lines = []
    while True:
        try:
            lines.append(manager.recv(4096).decode())
        except BlockingIOError:
            return lines


def board(notifier: Notifier, life: Life, slots: Slots) -> Board:
    mine = pool("mock:x", "mock")
    return Board(mine, NAME, MASK, adapter(mine), life, slots, notifier)


async def test_changes_are_told_soon_and_everything_at_each_heartbeat(
    autojump_clock: trio.testing.MockClock,
) -> None:
    slots = Slots(2)
    made = board(Notifier(), Life(0.0), slots)
    link = Heard()
    made.links.add(link)  # type: ignore[arg-type]
    turns: list[float] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.serve, lambda: turns.append(trio.current_time()))
        await trio.sleep(0.2)
        made.changed()
        await trio.testing.wait_all_tasks_blocked()
        assert not link.at  # a snapshot would be in the way of the first token
        for _ in range(20):  # many changes within SETTLE_S are told in few snapshots
            if not slots.take():
                slots.free()
            made.changed()
            await trio.sleep(module.SETTLE_S / 20)
        assert 1 <= len(link.at) <= 3
        assert link.snapshots[-1].slots_active == slots.active
        link.at.clear()
        await trio.sleep(3 * (HEARTBEAT_S + module.SETTLE_S))
        assert len(link.at) == 3
        nursery.cancel_scope.cancel()
    assert [one.seq for one in link.snapshots] == sorted({one.seq for one in link.snapshots})
    assert len(turns) == len(link.snapshots)


@pytest.mark.req("ORCH-3901")
@pytest.mark.parametrize("said", [None, Count(131_072)])
async def test_what_a_token_of_context_takes_is_said_only_where_it_is_known(
    said: Count | None,
) -> None:
    mine = pool("mock:x", "mock")
    mine = evolve(mine, engine=evolve(mine.engine, kv_bytes_per_token=said))
    made = Board(mine, NAME, MASK, adapter(mine), Life(0.0), Slots(2), Notifier())
    assert made.snapshot().kv_bytes_per_token == said


async def test_systemd_hears_a_phase_at_once_and_slots_once_a_second(
    manager: socket.socket, autojump_clock: trio.testing.MockClock
) -> None:
    life = Life(0.0)
    notifier = Notifier()
    made = board(notifier, life, Slots(2))
    made.announce()
    assert said(manager) == ["STATUS=Looking for the GPUs of the mask"]
    life.handle(Begun(), 0.0)
    made.announce()
    assert said(manager) == []  # nothing new
    life.phase = Phase.DRAINING
    made.announce()
    assert len(said(manager)) == 1
    made.slots.take()
    made.announce()
    assert said(manager) == []
    await trio.sleep(module.STATUS_S)
    made.announce()
    (line,) = said(manager)
    assert line.startswith("STATUS=Draining: 1 of 2 slots busy")
    notifier.close()


async def test_a_line_that_systemd_had_no_room_for_is_said_again(
    manager: socket.socket, autojump_clock: trio.testing.MockClock
) -> None:
    notifier = Notifier()
    made = board(notifier, Life(0.0), Slots(2))
    while notifier.status("no room"):
        pass
    made.announce()
    assert "STATUS=Looking for the GPUs of the mask" not in said(manager)
    await trio.sleep(module.STATUS_S)
    made.announce()
    assert said(manager) == ["STATUS=Looking for the GPUs of the mask"]
    notifier.close()


async def test_the_watchdog_is_fed_only_while_board_and_jobs_have_their_turns(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    settings = Settings(state_dir=tmp_path, run_dir=tmp_path)
    made = Replica(settings, pool("mock:x", "mock"), NAME, MASK)
    assert made._alive()
    await trio.sleep(replicas.STUCK_S)
    assert not made._alive()
    made._turned()
    assert not made._alive()
    made._jobs._sweep(trio.current_time())
    assert made._alive()
    await trio.sleep(replicas.STUCK_S)
    made._jobs._sweep(trio.current_time())
    assert not made._alive()
