"""How the engine of a replica comes to run: what to start, or whom to attach to.

Gate 2 of ORCH-3421. Nothing is started here: poolmgr/edge does that with the plan.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from attrs import frozen

from orchd.config.pool import MOCK, Mode, Pool
from orchd.kit.client import Target
from orchd.wire.errors import Kind, OrchError
from poolmgr.core.fit import Need
from poolmgr.engines.base import Adapter, check_profile
from poolmgr.provision.models import Staged

MOCK_COMMAND: Final = (sys.executable, "-m", "poolmgr.mockengine")
INSTALL: Final = {
    "llama-server": "install llama.cpp with CUDA (Arch: llama.cpp-cuda from the AUR), or name the "
    "program's path in provisioning.command",
}


@frozen(kw_only=True)
class Plan:
    """What will run."""

    target: Target
    """Where the engine answers."""
    argv: tuple[str, ...] | None
    """None: an external engine, which we do not start."""
    env: Mapping[str, str]
    socket: Path | None
    """The engine's socket file, to be unlinked before it starts; None for an external one."""
    need: Need | None
    """None: the engine runs already, what it needs it has."""


def plan(
    pool: Pool, adapter: Adapter, model: Staged, socket: Path, device_uuids: tuple[str, ...]
) -> Plan:
    """Return the plan.

    Raises OrchError: ENGINE_MISSING that says what to install; CONFIG_INVALID for a sampler profile
    that the engine does not have, or arguments that keep the model off the GPUs.
    """
    how = pool.provisioning
    check_profile(pool, adapter)
    if pool.mode is Mode.EXTERNAL:
        assert how.url is not None, "configuration has checked it"
        return Plan(target=Target.parse(how.url), argv=None, env={}, socket=None, need=None)
    if pool.engine.id == MOCK and how.command is None:
        command: tuple[str, ...] = MOCK_COMMAND
    else:
        command = (program(pool.command), *pool.command[1:])
    launch = adapter.launch(pool, model.path, socket, device_uuids)
    return Plan(
        target=Target.unix(socket),
        argv=(*command, *launch.argv),
        env=launch.env,
        socket=socket,
        need=adapter.need(pool, model.size_bytes, model.head),
    )


def program(command: tuple[str, ...]) -> str:
    """Return the path of a command's program. Raises OrchError(ENGINE_MISSING)."""
    if not command:
        raise OrchError(Kind.ENGINE_MISSING, "provisioning.command names no program")
    found = shutil.which(command[0])
    if found is None:
        name = Path(command[0]).name
        what = INSTALL.get(name, f"install {name}, or correct provisioning.command")
        raise OrchError(Kind.ENGINE_MISSING, f"{command[0]} cannot be run here: {what}")
    return found
