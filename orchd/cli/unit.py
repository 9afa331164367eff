"""One daemon of `orchctl up`: started as systemd would, watched, started again when it dies.

The same path as under systemd: LISTEN_FDS with names, NOTIFY_SOCKET. When to stop is up.py's.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import trio

from orchd.kit import log

FIRST_DELAY_S: Final = 0.2
MAX_DELAY_S: Final = 10.0
GOOD_LIFE_S: Final = 30.0
"""A child that lived so long starts again with the first delay."""
_SHIM: Final = Path(__file__).with_name("shim.py")
_MESSAGE_BYTES: Final = 4096
_CREDENTIALS: Final = struct.Struct("3i")  # pid, uid, gid (unix(7), SCM_CREDENTIALS)
_SYSTEMDS: Final = (
    "INVOCATION_ID", "JOURNAL_STREAM", "LISTEN_FDNAMES", "LISTEN_FDS", "LISTEN_PID",
    "NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC",
)  # fmt: skip


class Unit:
    """A daemon and its sockets. `run` is its task and starts it again until it is to stop."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        listeners: Mapping[str, socket.socket],
        stop: trio.Event,
        changed: Callable[[], None],
    ) -> None:
        """`stop`: do not start it again. `changed` is called after every change of `ready`."""
        self.name = name
        self.ready = False
        self.pid: int | None = None
        self._argv = argv
        self._listeners = listeners
        self._stop = stop
        self._changed = changed
        self._status = ""

    async def run(self) -> None:
        """Start it, and again whenever it ends; return when it has ended and is to stop."""
        delay_s = FIRST_DELAY_S
        while not self._stop.is_set():
            begun = trio.current_time()
            how = await self._live()
            if self._stop.is_set():
                log.event("unit_stopped", f"{self.name} has stopped ({how})", unit=self.name)
                return
            if trio.current_time() - begun >= GOOD_LIFE_S:
                delay_s = FIRST_DELAY_S
            log.event(
                "unit_died",
                f"{self.name} {how}; starting it again in {delay_s:g} s",
                level="warning",
                unit=self.name,
                retry_s=delay_s,
            )
            with trio.move_on_after(delay_s):
                await self._stop.wait()
            delay_s = min(2 * delay_s, MAX_DELAY_S)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the daemon; to all it left in its group, where that is SIGKILL."""
        if self.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                if number is signal.SIGKILL:
                    os.killpg(self.pid, number)
                else:
                    os.kill(self.pid, number)

    async def _live(self) -> str:
        """Run it once; return how it ended, in words."""
        with _notify_socket() as (notify, address):
            try:
                child = self._start(address)
            except OSError as exc:
                return f"could not be started: {exc.strerror}"
            self.pid = child.pid
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._listen, notify, child.pid)
                    await _ended(child)
                    nursery.cancel_scope.cancel()
            finally:
                self.signal(signal.SIGKILL)  # whatever it left behind
                child.wait()
                self.pid = None
                self._set_ready(ready=False)
                self._status = ""
        return _how(child.returncode)

    def _start(self, address: str) -> subprocess.Popen[bytes]:
        # Popen on this thread: the parent-death signal is sent when the thread that forked ends
        # (prctl(2)), and trio's workers end when idle. It stops the daemon if we are killed.
        numbers = [sock.fileno() for sock in self._listeners.values()]
        environ = {name: value for name, value in os.environ.items() if name not in _SYSTEMDS}
        environ |= {
            "LISTEN_FDS": str(len(numbers)),
            "LISTEN_FDNAMES": ":".join(self._listeners),
            "NOTIFY_SOCKET": address,
        }
        root = Path(__file__).parents[2]
        if root.name not in {"site-packages", "dist-packages"}:  # run from a checkout
            path = environ.get("PYTHONPATH")
            environ["PYTHONPATH"] = f"{root}:{path}" if path else str(root)
        shim = [sys.executable, "-I", "-S", str(_SHIM), ",".join(map(str, numbers))]
        return subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", "--", *shim, sys.executable, "-P", *self._argv],
            env=environ,
            stdin=subprocess.DEVNULL,
            pass_fds=numbers,
            start_new_session=True,  # Ctrl-C comes to us alone, and we stop things in order
        )

    async def _listen(self, notify: socket.socket, pid: int) -> None:
        """Take the daemon's messages (sd_notify(3)); those of others are not ours to believe."""
        while True:
            await trio.lowlevel.wait_readable(notify)
            data, ancillary, _, _ = notify.recvmsg(
                _MESSAGE_BYTES, socket.CMSG_SPACE(_CREDENTIALS.size)
            )
            senders = [_CREDENTIALS.unpack(body)[0] for _, kind, body in ancillary
                       if kind == socket.SCM_CREDENTIALS]  # fmt: skip
            if senders == [pid]:
                for line in data.decode("utf-8", "replace").splitlines():
                    self._told(line)

    def _told(self, line: str) -> None:
        name, _, value = line.partition("=")
        if name == "STATUS" and value != self._status:
            self._status = value
            if not self.ready:  # once it is, its line counts busy slots and its own log tells more
                log.event("unit_status", f"{self.name}: {value}", unit=self.name)
        elif name == "READY" and value == "1":
            self._set_ready(ready=True)
        elif name == "STOPPING":
            self._set_ready(ready=False)

    def _set_ready(self, *, ready: bool) -> None:
        if ready != self.ready:
            self.ready = ready
            self._changed()


@contextlib.contextmanager
def _notify_socket() -> Iterator[tuple[socket.socket, str]]:
    """Give a datagram socket and its address: abstract, so that no file is ever left over."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        sock.bind("")  # the kernel chooses the name (unix(7), Autobind)
        yield sock, "@" + sock.getsockname()[1:].decode("ascii")


async def _ended(child: subprocess.Popen[bytes]) -> None:
    pidfd = os.pidfd_open(child.pid)
    try:
        await trio.lowlevel.wait_readable(pidfd)
    finally:
        os.close(pidfd)


def _how(returncode: int) -> str:
    if returncode >= 0:
        return f"ended with exit code {returncode}"
    try:
        return f"was ended by {signal.Signals(-returncode).name}"
    except ValueError:
        return f"was ended by signal {-returncode}"
