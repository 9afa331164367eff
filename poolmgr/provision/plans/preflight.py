"""Can it be done here? A pure look at the facts: problems, each with the command that mends it.

CUDA and the GPUs come first: where they are missing nothing else matters [ORCH-3803]. The commands
are those of Arch and CachyOS [ORCH-3092]. What the machine has is read by look.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, assert_never

from attrs import frozen

from orchd.config.pool import MOCK, Mode, Pool
from poolmgr.provision.plans import planning
from poolmgr.provision.plans.facts import Facts, Runtime

SOURCE_BYTES: Final = 6 << 30
"""Of disk for a build: llama.cpp's source has 0.3 GB, its CUDA objects 1 to 4 GB."""
IMAGE_BYTES: Final = 30 << 30
"""Of disk for an image: vLLM's and Triton's have 10 to 20 GB, twice while they are unpacked."""
FILE_BYTES: Final = 2 << 30
CMAKE: Final = (3, 18)
"""The oldest that llama.cpp's CUDA build takes."""
DRIVER: Final = "sudo pacman -S --needed nvidia-open nvidia-utils"
CDI: Final = (
    "sudo nvidia-ctk cdi generate --device-name-strategy=uuid --output=/etc/cdi/nvidia.yaml"
)


@frozen
class Problem:
    """What is in the way, and the exact command to copy and paste."""

    what: str
    command: str


def pacman(*names: str) -> str:
    """Return the command that installs packages of the distribution."""
    return f"sudo pacman -S --needed {' '.join(names)}"


def check(pool: Pool, facts: Facts) -> tuple[Problem, ...]:
    """Return everything that is in the way, what matters most first; nothing: go on."""
    return tuple(_problems(pool, facts))


def _problems(pool: Pool, facts: Facts) -> Iterator[Problem]:
    mode = pool.mode
    if mode is Mode.EXTERNAL or pool.engine.id == MOCK:
        return
    yield from _gpus(pool, facts)
    match mode:
        case Mode.SOURCE:
            yield from _source(pool, facts)
        case Mode.CONTAINER:
            yield from _container(pool, facts)
        case Mode.PACKAGE:
            yield from _package(pool, facts)
        case Mode.BINARY:
            yield from _binary(pool, facts)
        case _:
            assert_never(mode)


def _gpus(pool: Pool, facts: Facts) -> Iterator[Problem]:
    if facts.no_driver is not None:
        yield Problem(facts.no_driver, DRIVER)
        return
    there = {one.index for one in facts.gpus}
    missing = sorted({i for mask in pool.replicas for i in mask.indices} - there)
    if missing:
        wanted = " and ".join(map(str, missing))
        yield Problem(f"GPU {wanted} of the pool's masks is not here", "nvidia-smi -L")


_TOOLS: Final = (
    ("git", "git", "the source is fetched with it"),
    ("cmake", "cmake", "it configures the build"),
    ("c++", "gcc", "CUDA needs a C++ compiler beside its own"),
    ("nvcc", "cuda", "the CUDA compiler: without it there would be a build for the CPU"),
)


def _source(pool: Pool, facts: Facts) -> Iterator[Problem]:
    tool = planning.GENERATORS[pool.provisioning.source.build.generator]
    wanted = (*_TOOLS, (tool, "ninja" if tool == "ninja" else "make", "it runs the build"))
    for program, package, why in sorted(wanted, key=lambda one: one[0] != "nvcc"):
        if not facts.has(program):
            yield Problem(f"{program} is not here ({why})", pacman(package))
    found = re.search(r"(\d+)\.(\d+)", facts.versions.get("cmake", ""))
    if found is not None and (int(found[1]), int(found[2])) < CMAKE:
        what = f"cmake {found[0]} is too old: it has to be {CMAKE[0]}.{CMAKE[1]} or newer"
        yield Problem(what, pacman("cmake"))
    yield from _room(pool, facts, SOURCE_BYTES)


def _container(pool: Pool, facts: Facts) -> Iterator[Problem]:
    runtime = planning.runtime(facts)
    if runtime is None:
        yield Problem("there is neither podman nor docker", pacman("podman"))
    elif runtime.why_not is not None:
        yield Problem(
            f"{runtime.name} does not work here: {runtime.why_not}", f"{runtime.name} info"
        )
    elif runtime.name == "podman":
        yield from _podman(runtime, facts)
    elif not runtime.cdi:
        yield Problem(
            f"docker {runtime.version} takes no devices by CDI, as it is configured",
            "sudo nvidia-ctk runtime configure --runtime=docker --cdi.enabled && "
            "sudo systemctl restart docker",
        )
    masked = {index for mask in pool.replicas for index in mask.indices}
    wanted = [one.uuid for one in facts.gpus if one.index in masked]
    absent = [uuid for uuid in wanted if uuid not in facts.cdi]
    if absent:
        toolkit = "" if facts.has("nvidia-ctk") else pacman("nvidia-container-toolkit") + " && "
        names = ", ".join(absent)
        yield Problem(f"no CDI specification names nvidia.com/gpu={names}", toolkit + CDI)
    yield from _room(pool, facts, IMAGE_BYTES)


