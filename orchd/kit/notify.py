"""What systemd is told: readiness, the status line, the watchdog. Silent without systemd.

When a daemon is ready and what its status says is its own business.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

import sdnotify
import trio

from orchd.kit.redact import redact

MAX_STATUS: Final = 240  # characters: a line of systemctl status, not a report


class Notifier:
    """Talks to $NOTIFY_SOCKET. A message that cannot be sent is dropped: sd_notify(3), Notes."""

    def __init__(self) -> None:
        # without the variable sdnotify leaks the socket that it made before it looked
        self._notifier = sdnotify.SystemdNotifier() if os.environ.get("NOTIFY_SOCKET") else None
        self.watchdog_s = _watchdog_s()
        """Half of WatchdogSec=, in seconds: how often to beat; None without a watchdog."""

    def ready(self, status: str) -> None:
        """READY=1, with what systemctl status then shows."""
        self._send("READY=1", status)

    def status(self, text: str) -> None:
        """Replace the line that systemctl status shows."""
        self._send(None, text)

    def stopping(self, status: str) -> None:
        """STOPPING=1: the orderly stop has begun."""
        self._send("STOPPING=1", status)

    async def keep_beating(self, alive: Callable[[], bool]) -> None:
        """Send WATCHDOG=1 from the loop itself while `alive()`; returns only without a watchdog.

        A loop that hangs, or `alive()` false until WatchdogSec= is over, and systemd restarts it.
        """
        if self.watchdog_s is None:
            return
        while True:
            if alive():
                self._notify("WATCHDOG=1")
            await trio.sleep(self.watchdog_s)

    def close(self) -> None:
        """Close the socket: for those that do not live as long as the process."""
        if self._notifier is not None and self._notifier.socket is not None:
            self._notifier.socket.close()
        self._notifier = None

    def _send(self, state: str | None, status: str) -> None:
        line = " ".join(redact(status).split())[:MAX_STATUS]
        # sdnotify encodes latin-1 and drops what does not fit: give it the UTF-8 bytes one by one
        text = f"STATUS={line}".encode("utf-8", "replace").decode("latin-1")
        self._notify(f"{state}\n{text}" if state else text)

    def _notify(self, message: str) -> None:
        if self._notifier is not None:
            self._notifier.notify(message)


def _watchdog_s() -> float | None:
    """Read WATCHDOG_USEC, if WATCHDOG_PID is this process's (sd_watchdog_enabled(3))."""
    usec = os.environ.get("WATCHDOG_USEC", "")
    pid = os.environ.get("WATCHDOG_PID", str(os.getpid()))
    if not usec.isdecimal() or int(usec) == 0 or pid != str(os.getpid()):
        return None
    return int(usec) / 2 / 1_000_000
