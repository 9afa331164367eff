"""What orchd learns of a pool that systemd has given up, over a real bus."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from jeepney import HeaderFields, MessageType, message_bus, new_error, new_method_return
from jeepney.io.trio import DBusConnection, open_dbus_connection

from orchd.core.events import Event, ReplicaLost
from orchd.edge.links import Link
from orchd.edge.units import Units, units
from orchd.kit.client import PeerError, Target
from orchd.wire.errors import Kind
from orchd.wire.ids import ReplicaId
from tests.lab import needs
from tests.lab.logind import system_bus

DEMO = ReplicaId("demo:0")
pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _bus() -> None:
    needs.require(needs.BUS)


async def _answer(bus: DBusConnection, state: str | None) -> None:
    """A systemd with one unit in this state, or none."""
    said = {
        "org.freedesktop.systemd1.Unit": {"ActiveState": ("s", state)},
        "org.freedesktop.systemd1.Service": {
            "StatusText": ("s", "Failed: GPU 0 is lost. Reset it."),
            "NRestarts": ("u", 30),
        },
    }
    while True:
        call = await bus.receive()
        if call.header.message_type is not MessageType.method_call:
            continue
        if call.header.fields[HeaderFields.member] == "GetUnit":
            known = state is not None and call.body == ("poolmgr@demo:0.service",)
            await bus.send(
                new_method_return(call, "o", ("/u",))
                if known
                else new_error(call, "org.freedesktop.systemd1.NoSuchUnit", "s", ("no",))
            )
        else:
            await bus.send(new_method_return(call, "a{sv}", (said[call.body[0]],)))


@asynccontextmanager
async def systemd(folder: Path, state: str | None) -> AsyncIterator[str]:
    """Give the address of a bus with such a systemd."""
    async with system_bus(folder) as address:
        bus = await open_dbus_connection(address)
        async with bus, trio.open_nursery() as nursery:
            await bus.send(message_bus.RequestName("org.freedesktop.systemd1"))
            await trio.sleep(0.05)
            nursery.start_soon(_answer, bus, state)
            yield address
            nursery.cancel_scope.cancel()


@pytest.mark.req("OC-POOL-3011")
async def test_a_pool_that_rests_is_told_with_its_last_words_and_the_way_out(
    tmp_path: Path,
) -> None:
    async with systemd(tmp_path, "failed") as address:
        cause = await Units(address).given_up(DEMO)
    assert cause is not None
    assert cause.kind is Kind.BREAKER_OPEN
    assert cause.message == (
        "systemd does not start demo:0 any more, after 30 tries; its last status: Failed: GPU 0 is "
        "lost. Reset it"
    )
    assert cause.advice == "Mend the cause, then orchctl pools reset demo."


@pytest.mark.parametrize("state", ["activating", "active", "inactive", None])
async def test_a_pool_that_is_tried_or_was_stopped_does_not_rest(
    tmp_path: Path, state: str | None
) -> None:
    async with systemd(tmp_path, state) as address:
        assert await Units(address).given_up(DEMO) is None


async def test_without_a_bus_nothing_is_known(tmp_path: Path) -> None:
    assert await Units(f"unix:path={tmp_path}/none").given_up(DEMO) is None


@pytest.mark.req("OC-POOL-3011")
async def test_a_link_that_finds_nobody_says_that_the_breaker_is_open(tmp_path: Path) -> None:
    seen: list[Event] = []
    async with systemd(tmp_path, "failed") as address, trio.open_nursery() as nursery:
        link = Link(DEMO, tmp_path / "none.sock", seen.append, units=Units(address))
        nursery.start_soon(link.run)
        with trio.fail_after(5):
            while not seen:
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert isinstance(seen[0], ReplicaLost)
    assert seen[0].cause.kind is Kind.BREAKER_OPEN


@pytest.mark.req("OC-POOL-3011")
async def test_a_socket_left_half_made_does_not_hide_that_the_breaker_is_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen in a storm of kills: its file was root's alone, and nobody listened."""

    async def denied(_link: Link) -> None:
        raise PeerError(Target.unix(tmp_path / "s"), "connect", "no") from PermissionError(
            13, "Permission denied"
        )

    monkeypatch.setattr(Link, "_session", denied)
    seen: list[Event] = []
    async with systemd(tmp_path, "failed") as address, trio.open_nursery() as nursery:
        nursery.start_soon(Link(DEMO, tmp_path / "s", seen.append, units=Units(address)).run)
        with trio.fail_after(5):
            while not seen:
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert isinstance(seen[0], ReplicaLost)
    assert seen[0].cause.kind is Kind.BREAKER_OPEN


def test_only_a_unit_of_systemd_asks_and_the_right_one() -> None:
    assert units(Path("/run"), {}) is None
    assert units(Path("/run"), {"INVOCATION_ID": "x"}) == Units("SYSTEM")
    assert units(Path("/run/user/1000"), {"INVOCATION_ID": "x"}) == Units("SESSION")