def _podman(runtime: Runtime, facts: Facts) -> Iterator[Problem]:
    if facts.units:
        yield from _podman_of_units(runtime, facts)
    elif not facts.root and not facts.subordinate_ids:
        yield Problem(
            f"user {facts.user} has no subordinate ids, which rootless podman needs",
            f"sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {facts.user}",
        )
    if facts.no_namespaces is not None and (facts.units or not facts.root):
        value = "1" if facts.no_namespaces.endswith("clone") else "10000"
        line = f"{facts.no_namespaces} = {value}"
        yield Problem(
            f"users may make no namespaces here, which rootless podman needs "
            f"({facts.no_namespaces} is 0)",
            f"echo '{line}' | sudo tee /etc/sysctl.d/60-orchd-namespaces.conf && "
            "sudo sysctl --system",
        )


def _podman_of_units(runtime: Runtime, facts: Facts) -> Iterator[Problem]:
    """Nobody gains privileges there, so podman maps one user and calls no setuid program."""
    if facts.user == "root":
        yield Problem(
            f"the cache {facts.cache} is root's: the pools' podman cannot use what is there",
            f"sudo install -d -o poolmgr -g poolmgr -m 750 {facts.cache}",
        )
    elif facts.subordinate_ids:
        yield Problem(
            f"user {facts.user} has subordinate ids, and podman in a unit cannot use them, nor do "
            "without them where they are",
            f"sudo sed -i '/^{facts.user}:/d' /etc/subuid /etc/subgid",
        )
    if runtime.oci != "crun":
        what = "crun is not here (of what makes containers, it alone keeps them in their unit)"
        yield Problem(what, pacman("crun"))


def _package(pool: Pool, facts: Facts) -> Iterator[Problem]:
    name = planning.package_name(pool)
    if facts.package.installed is not None:
        return
    command, aur = planning.by_hand(name, facts), not facts.package.in_repositories
    if not facts.has("pacman"):
        what = f"package {name} cannot be installed: there is no pacman here"
        yield Problem(what, "install the engine by hand, and set provisioning.command")
    elif aur and not any(map(facts.has, planning.AUR_HELPERS)):
        yield Problem(
            f"package {name} is in no repository of pacman, and there is no AUR helper",
            f"{pacman('paru')} && paru -S --needed {name}",
        )
    elif not pool.provisioning.allow_package_installs:
        yield Problem(
            f"package {name} is not installed, and allow_package_installs is false", command
        )
    elif facts.root and aur and facts.sudo_user is None:
        what = f"package {name} is in the AUR, where nothing is built as root"
        yield Problem(what, f"{command}  # as an ordinary user, or sudo orchctl provision as one")
    elif not facts.root and not aur and not facts.has("sudo"):
        yield Problem(f"package {name} needs root to be installed", command)
    elif facts.sudo_asks and (aur or not facts.root):
        what = f"sudo asks {facts.sudo_user or facts.user} for a password, and there is no terminal"
        yield Problem(f"{what} to give it", f"{command}  # then orchctl provision again")


def _binary(pool: Pool, facts: Facts) -> Iterator[Problem]:
    one = pool.provisioning.binary
    if one.url is None:
        program = pool.command[0]
        if not facts.has(program):
            yield Problem(
                f"{program} cannot be run here",
                f"orchctl config check  # provisioning.command names {program}",
            )
        return
    if not pool.provisioning.allow_binary_downloads:
        digest = (one.checksum or "").removeprefix("sha256:")
        file = planning.file_name(one.url)
        yield Problem(
            "the engine is not downloaded, and allow_binary_downloads is false",
            f"curl -fLO '{one.url}' && echo '{digest}  {file}' | sha256sum -c "
            "# then name its program in provisioning.command",
        )
    yield from _room(pool, facts, FILE_BYTES)


def _room(pool: Pool, facts: Facts, wanted: int) -> Iterator[Problem]:
    if facts.cache_problem is not None:
        mend = f"sudo install -d -o {facts.user or '$USER'} -m 750 {facts.cache}"
        if facts.units and not facts.root:  # the pools' own cache: theirs to keep, root's to fill
            mend = f"sudo orchctl provision {pool.id}"
        yield Problem(f"the cache {facts.cache} cannot be written: {facts.cache_problem}", mend)
    elif facts.free_bytes is not None and facts.free_bytes < wanted:
        yield Problem(
            f"{facts.cache} is on a disk with {facts.free_bytes >> 30} GiB free, and "
            f"{wanted >> 30} are wanted",
            f"df -h {facts.cache}",
        )
