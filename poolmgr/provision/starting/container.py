"""The command that runs an image as one pool's engine: podman's, or docker's.

What the engine in it sees: its GPUs by UUID, the model read-only, a folder for its socket, and no
network. Everything else is the image's own. Who starts and ends it is poolmgr/edge's.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from attrs import frozen

from orchd.config.pool import TRITON, Pool
from orchd.wire.engines import PreparedEngine
from orchd.wire.errors import Kind, OrchError
from poolmgr.provision.machine import store

SHM: Final = "8g"
"""What processes of one engine share, at most: vLLM's pass tensors through it. Taken as used."""
SOCKET: Final = "e.sock"
LABEL: Final = "orchd.replica"
"""Whose it is: `/run/poolmgr/POOL:MASK`. By it the unit ends what docker's daemon has of it."""
_BEFORE: Final = {TRITON: ("tritonserver",)}
"""What is run where the image's own entry point wants a program."""
_PLAIN: Final = re.compile(r"""/[^\x00-\x1f\x7f",]*""")
_DOCKER: Final = '"$0" rm --force "$1" >/dev/null 2>&1; shift; exec "$0" "$@"'


@frozen(kw_only=True)
class Who:
    """Whom the runtime is run by."""

    uid: int
    gid: int


@frozen(kw_only=True)
class Run:
    """How to start it, and how to be sure that it is gone."""

    argv: tuple[str, ...]
    sweep: tuple[str, ...]
    """Ends the container, however it was left; no error where there is none."""
    folders: tuple[Path, ...] = ()
    """To be made first, for this user alone."""


def socket_in_folder(socket: Path) -> Path:
    """Return the socket in a folder of its own, which the container sees: other pools' it does not.

    `/run/poolmgr/big:0.engine.sock` is `/run/poolmgr/big:0.engine/e.sock` then.
    """
    return socket.with_suffix("") / SOCKET


def run(
    pool: Pool,
    engine: PreparedEngine,
    who: Who,
    socket: Path,
    reads: tuple[Path, ...],
    device_uuids: tuple[str, ...],
    argv: tuple[str, ...],
    env: Mapping[str, str],
    program: tuple[str, ...] | None,
) -> Run:
    """Return the command for this engine's arguments and environment.

    `reads` are the folders that it may read: those of the model. Paths are the same inside and
    outside. `program` is run in the place of what the image would run by itself. Raises
    OrchError(CONFIG_INVALID) for a path that no mount can name.
    """
    runtime = engine.runtime
    assert runtime is not None, "an image has one"
    docker = Path(runtime).name.startswith("docker")
    call: tuple[str, ...] = (runtime,)
    if engine.store is not None:
        # not in our own environment: what ends the container is called without one
        there = f"XDG_RUNTIME_DIR={store.RUN}"
        call = ("/usr/bin/env", there, runtime, *store.running(Path(engine.store)))
    name = container_name(socket)
    rootless = not docker and who.uid != 0
    options = [
        "run", "--rm", "--name", name, "--pull=never",
        # its socket is a file: nothing in there reaches any machine, or this one
        "--network=none",
        "--cap-drop=all", "--security-opt=no-new-privileges",
        # of a rootless container root is whoever runs it; else it is that uid by its number
        "--user", "0:0" if rootless else f"{who.uid}:{who.gid}",
        "--shm-size", SHM, "--log-driver=none", "--label", f"{LABEL}={_replica(socket)}",
        *engine.run_args,
    ]  # fmt: skip
    if not docker:
        # READY=1 is poolmgr's to say, after its self-test
        options += ["--replace", "--sdnotify=ignore"]
    for uuid in device_uuids:
        options += ["--device", f"nvidia.com/gpu={uuid}"]
    folder = socket.parent
    options += ["--mount", _mount(folder, "")]
    for path in dict.fromkeys(reads):
        options += ["--mount", _mount(path, ",readonly")]
    for key, value in sorted(env.items()):
        options += ["--env", f"{key}={value}"]
    if program is not None:
        options += ["--entrypoint", program[0]]
    before = _BEFORE.get(pool.engine.id, ()) if program is None else program[1:]
    sweep = (*call, "rm", "--force", *(() if docker else ("--ignore", "--time", "0")), name)
    whole = (*options, engine.entry, *before, *argv)
    if docker:  # it has no --replace
        return Run(argv=("/bin/sh", "-c", _DOCKER, runtime, name, *whole), sweep=sweep)
    return Run(
        argv=(*call, *whole),
        sweep=sweep,
        folders=() if engine.store is None else (store.OWN, store.RUN),
    )


def _replica(socket: Path) -> str:
    """`/run/poolmgr/big:0` of `/run/poolmgr/big:0.engine/e.sock`, whichever engine of two it is."""
    return str(socket.parent).partition(".engine")[0]


def around(model: Path) -> Path:
    """Return the folder that shows a model: its own if it is one, else the file's with all parts.

    In a Hugging Face cache `snapshots/REVISION/FILE` links into `blobs` beside `snapshots`.
    """
    for above in model.parents:
        if above.name == "snapshots":
            return above.parent
    return model if model.is_dir() else model.parent


def container_name(socket: Path) -> str:
    """Return the container's name: one for each engine's socket of this machine."""
    hashed = hashlib.sha256(str(socket).encode()).hexdigest()[:10]
    word = re.sub(r"[^a-z0-9-]+", "-", socket.parent.name)
    return f"orchd-{word[:60]}-{hashed}"


def _mount(path: Path, more: str) -> str:
    if not _PLAIN.fullmatch(str(path)):
        why = f"{str(path)!r} cannot be shown to a container: it may hold no comma and no quote"
        raise OrchError(Kind.CONFIG_INVALID, why)
    return f"type=bind,source={path},target={path}{more}"
