"""Reading the facts of this machine: programs, versions, the cache. Changes nothing.

The GPUs are read by poolmgr/edge and handed in; what containers need is runtimes.py's, and what the
facts mean preflight.py's.
"""

from __future__ import annotations

import getpass
import os
import pwd
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from orchd.config.pool import Mode, Pool
from poolmgr.provision.machine import runtimes, tool
from poolmgr.provision.plans import planning
from poolmgr.provision.plans.facts import Facts, GpuFact, PackageFact

PROGRAMS: Final = (
    "git", "cmake", "ninja", "make", "c++", "nvcc", "ccache", "nvidia-ctk", "nvidia-smi", "pacman",
    "paru", "yay", "sudo",
)  # fmt: skip
CUDA_PLACES: Final = ("/opt/cuda/bin", "/usr/local/cuda/bin")
"""Where distributions put nvcc, beside PATH."""
JOB_BYTES: Final = 2 << 30
"""Of memory for each compiler: nvcc takes 1 to 2 GB for a file of llama.cpp's kernels."""


async def look(
    pool: Pool,
    cache: Path,
    gpus: tuple[GpuFact, ...],
    no_driver: str | None,
    *,
    units: bool = False,
    cdi_places: Sequence[str] = runtimes.CDI_PLACES,
) -> Facts:
    """Return the facts that matter for this pool. `units`: its engine is for the system's."""
    programs = _programs(pool)
    versions: dict[str, str] = {}
    podman = docker = None
    package = PackageFact()
    if pool.mode is Mode.SOURCE:
        for name, option in (("cmake", "--version"), ("nvcc", "--version"), ("git", "--version")):
            said = await tool.ask([programs[name], option]) if name in programs else None
            if said is not None and said.code == 0:
                versions[name] = _version(said.text)
    elif pool.mode is Mode.CONTAINER:
        podman = await (runtimes.podman_of_units(cache) if units else runtimes.podman())
        docker = await runtimes.docker()
    sudo_user, sudo_asks = _sudo_user(), False
    if pool.mode is Mode.PACKAGE and "pacman" in programs:
        package = await _package(planning.package_name(pool))
        if package.installed is None and "sudo" in programs:
            sudo_asks = await _sudo_asks(sudo_user)
    user = _owner(cache) if units else _user()
    return Facts(
        programs=programs,
        versions=versions,
        gpus=gpus,
        no_driver=no_driver,
        podman=podman,
        docker=docker,
        cdi=runtimes.cdi(cdi_places),
        subordinate_ids=runtimes.subordinate(user) or (os.geteuid() == 0 and not units),
        no_namespaces=runtimes.no_namespaces(),
        units=units,
        root=os.geteuid() == 0,
        user=user,
        sudo_user=sudo_user,
        sudo_asks=sudo_asks,
        package=package,
        cache=str(cache),
        cache_problem=_writable(cache),
        free_bytes=_free(cache),
        jobs=_jobs(),
    )


def _programs(pool: Pool) -> dict[str, str]:
    wanted = [*PROGRAMS, *pool.command[:1]]
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *CUDA_PLACES])
    found = {name: shutil.which(name, path=path) for name in wanted}
    return {name: os.path.abspath(at) for name, at in found.items() if at is not None}  # noqa: PTH100


def _version(text: str) -> str:
    """Return the last line that has a version: nvcc begins with copyright lines."""
    found = [line.strip() for line in text.splitlines() if re.search(r"\d+\.\d+", line)]
    return found[-1 if "nvcc" in text.lower() else 0][:200] if found else ""


async def _package(name: str) -> PackageFact:
    """Ask pacman's own files, and nobody else: nothing leaves the machine."""
    installed = await tool.ask(["pacman", "-Q", name])
    known = await tool.ask(["pacman", "-Si", name])
    version = None
    if installed is not None and installed.code == 0:
        version = (installed.text.split() or ["", ""])[-1]
    return PackageFact(installed=version, in_repositories=known is not None and known.code == 0)


def _sudo_user() -> str | None:
    name = os.environ.get("SUDO_USER", "root")
    return name if os.geteuid() == 0 and name != "root" else None


async def _sudo_asks(called_by: str | None) -> bool:
    """Return whether sudo wants a password of who would run pacman by it; a tool has no terminal
    to give it. Root without a caller needs no sudo."""
    if os.geteuid() == 0 and called_by is None:
        return False
    as_caller = () if called_by is None else ("sudo", "-n", "-u", called_by, "--")
    said = await tool.ask([*as_caller, "sudo", "-n", "pacman", "--version"])
    return said is None or said.code != 0


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.geteuid())


def _owner(cache: Path) -> str:
    uid = _there(cache).stat().st_uid
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _there(cache: Path) -> Path:
    """Return the nearest folder above that is there already, and that we may see."""
    # not Path.exists: it raises PermissionError below a folder that is closed to us
    return next(folder for folder in (cache, *cache.parents) if os.path.exists(folder))  # noqa: PTH110


def _writable(cache: Path) -> str | None:
    there = _there(cache)
    if not there.is_dir():
        return f"{there} is no folder"
    if not os.access(there, os.W_OK | os.X_OK):
        return f"user {_user()} may not write into {there}"
    return None


def _free(cache: Path) -> int | None:
    try:
        there = os.statvfs(_there(cache))
    except OSError:
        return None
    return there.f_bavail * there.f_frsize


def _jobs() -> int:
    cores = len(os.sched_getaffinity(0))
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return cores
    return max(1, min(cores, memory // JOB_BYTES))
