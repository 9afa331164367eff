"""A system bus and a logind on it, for machines (and tests) that have neither.

The bus is a real dbus-daemon, with a policy that lets everybody in; logind is a few lines that hand
out inhibitors and tell of sleeps, as org.freedesktop.login1(5) describes. Not here: any assertion.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio
from attrs import define, field
from jeepney import (
    DBusAddress,
    HeaderFields,
    Message,
    MessageType,
    message_bus,
    new_error,
    new_method_return,
    new_signal,
)
from jeepney.io.trio import DBusConnection, open_dbus_connection

CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path={0}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*" eavesdrop="false"/>
    <allow receive_sender="*"/>
    <allow own="*"/>
    <allow user="*"/>
  </policy>
</busconfig>
"""
MANAGER = DBusAddress("/org/freedesktop/login1", interface="org.freedesktop.login1.Manager")


@asynccontextmanager
async def system_bus(folder: Path) -> AsyncIterator[str]:
    """Run a bus; give its address, for DBUS_SYSTEM_BUS_ADDRESS."""
    config, socket = folder / "bus.conf", folder / "bus"
    config.write_text(CONFIG.format(socket))
    argv = ["dbus-daemon", f"--config-file={config}", "--nofork", "--print-address"]
    daemon = await trio.to_thread.run_sync(lambda: subprocess.Popen(argv, stdout=subprocess.PIPE))
    try:
        assert daemon.stdout is not None
        await trio.to_thread.run_sync(daemon.stdout.readline)  # it listens now
        yield f"unix:path={socket}"
    finally:
        daemon.kill()
        daemon.communicate()


@define
class Logind:
    """One logind. `refuses` is what it answers to Inhibit instead of a lock."""

    bus: DBusConnection
    refuses: str | None = None
    asked: list[tuple[str, ...]] = field(factory=list)
    """The arguments of each Inhibit."""
    _locks: list[int] = field(factory=list)
    """Our ends of the pipes."""

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Answer calls."""
        task_status.started()
        while True:
            message = await self.bus.receive()
            fields = message.header.fields
            if message.header.message_type is not MessageType.method_call:
                continue
            if fields.get(HeaderFields.member) == "Inhibit":
                await self._inhibit(message)

    async def _inhibit(self, message: Message) -> None:
        self.asked.append(tuple(message.body))
        if self.refuses is not None:
            await self.bus.send(new_error(message, self.refuses, "s", ("no",)))
            return
        ours, theirs = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        await self.bus.send(new_method_return(message, "h", (theirs,)))
        os.close(theirs)
        self._locks.append(ours)

    async def tell(self, *, about_to: bool) -> None:
        """Send PrepareForSleep to whoever asked for it."""
        await self.bus.send(new_signal(MANAGER, "PrepareForSleep", "b", (about_to,)))

    async def released(self) -> None:
        """Wait until the last lock was given back: then the machine would sleep."""
        await trio.lowlevel.wait_readable(self._locks[-1])

    def held(self) -> bool:
        """Whether the last lock is still held."""
        try:
            return bool(os.read(self._locks[-1], 1))
        except BlockingIOError:
            return True

    async def asked_times(self, count: int) -> None:
        """Wait until so many locks were asked for."""
        with trio.fail_after(10):
            while len(self.asked) < count:
                await trio.sleep(0.01)

    def close(self) -> None:
        for lock in self._locks:
            os.close(lock)


@asynccontextmanager
async def logind(address: str, refuses: str | None = None) -> AsyncIterator[Logind]:
    """Run a logind on the bus."""
    bus = await open_dbus_connection(address, enable_fds=True)
    made = Logind(bus, refuses)
    async with bus, trio.open_nursery() as nursery:
        await bus.send(message_bus.RequestName("org.freedesktop.login1"))
        await nursery.start(made.serve)
        try:
            yield made
        finally:
            made.close()
            nursery.cancel_scope.cancel()
