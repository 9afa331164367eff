"""`orchctl pools reset POOL`: let systemd try again to start a pool that it has given up."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Final

from orchd.cli import reach, say
from orchd.wire.errors import Kind

ANSWER_S: Final = 30.0
"""Somebody may have to type a password for polkit."""
BOOTED: Final = Path("/run/systemd/system")  # sd_booted(3)
_UP: Final = (
    "Where orchctl up runs the pools there is nothing to reset: it starts what died again within "
    "10 s, for ever; Ctrl-C and start it again to begin anew."
)


def reset(pool_id: str, *, user: bool) -> None:
    """Close the circuit breaker of every replica of the pool, and start them.

    Raises ToldError(UNKNOWN_ID) where systemd knows no such pool, (DAEMON_UNREACHABLE) where there
    is no systemd, or it does not let us.
    """
    if shutil.which("systemctl") is None or not BOOTED.is_dir():
        raise reach.ToldError(Kind.DAEMON_UNREACHABLE, "this machine does not run systemd", _UP)
    services = _services(pool_id, user=user)
    if not services:
        manager = "your systemd instance" if user else "systemd"
        raise reach.ToldError(
            Kind.UNKNOWN_ID,
            f"{manager} has no replica of pool {pool_id}",
            f"systemctl {'--user ' if user else ''}list-units --all 'poolmgr@*' shows all. {_UP}",
        )
    sockets = [f"{service.removesuffix('.service')}.socket" for service in services]
    _systemctl(pool_id, user, "reset-failed", *sockets, *services)
    _systemctl(pool_id, user, "start", "--no-block", *sockets, *services)
    names = ", ".join(name.removeprefix("poolmgr@").removesuffix(".service") for name in services)
    say.note(f"{names}: starting again. orchctl pools {pool_id} shows how far it is.", "")


def _services(pool_id: str, *, user: bool) -> list[str]:
    """Return the pool's units that systemd has loaded; one that failed is among them."""
    listed = _systemctl(
        pool_id, user, "list-units", "--all", "--plain", "--no-legend", "--no-pager",
        f"poolmgr@{pool_id}:*.service",
    )  # fmt: skip
    return sorted(line.split()[0] for line in listed.splitlines() if line.strip())


def _systemctl(pool_id: str, user: bool, *arguments: str) -> str:
    argv = ["systemctl", *(["--user"] if user else []), *arguments]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=ANSWER_S)
    except subprocess.TimeoutExpired:
        why = f"systemctl {arguments[0]} did not answer within {ANSWER_S:.0f} s"
    else:
        if done.returncode == 0:
            return done.stdout
        why = (done.stderr.strip().splitlines() or [f"systemctl ended with {done.returncode}"])[-1]
    again = f"sudo orchctl pools reset {pool_id}"
    raise reach.ToldError(
        Kind.DAEMON_UNREACHABLE,
        f"systemctl {arguments[0]}: {why}",
        "systemctl --user status shows what is wrong." if user else f"As root: {again}.",
    )
