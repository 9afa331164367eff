"""What systemd is told: readiness, the status line, the watchdog. Silent without systemd.

When a daemon is ready and what its status says is its own business.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from typing import Final

import sdnotify
import trio

from orchd.kit.redact import redact

MAX_STATUS: Final = 500  # characters: a cause with its figures and its advice, not a report
WAIT_S: Final = 5.0
"""How long READY=1, STOPPING=1 and last words wait for room: below any watchdog, and long enough
for a manager that reloads its units."""
BEAT_AGAIN_S: Final = 0.5


class Notifier:
    """Talks to $NOTIFY_SOCKET. A manager that does not listen does not hold up the loop: a status
    line or a beat for which it has no room is dropped, what matters waits for at most WAIT_S."""

    def __init__(self) -> None:
        # without the variable sdnotify leaks the socket that it made before it looked
        named = os.environ.get("NOTIFY_SOCKET")
        self._socket: socket.socket | None = sdnotify.SystemdNotifier().socket if named else None
        self.watchdog_s = _watchdog_s()
        """Half of WatchdogSec=, in seconds: how often to beat; None without a watchdog."""

    def ready(self, status: str) -> None:
        """READY=1, with what systemctl status then shows."""
        self._send(f"READY=1\n{_line(status)}", WAIT_S)

    def status(self, text: str) -> bool:
        """Replace the line that systemctl status shows. False: there was no room, say it later."""
        return self._send(_line(text))

    def extend(self, seconds: float) -> None:
        """EXTEND_TIMEOUT_USEC: the start goes on, and may take `seconds` from now."""
        self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1_000_000)}")

    def reloading(self) -> None:
        """RELOADING=1: until READY=1 follows, `systemctl reload` waits (sd_notify(3))."""
        now_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send(f"RELOADING=1\nMONOTONIC_USEC={now_us}", WAIT_S)

    def stopping(self, status: str) -> None:
        """STOPPING=1: the orderly stop has begun."""
        self._send(f"STOPPING=1\n{_line(status)}", WAIT_S)

    def stay(self, status: str, extend_s: float) -> None:
        """While it stops: how it stands, and that it takes up to `extend_s` more from now on."""
        self._send(f"EXTEND_TIMEOUT_USEC={round(extend_s * 1_000_000)}\n{_line(status)}", WAIT_S)

    def last_words(self, text: str) -> None:
        """Replace the line once more, for the time after the end."""
        self._send(_line(text), WAIT_S)

    async def keep_beating(self, alive: Callable[[], bool]) -> None:
        """Send WATCHDOG=1 from the loop itself while `alive()`; returns only without a watchdog.

        A loop that hangs, or `alive()` false until WatchdogSec= is over, and systemd restarts it.
        """
        if self.watchdog_s is None:
            return
        while True:
            sent = not alive() or self._send("WATCHDOG=1")
            await trio.sleep(self.watchdog_s if sent else min(self.watchdog_s, BEAT_AGAIN_S))

    def close(self) -> None:
        """Close the socket: for those that do not live as long as the process."""
        if self._socket is not None:
            self._socket.close()
        self._socket = None

    def _send(self, message: str, wait_s: float = 0.0) -> bool:
        """Send a message within `wait_s`; False when it was dropped."""
        if self._socket is None:
            return True
        self._socket.settimeout(wait_s)
        try:
            self._socket.send(message.encode("utf-8", "replace"))
        except OSError:  # no room, or no manager any more: sd_notify(3) advises to go on
            return False
        return True


def _line(status: str) -> str:
    return f"STATUS={' '.join(redact(status).split())[:MAX_STATUS]}"


def _watchdog_s() -> float | None:
    """Read WATCHDOG_USEC, if WATCHDOG_PID is this process's (sd_watchdog_enabled(3))."""
    usec = os.environ.get("WATCHDOG_USEC", "")
    pid = os.environ.get("WATCHDOG_PID", str(os.getpid()))
    if not usec.isdecimal() or int(usec) == 0 or pid != str(os.getpid()):
        return None
    return int(usec) / 2 / 1_000_000
