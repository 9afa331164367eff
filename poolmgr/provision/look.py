"""Reading the facts of this machine: programs, versions, runtimes, CDI, the cache. Changes nothing.

The GPUs are read by poolmgr/edge and handed in. What the facts mean is preflight.py's.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import pwd
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from orchd.config.pool import Mode, Pool
from poolmgr.provision import planning, store, tool
from poolmgr.provision.facts import Facts, GpuFact, PackageFact, Runtime

PROGRAMS: Final = (
    "git", "cmake", "ninja", "make", "c++", "nvcc", "ccache", "nvidia-ctk", "nvidia-smi", "pacman",
    "paru", "yay", "sudo",
)  # fmt: skip
CUDA_PLACES: Final = ("/opt/cuda/bin", "/usr/local/cuda/bin")
"""Where distributions put nvcc, beside PATH."""
CDI_PLACES: Final = ("/etc/cdi", "/var/run/cdi")
CDI_MAX: Final = 4 << 20
_CDI_NAME: Final = re.compile(r"""["']?name["']?\s*:\s*["']?([A-Za-z0-9][\w.:-]{0,99})""")
_CDI_KIND: Final = re.compile(r"""["']?kind["']?\s*:\s*["']?nvidia\.com/gpu\b""")
_NAMESPACES: Final = (("kernel.unprivileged_userns_clone", "0"), ("user.max_user_namespaces", "0"))
"""Settings that keep users from namespaces: linux-hardened's own, and the kernel's."""
JOB_BYTES: Final = 2 << 30
"""Of memory for each compiler: nvcc takes 1 to 2 GB for a file of llama.cpp's kernels."""


async def look(
    pool: Pool,
    cache: Path,
    gpus: tuple[GpuFact, ...],
    no_driver: str | None,
    *,
    units: bool = False,
    cdi_places: Sequence[str] = CDI_PLACES,
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
        podman = await (_podman_of_units(cache) if units else _podman())
        docker = await _docker()
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
        cdi=cdi(cdi_places),
        subordinate_ids=_subordinate(user) or (os.geteuid() == 0 and not units),
        no_namespaces=_no_namespaces(),
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


async def _podman_of_units(cache: Path) -> Runtime | None:
    """Return podman as the units call it. `podman info` would make a storage, also for a plan."""
    path = shutil.which("podman")
    if path is None:
        return None
    said = await tool.ask([path, "--version"])
    return Runtime(
        path=path,
        name="podman",
        version="" if said is None else said.text.strip().rpartition(" ")[2],
        oci="" if shutil.which("crun") is None else "crun",
        options=store.bringing(store.images_of(cache)),
        why_not=None if said is not None and said.code == 0 else _last(said),
    )


async def _podman() -> Runtime | None:
    path = shutil.which("podman")
    if path is None:
        return None
    form = '{"version":"{{.Version.Version}}","oci":"{{.Host.OCIRuntime.Name}}"}'
    said = await tool.ask([path, "info", "--format", form])
    if said is None or said.code:
        return Runtime(path=path, name="podman", version="", why_not=_last(said))
    lines = [line for line in said.text.splitlines() if line.startswith("{")]
    told = json.loads(lines[-1]) if lines else {}
    return Runtime(
        path=path, name="podman", version=told.get("version", ""), oci=told.get("oci", "")
    )


async def _docker() -> Runtime | None:
    path = shutil.which("docker")
    if path is None:
        return None
    said = await tool.ask([path, "version", "--format", "{{.Server.Version}}"])
    if said is None or said.code:
        return Runtime(path=path, name="docker", version="", why_not=_last(said))
    info = await tool.ask([path, "info", "--format", "{{json .CDISpecDirs}}"])
    return Runtime(
        path=path,
        name="docker",
        version=said.text.strip()[:100],
        cdi=info is not None and info.code == 0 and '["' in info.text,
    )


def _last(said: tool.Answer | None) -> str:
    if said is None:
        return "it does not answer"
    lines = [line.strip() for line in said.text.splitlines() if line.strip()]
    # podman warns after it has said what fails
    lines = [line for line in lines if line.startswith("Error")] or lines
    return lines[-1][:200] if lines else f"it ends with {said.code}"


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


def cdi(places: Sequence[str] = CDI_PLACES) -> frozenset[str]:
    """Return the names of NVIDIA's GPUs in CDI specifications, JSON or YAML.

    Their lines are looked at, not parsed: a name that stands there is enough to go on, and the
    runtime has the last word.
    """
    names: set[str] = set()
    for place in places:
        for path in sorted(Path(place).glob("*.[jy]*")):
            try:
                with path.open("rb") as file:
                    text = file.read(CDI_MAX).decode("utf-8", "replace")
            except OSError:
                continue
            if _CDI_KIND.search(text):
                names |= set(_CDI_NAME.findall(text))
    return frozenset(names)


def _subordinate(user: str) -> bool:
    ids = {user}
    with contextlib.suppress(KeyError):
        ids.add(str(pwd.getpwnam(user).pw_uid))
    try:
        lines = Path("/etc/subuid").read_text("utf-8", "replace").splitlines()
    except OSError:
        return False
    return any(line.partition(":")[0] in ids for line in lines)


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


def _no_namespaces() -> str | None:
    for name, closed in _NAMESPACES:
        try:
            said = (Path("/proc/sys") / name.replace(".", "/")).read_text().strip()
        except OSError:
            continue  # this kernel has no such setting
        if said == closed:
            return name
    return None


def _there(cache: Path) -> Path:
    """Return the nearest folder above that is there already."""
    return next(folder for folder in (cache, *cache.parents) if folder.exists())


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
