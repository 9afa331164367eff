"""The engine that was brought for a pool, as its poolmgr finds it: in the catalog, or not at all.

A pool brings nothing by itself; what it lacks it names, with the command that brings it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import trio

from orchd.catalog import engines
from orchd.config.pool import Mode, Pool
from orchd.config.schema import Settings
from orchd.wire.engines import EngineEntry, PreparedEngine, prepared
from orchd.wire.errors import Kind, OrchError
from poolmgr.provision.machine.cache import cache_of, usable
from poolmgr.provision.plans.planning import entry_id


async def brought(settings: Settings, pool: Pool) -> PreparedEngine | None:
    """Return the pool's engine; None: it is no engine that is brought.

    Raises OrchError(ENGINE_MISSING) with the command that brings it.
    """
    name = entry_id(pool)
    if name is None or pool.mode is Mode.PACKAGE:  # PATH has a package's program
        return None
    cache = cache_of(settings, pool)
    entry = await trio.to_thread.run_sync(engines.find, str(cache), name)
    if entry is None:
        raise missing(settings, pool, f"there is no {name} in {cache}")
    if not usable(entry):
        raise missing(settings, pool, f"{_what(entry)} of {name} is gone")
    if entry.image is not None and entry.store is None and Path(_what(entry)).name == "podman":
        refuse_closed(pool, _status(), os.geteuid())
    return prepared_engine(pool, entry)


def refuse_closed(pool: Pool, status: str, uid: int) -> None:
    """Refuse rootless podman where no process may gain privileges (NoNewPrivileges= of the units).

    newuidmap, which maps its users, is a setuid program; podman's own words for that lead nowhere.
    What is brought for the system's units does without it (store.py).
    `status` is the text of /proc/self/status. Raises OrchError(ENGINE_START_FAILED).
    """
    if uid != 0 and re.search(r"^NoNewPrivs:\s*1$", status, re.MULTILINE):
        raise OrchError(
            Kind.ENGINE_START_FAILED,
            f"pool {pool.id}: its image is in a user's own storage, and podman cannot map that "
            "user's ids where nobody gains privileges (NoNewPrivileges=): for the system's units "
            f"run sudo orchctl provision {pool.id}; else take NoNewPrivileges= from the unit, or "
            "run the pool by orchctl up",
        )


def prepared_engine(pool: Pool, entry: EngineEntry) -> PreparedEngine:
    """Return what starts an entry's engine for a pool [ORCH-3805]."""
    program = Path(entry.artifacts[0])
    folder = "/" if entry.image is not None else str(program.parent)
    args = () if pool.provisioning.command is None else pool.provisioning.command[1:]
    return prepared(entry, args, folder)


def missing(settings: Settings, pool: Pool, why: str) -> OrchError:
    """Return that the pool's engine is not here, and what to type."""
    file = "" if settings.source is None else f" --config {settings.source}"
    default = settings.source == Path("/etc/orchd/orchd.toml")
    command = f"orchctl provision {pool.id}{'' if default else file}"
    return OrchError(
        Kind.ENGINE_MISSING,
        f"the engine of pool {pool.id} has not been brought here ({why}): run {command}",
    )


def _status() -> str:
    return Path("/proc/self/status").read_text()


def _what(entry: EngineEntry) -> str:
    return entry.artifacts[0] if entry.image is None else str(entry.runtime)
