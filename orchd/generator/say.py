"""One line to the operator: by the journal, and before that runs, by the kernel's log.

Standard library only. The daemons' own log is orchd.kit.log.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Final

JOURNAL: Final = "/run/systemd/journal/socket"
KMSG: Final = Path("/dev/kmsg")
IDENTIFIER: Final = "orchd-generator"
MAX_CHARS: Final = 900
"""A record of /dev/kmsg has 1024 bytes less its head."""
_ERROR: Final = 3  # syslog(3)


def error(event: str, text: str) -> None:
    """Say that something is wrong. Never waits: PID 1 waits for us, and the journal for PID 1."""
    line = "".join(char if char.isprintable() else " " for char in text)[:MAX_CHARS]
    fields = {
        "MESSAGE": line,
        "PRIORITY": str(_ERROR),
        "SYSLOG_IDENTIFIER": IDENTIFIER,
        "EVENT": event,
        # so that `systemctl status orchd.target` and `journalctl -u orchd.target` show it
        "OBJECT_SYSTEMD_UNIT": "orchd.target",
    }
    import socket  # as long to import as all the rest here, and mostly there is nothing to say

    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.setblocking(False)
        record = "".join(f"{name}={value}\n" for name, value in fields.items())
        journal.sendto(record.encode("utf-8", "replace"), JOURNAL)
        return
    # not "wb", which would make a file where a container has no such device
    with contextlib.suppress(OSError), KMSG.open("r+b", buffering=0) as kernel:
        kernel.write(f"<{_ERROR}>{IDENTIFIER}: {line}\n".encode("utf-8", "replace"))
        return
    print(f"{IDENTIFIER}: {line}", file=sys.stderr)
