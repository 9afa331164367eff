"""How the engine of a replica comes to run: what to start, or whom to attach to.

Gate 2 of ORCH-3421. Nothing is started here: poolmgr/edge does that with the plan.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from attrs import evolve, field, frozen

from orchd.config.pool import MOCK, Mode, Pool, Provisioning
from orchd.kit.client import Target
from orchd.wire.engines import PreparedEngine
from orchd.wire.errors import Kind, OrchError
from poolmgr.core.fit import Need
from poolmgr.engines.base import Adapter, Service, check_profile
from poolmgr.provision.models.models import Staged
from poolmgr.provision.starting import bridged, container
from poolmgr.provision.starting.keys import read_key

MOCK_COMMAND: Final = (sys.executable, "-m", "poolmgr.mockengine")
INSTALL: Final = {
    "llama-server": "install llama.cpp with CUDA (Arch: llama.cpp-cuda from the AUR), or name the "
    "program's path in provisioning.command",
    "vllm": "install vLLM with CUDA (pip install vllm in a venv of its own), and name that venv's "
    'bin/vllm in provisioning.command: ["/path/bin/vllm", "serve"]',
    "text-generation-launcher": "have it as an image (provisioning.mode = container), or name the "
    "program's path in provisioning.command",
    "tritonserver": "install NVIDIA Triton Inference Server, or name the program's path in "
    "provisioning.command",
}


@frozen(kw_only=True)
class Plan:
    """What will run."""

    target: Target
    """Where the engine answers."""
    argv: tuple[str, ...] | None
    """None: an external engine, which we do not start."""
    program: str | None = None
    """The engine itself, a path or an image: not what it is started by."""
    env: Mapping[str, str]
    socket: Path | None
    """The engine's socket file, to be unlinked before it starts; None for an external one."""
    need: Need | None
    """None: the engine runs already, what it needs it has."""
    sweep: tuple[str, ...] = ()
    """Of a container: the command after which it is gone."""
    folders: tuple[Path, ...] = ()
    """To be made before it is started, for this user alone."""
    services: Mapping[Service, Target] = field(factory=dict)
    """Where else it answers."""
    sockets: tuple[Path, ...] = ()
    """Its other socket files, to be unlinked too."""
    key: str | None = field(default=None, repr=False)
    """What the engine wants as its bearer token."""


def plan(
    pool: Pool,
    adapter: Adapter,
    model: Staged,
    socket: Path,
    device_uuids: tuple[str, ...],
    engine: PreparedEngine | None = None,
) -> Plan:
    """Return the plan. `engine`: what was brought for the pool (brought.py).

    Raises OrchError: ENGINE_MISSING that says what to install; CONFIG_INVALID for a sampler profile
    that the engine does not have, or arguments that keep the model off the GPUs.
    """
    how = pool.provisioning
    check_profile(pool, adapter)
    if pool.mode is Mode.EXTERNAL:
        return Plan(
            target=external(how),
            argv=None,
            env={},
            socket=None,
            need=None,
            services=_services(how),
            key=read_key(pool),
        )
    if engine is not None and engine.runtime is not None:
        return _contained(pool, adapter, model, socket, device_uuids, engine)
    if pool.engine.id == MOCK and how.command is None:
        command: tuple[str, ...] = MOCK_COMMAND
    elif engine is not None:
        command = (engine.entry, *engine.args)
    else:
        command = (program(pool.command), *pool.command[1:])
    launch = adapter.launch(pool, model.path, socket, device_uuids)
    argv = (*command, *launch.argv)
    if launch.bridge is not None:
        argv = bridged.here(launch.bridge, command, launch.argv, socket, pool.slots)
    return Plan(
        target=Target.unix(socket),
        argv=argv,
        program=command[0],
        env=launch.env,
        socket=socket,
        services={name: Target.unix(path) for name, path in launch.sockets.items()},
        sockets=(*launch.sockets.values(), *launch.files),
        need=adapter.need(pool, model.size_bytes, model.head),
    )


def _contained(
    pool: Pool,
    adapter: Adapter,
    model: Staged,
    socket: Path,
    device_uuids: tuple[str, ...],
    engine: PreparedEngine,
) -> Plan:
    """Return how an image runs as this pool's engine."""
    socket = container.socket_in_folder(socket)
    launch = adapter.launch(pool, model.path, socket, device_uuids)
    who = container.Who(uid=os.geteuid(), gid=os.getegid())
    reads = [] if model.path is None else [container.around(model.path)]
    reads += [Path(path) for path in pool.read_paths]
    program = own = pool.provisioning.command
    if launch.bridge is not None and launch.bridge.port is not None:
        program = bridged.in_image(launch.bridge, pool.command, own, socket, pool.slots)
        reads.append(bridged.PROGRAM)
    run = container.run(
        pool, engine, who, socket, tuple(reads), device_uuids, launch.argv, launch.env, program
    )
    return Plan(
        target=Target.unix(socket),
        argv=run.argv,
        program=engine.entry,
        env={},
        socket=socket,
        services={name: Target.unix(path) for name, path in launch.sockets.items()},
        sockets=(*launch.sockets.values(), *launch.files),
        need=adapter.need(pool, model.size_bytes, model.head),
        sweep=run.sweep,
        folders=run.folders,
    )


def external(how: Provisioning) -> Target:
    """Return where an engine of others answers. A path of the URL is the adapter's."""
    assert how.url is not None, "configuration has checked it"
    if how.url.startswith("unix:"):
        return Target.parse(how.url)
    parts = urlsplit(how.url)
    target = Target.parse(f"{parts.scheme}://{parts.netloc}", Path(how.ca) if how.ca else None)
    return evolve(target, proxy=Target.parse(how.proxy)) if how.proxy else target


def _services(how: Provisioning) -> dict[Service, Target]:
    urls: dict[Service, str | None] = {"grpc": how.grpc_url, "metrics": how.metrics_url}
    return {name: Target.parse(url) for name, url in urls.items() if url is not None}


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
