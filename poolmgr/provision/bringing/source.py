"""Building llama.cpp from its source, with CUDA or not at all."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Final

import trio

from orchd.catalog.files import is_file, sha256_of
from orchd.config.pool import Pool
from orchd.wire.errors import Kind, OrchError
from poolmgr.provision.bringing import cmakelog, cuda, git
from poolmgr.provision.bringing.work import Brought, Work
from poolmgr.provision.machine.proxies import NOWHERE
from poolmgr.provision.plans import steps as s
from poolmgr.provision.plans.planning import TARGET

CONFIGURE_S: Final = 900.0
BUILD_S: Final = 4 * 3600.0
"""A core takes an hour for the kernels of one GPU on a busy machine; for all GPUs several."""
_VERSION: Final = re.compile(
    r"version:\s*(?:\S+ \(build (?P<number>\d+), commit (?P<commit>\w+)\)"
    r"|(?P<old>\d+) \((?P<of>\w+)\))"
)
"""`version: 0.7.0 (build 11669, commit ff45176)`; before llama.cpp had versions: 1234 (abcdef0)."""


async def build(work: Work, pool: Pool, plan: s.Plan) -> Brought:
    """Return the program that was built. Raises OrchError: PROVISION_FAILED, CPU_FALLBACK,
    OUTBOUND_DENIED."""
    commit, binary = "", Path()
    for step in plan.steps:
        match step:
            case s.Clone():
                commit = await git.clone(work, step)
            case s.Configure():
                await _configure(work, step)
            case s.Build():
                work.tell("engine_build", f"Compiling {TARGET}, {work.facts.jobs} files at a time.")
                await work.run(step.argv, BUILD_S, env=_environment(work))
            case s.CheckCuda(folder=folder):
                assert folder is not None, "of a build"
                binary = Path(folder, TARGET)
                if not os.access(binary, os.X_OK):
                    why = f"the build made no {binary.name} in {folder}"
                    raise OrchError(Kind.PROVISION_FAILED, why)
                work.tell("engine_check", f"Looking whether {TARGET} was built with CUDA.")
                await cuda.check(binary, work.log)
            case _:
                pass  # registering is the caller's
    said = await work.asked([str(binary), "--version"])
    version = version_of(said, pool.provisioning.source.git.ref, commit)
    return await trio.to_thread.run_sync(_kept, work.part, binary, version, commit)


def version_of(said: str, ref: str, commit: str) -> str:
    """Return what llama-server's --version calls its build: b11669-ff45176.

    A build that has no number, as its tag has none, is called by its tag, and by its commit alone
    where that is how the configuration names it.
    """
    found = _VERSION.search(said)
    if found is None:
        return ref
    number, short = found["number"] or found["old"], found["commit"] or found["of"]
    if number != "0":
        return f"b{number}-{short}"
    return short if ref == commit else f"{ref}-{short}"


def _kept(part: Path, binary: Path, version: str, commit: str) -> Brought:
    """Leave nothing but the program in the part folder. Blocks."""
    target = part / "bin" / TARGET
    target.parent.mkdir()
    binary.rename(target)
    for name in ("source", "build"):
        shutil.rmtree(part / name)
    git.forget(part)
    return Brought(
        artifacts=(f"bin/{TARGET}",),
        version=version,
        build_ref=commit,
        digest=f"sha256:{sha256_of(str(target), lambda: None)}",
    )


async def _configure(work: Work, step: s.Configure) -> None:
    work.tell("engine_configure", "Configuring the build with CUDA.")
    if not is_file(f"{step.source}/CMakeLists.txt"):
        raise OrchError(Kind.PROVISION_FAILED, "the source has no CMakeLists.txt")
    begin = work.log.size
    try:
        await work.run(step.argv, CONFIGURE_S, env=_environment(work))
    except OrchError as exc:
        failed = exc
    else:
        return
    wrong = await trio.to_thread.run_sync(_about_cuda, work.log.path, begin)
    if wrong is None:
        raise failed
    raise OrchError(
        Kind.PROVISION_FAILED,
        f"cmake cannot build with CUDA, and nothing is built for the CPU: {wrong} "
        f"({cmakelog.advice(wrong)}); its log: {work.log.path}",
    ) from failed


def _about_cuda(path: Path, begin: int) -> str | None:
    """Return what the log says of CUDA from `begin` on. Blocks."""
    with path.open("rb") as file:
        file.seek(begin)
        return cmakelog.about_cuda(file.read(4 << 20).decode("utf-8", "replace").splitlines())


def _environment(work: Work) -> dict[str, str]:
    """Return where nvcc is, ccache's folder (a service user may have no home), and no way out."""
    found = dict(NOWHERE)
    if (nvcc := work.facts.programs.get("nvcc")) is not None:
        found["CUDACXX"] = nvcc
        # llama.cpp looks for the toolkit before it looks for a compiler, and cmake does not know
        # Arch's place of it (/opt/cuda): it follows the nvcc of PATH
        path = os.environ.get("PATH", os.defpath)
        found["PATH"] = f"{Path(nvcc).parent}{os.pathsep}{path}"
    if work.facts.has("ccache") and "CCACHE_DIR" not in os.environ:
        found["CCACHE_DIR"] = f"{work.facts.cache}/ccache"
    return found
