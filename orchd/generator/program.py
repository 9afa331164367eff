"""The generator itself (systemd.generator(7)): finds the file, decides which units hold, writes.

An unchanged file costs a hash and no more: what it led to is kept, and orchd.config is not even
imported. A changed one goes through the whole checker, the same that `orchctl config check` runs.
Nothing here raises, waits or talks to systemd, which waits for us.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

from orchd import __version__
from orchd.generator import gpus, say
from orchd.generator.store import NONE, Kept, Units, keep, recall, write

KEPT: Final = "orchd-units.json"
STOPPER: Final = "orchd-removed.service"
_SOCKET: Final = re.compile(r"([a-z0-9][a-z0-9-]{0,62}:[0-9]{1,2}(?:_[0-9]{1,2}){0,63})\.sock")
"""Name of a pool's socket (orchd.wire.ids.POOL_ID, MASK; a test holds them together)."""
_MAX_READ: Final = (1 << 20) + 1  # past what orchd.config reads
_MAX_SOCKETS: Final = 4096
"""Entries of the folder that are looked at: engines may write there too."""
_UNREAD: Final = "not-read-by-the-generator"


_HALF_UPGRADED: Final = (ImportError, SyntaxError, AttributeError, TypeError)
"""What a package raises whose modules are of two versions: pacman runs us in the middle, too."""


class UnitsRefusedError(Exception):
    """The file is wrong: the first of its faults, in words."""


class Places(NamedTuple):
    """Where things are: the machine's, or a user's."""

    config: Path
    run: Path
    user: bool = False
    gpus: Path = gpus.FOLDER


def places(environ: Mapping[str, str]) -> Places:
    """Return the paths of the manager that runs us; those that the units' environment names."""
    if environ.get("SYSTEMD_SCOPE") != "user":
        return Places(Path("/etc/orchd/orchd.toml"), Path("/run"))
    home = environ.get("XDG_CONFIG_HOME") or Path(environ.get("HOME", "/"), ".config")
    run = environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}"
    return Places(Path(home, "orchd", "orchd.toml"), Path(run), user=True)


def main(argv: Sequence[str], environ: Mapping[str, str] = os.environ) -> int:
    """Write the units below the first argument. Returns 0: a generator that fails helps nobody."""
    if len(argv) < 2:
        say.error("units_refused", "The first argument must be the folder for the units.")
        return 1
    try:
        generate(places(environ), Path(argv[1]))
    except OSError as exc:
        say.error("units_refused", f"The units of the pools could not be written: {exc!r}")
    return 0


def generate(where: Places, out: Path) -> None:
    """Write the units of the file; if it is refused, those of the last that was not."""
    kept = recall(where.run / KEPT)
    try:
        key = _key(where)
        if key is None:
            units = NONE
            (where.run / KEPT).unlink(missing_ok=True)
        elif kept is not None and kept.key == key:
            units = kept.units
        else:
            units = _checked(where)
            if _key(where) == key:  # else it was changed meanwhile, and a reload comes anyway
                keep(Kept(key, units), where.run / KEPT)
    except (UnitsRefusedError, OSError, *_HALF_UPGRADED) as exc:
        stay = "there are none to fall back to" if kept is None else "the last good ones stay"
        why = str(exc) if isinstance(exc, UnitsRefusedError) else repr(exc)
        say.error("units_refused", f"No new units from {where.config}, {stay}: {why}")
        units = NONE if kept is None else kept.units
    write(_with_stopper(units, where), out)


def _key(where: Places) -> str | None:
    """Return what the units depend on, as one word; None: there is no file."""
    try:
        with where.config.open("rb") as stream:
            data = stream.read(_MAX_READ)
    except (FileNotFoundError, NotADirectoryError):
        return None
    facts = f"{__version__} {where.config} {gpus.minors(where.gpus)}"
    return hashlib.sha256(facts.encode() + b"\0" + data).hexdigest()


def _checked(where: Places) -> Units:
    """Check the file and make its units. Raises UnitsRefusedError."""
    from orchd.config.faults import ConfigError  # a tenth of a second, for changed files only
    from orchd.config.load import load
    from orchd.generator import plan

    environ = {
        "ORCHD_RUN_DIR": str(where.run),
        "ORCHD_STATE_DIR": "/var/lib/orchd",  # no unit depends on it
        # The token comes to the daemons as a credential; whether it will is not known here, and no
        # pool depends on it. So we read none, and let none be missing.
        "ORCHD_AUTH_TOKEN": _UNREAD,
    }
    try:
        settings = load(where.config, environ=environ)
    except ConfigError as exc:
        first, *more = exc.faults
        others = f" (and {len(more)} more)" if more else ""
        raise UnitsRefusedError(f"{first}{others}; orchctl config check tells all") from exc
    return plan.units(settings, gpus.minors(where.gpus), user=where.user)


def _with_stopper(units: Units, where: Places) -> Units:
    """Add a unit that stops pools which are not configured any more, when there are any.

    A pool that is there has its socket there: RemoveOnStop= takes it away.
    """
    try:
        entries = (path.name for path in (where.run / "poolmgr").iterdir())
        there = sorted(islice(entries, _MAX_SOCKETS))
    except OSError:
        return units
    found = [match[1] for match in map(_SOCKET.fullmatch, there) if match]
    gone = [name for name in found if name not in units.instances]
    if not gone:
        return units
    names = " ".join(f"poolmgr@{name}.service poolmgr@{name}.socket" for name in gone)
    text = (
        "[Unit]\nDescription=LLM orchestrator: stop pools that are no longer configured\n"
        f"SourcePath={where.config}\n[Service]\nType=oneshot\n"
        f"ExecStart=systemctl {'--user ' if where.user else ''}stop --no-block {names}\n"
    )
    template = f"orchd.target.wants/{STOPPER}"
    return units._replace(
        files={**units.files, STOPPER: text}, links={**units.links, template: f"../{STOPPER}"}
    )
