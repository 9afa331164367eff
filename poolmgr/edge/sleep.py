"""The machine's sleep, as logind tells it over D-Bus: heard before, delayed while jobs end, heard
after. What a replica does about it is core/life.py's.

A delay inhibitor (https://systemd.io/INHIBITOR_LOCKS) is a descriptor that logind gave us: closing
it lets the machine sleep. logind waits for at most InhibitDelayMaxSec=, 5 s by default.
"""

from __future__ import annotations

import os
from typing import Final

import trio
from jeepney import (
    DBusAddress,
    HeaderFields,
    MatchRule,
    Message,
    MessageType,
    message_bus,
    new_method_call,
)
from jeepney.auth import AuthenticationError
from jeepney.io.trio import DBusConnection, open_dbus_connection

from orchd.kit import log
from orchd.wire.ids import ReplicaId
from poolmgr.core import lifewords as lw
from poolmgr.edge.health import Say

CONNECT_S: Final = 5.0
AGAIN_S: Final = 30.0
"""After a bus that was lost: it comes back with a restart of dbus-broker, if ever."""
LOGIND: Final = "org.freedesktop.login1"
_MANAGER: Final = DBusAddress(
    "/org/freedesktop/login1", bus_name=LOGIND, interface="org.freedesktop.login1.Manager"
)
_SLEEP: Final = MatchRule(
    type="signal",
    sender=LOGIND,
    interface="org.freedesktop.login1.Manager",
    member="PrepareForSleep",
    path="/org/freedesktop/login1",
)
_OWNER: Final = MatchRule(
    type="signal",
    sender="org.freedesktop.DBus",
    interface="org.freedesktop.DBus",
    member="NameOwnerChanged",
    path="/org/freedesktop/DBus",
)
_OWNER.add_arg_condition(0, LOGIND)
_NO_BUS: Final = (OSError, trio.TooSlowError, AuthenticationError, ValueError)
_LOST: Final = (trio.EndOfChannel, trio.BrokenResourceError, trio.ClosedResourceError, *_NO_BUS)


class SleepWatch:
    """The watch of one replica. `say` is told SleepComes and Woke."""

    def __init__(self, replica_id: ReplicaId, say: Say) -> None:
        self._replica_id = replica_id
        self._say = say
        self._lock: int | None = None
        self._logind = ""
        """The unique name of who may tell: anybody may send us a signal of this name."""
        self._asked = 0
        """The serial of the last call of Inhibit."""
        self._told_unwatched = False

    async def watch(self) -> None:
        """Hear of every sleep, for ever; without a system bus return, having said so."""
        try:
            while True:
                try:
                    with trio.fail_after(CONNECT_S):
                        connection = await open_dbus_connection("SYSTEM", enable_fds=True)
                except _NO_BUS as exc:
                    self._unwatched(f"there is no system bus ({_words(exc)})")
                    return
                try:
                    async with connection:
                        await self._serve(connection)
                except _LOST as exc:
                    self.let()
                    self._unwatched(f"the system bus is gone ({_words(exc)})")
                await trio.sleep(AGAIN_S)
        finally:
            self.let()

    def let(self) -> None:
        """Let the machine sleep, as far as we are concerned."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    async def _serve(self, bus: DBusConnection) -> None:
        for rule in (_SLEEP, _OWNER):
            await bus.send(message_bus.AddMatch(rule))
        await self._inhibit(bus)
        while True:
            message = await bus.receive()
            fields = message.header.fields
            if fields.get(HeaderFields.reply_serial) == self._asked:
                self._answered(message)
            elif _member(message) == _SLEEP_MEMBER and self._from_logind(message):
                await self._told(bus, about_to=bool(message.body[0]))
            elif _member(message) == _OWNER_MEMBER and self._from_bus(message):
                self._logind = str(message.body[2])
                if self._logind:  # a new logind knows nothing of the lock
                    await self._inhibit(bus)

    async def _told(self, bus: DBusConnection, *, about_to: bool) -> None:
        if about_to:
            log.event(
                "machine_sleeps",
                "The machine is about to sleep: no job is taken until it has woken.",
                replica_id=self._replica_id,
            )
            self._say(lw.SleepComes())
        else:
            log.event(
                "machine_woke",
                "The machine woke: driver, GPUs and engine are probed.",
                replica_id=self._replica_id,
            )
            self._say(lw.Woke())
            await self._inhibit(bus)

    async def _inhibit(self, bus: DBusConnection) -> None:
        self._asked = next(bus.outgoing_serial)
        why = f"{self._replica_id}: running jobs end first"
        call = new_method_call(_MANAGER, "Inhibit", "ssss", ("sleep", "poolmgr", why, "delay"))
        await bus.send(call, serial=self._asked)

    def _answered(self, message: Message) -> None:
        if message.header.message_type is MessageType.method_return:
            self._logind = str(message.header.fields[HeaderFields.sender])
            self.let()
            self._lock = message.body[0].to_raw_fd()
            return
        if not self._from_bus(message):
            self._logind = str(message.header.fields[HeaderFields.sender])
        name = message.header.fields.get(HeaderFields.error_name, "an error")
        self._unwatched(f"logind does not let it be delayed ({name})")

    def _from_logind(self, message: Message) -> bool:
        sender = message.header.fields.get(HeaderFields.sender)
        return bool(self._logind) and sender == self._logind

    @staticmethod
    def _from_bus(message: Message) -> bool:
        return bool(message.header.fields.get(HeaderFields.sender) == "org.freedesktop.DBus")

    def _unwatched(self, why: str) -> None:
        if self._told_unwatched:
            return
        self._told_unwatched = True
        log.event(
            "sleep_unwatched",
            f"Jobs do not end before the machine sleeps: {why}. What a sleep breaks is seen by the "
            "health of the engine.",
            replica_id=self._replica_id,
        )


_SLEEP_MEMBER: Final = ("org.freedesktop.login1.Manager", "PrepareForSleep")
_OWNER_MEMBER: Final = ("org.freedesktop.DBus", "NameOwnerChanged")


def _member(message: Message) -> tuple[str, str] | None:
    if message.header.message_type is not MessageType.signal:
        return None
    fields = message.header.fields
    return str(fields.get(HeaderFields.interface)), str(fields.get(HeaderFields.member))


def _words(exc: BaseException) -> str:
    return str(exc) or type(exc).__name__
