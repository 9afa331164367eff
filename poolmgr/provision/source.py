"""Building llama.cpp from its source, with CUDA or not at all."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Final

import trio

from orchd.catalog.files import is_file, make_folder, sha256_of
from orchd.config.pool import Pool
from orchd.wire.errors import Kind, OrchError
from poolmgr.provision import cuda
from poolmgr.provision import steps as s
from poolmgr.provision.planning import TARGET
from poolmgr.provision.work import Brought, Work

CLONE_S: Final = 1800.0
CONFIGURE_S: Final = 900.0
BUILD_S: Final = 4 * 3600.0
"""Two cores take three hours for the kernels of all GPUs; those of one GPU a third of it."""
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_VERSION: Final = re.compile(r"version:\s*(\S+)\s*\((\w+)\)")
_CUDA_WORDS: Final = re.compile(r"cuda|nvcc|cublas", re.IGNORECASE)
GIT: Final = (
    "git", "-c", "core.hooksPath=/dev/null", "-c", "http.followRedirects=false",
    "-c", "advice.detachedHead=false",
)  # fmt: skip
GIT_ENV: Final = {
    # nobody's configuration leads it elsewhere, or gives it a password
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_ALLOW_PROTOCOL": "https:file",
    "GIT_LFS_SKIP_SMUDGE": "1",
}


async def build(work: Work, pool: Pool, plan: s.Plan) -> Brought:
    """Return the program that was built. Raises OrchError: PROVISION_FAILED, CPU_FALLBACK,
    OUTBOUND_DENIED."""
    commit, binary = "", Path()
    for step in plan.steps:
        match step:
            case s.Clone():
                commit = await _clone(work, step)
            case s.Configure():
                await _configure(work, step)
            case s.Build():
                work.tell("engine_build", f"Compiling {TARGET} with {work.facts.jobs} jobs.")
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
    found = _VERSION.search(said)
    ref = pool.provisioning.source.git.ref
    return await trio.to_thread.run_sync(_kept, work.part, binary, found, ref, commit)


def _kept(part: Path, binary: Path, found: re.Match[str] | None, ref: str, commit: str) -> Brought:
    """Leave nothing but the program in the part folder. Blocks."""
    target = part / "bin" / TARGET
    target.parent.mkdir()
    binary.rename(target)
    for name in ("source", "build"):
        shutil.rmtree(part / name)
    return Brought(
        artifacts=(f"bin/{TARGET}",),
        version=f"b{found[1]}-{found[2]}" if found else ref,
        build_ref=commit,
        digest=f"sha256:{sha256_of(str(target), lambda: None)}",
    )


async def _clone(work: Work, step: s.Clone) -> str:
    """Return the commit that was checked out."""
    work.tell("engine_source", f"Fetching {step.repo} at {step.ref}.")
    await _permit(work, step.repo)
    into = Path(step.into)
    make_folder(str(into))
    # a tag by its own name: a branch of that name, which moves, is not taken for it
    want = step.ref if _COMMIT.fullmatch(step.ref) else f"refs/tags/{step.ref}"
    fetch = ("fetch", "--quiet", "--depth", "1", "--no-tags", step.repo, want)
    for argv in (("init", "--quiet"), fetch, ("checkout", "--quiet", "FETCH_HEAD")):
        await work.run([*GIT, *argv], CLONE_S, cwd=into, env=GIT_ENV)
    if step.submodules and is_file(f"{into}/.gitmodules"):
        await _submodules(work, into)
    return await work.asked(["git", "-C", str(into), "rev-parse", "HEAD"])


async def _submodules(work: Work, into: Path) -> None:
    listing = ["git", "config", "-f", str(into / ".gitmodules"), "--get-regexp", r"\.url$"]
    for line in (await work.asked(listing)).splitlines():
        await _permit(work, line.partition(" ")[2])
    update = ("submodule", "update", "--init", "--depth", "1")
    await work.run([*GIT, *update], CLONE_S, cwd=into, env=GIT_ENV)


async def _permit(work: Work, repo: str) -> None:
    """Ask before git asks another machine; a relative URL is the same host's."""
    if "://" in repo:
        await work.door.permit(repo, "git")


async def _configure(work: Work, step: s.Configure) -> None:
    work.tell("engine_configure", "Configuring the build with CUDA.")
    if not is_file(f"{step.source}/CMakeLists.txt"):
        raise OrchError(Kind.PROVISION_FAILED, "the source has no CMakeLists.txt")
    begin = work.log.size
    try:
        await work.run(step.argv, CONFIGURE_S, env=_environment(work))
    except OrchError as exc:
        line = _about_cuda(work.log.path, begin)
        if line is None:
            raise
        raise OrchError(
            Kind.PROVISION_FAILED,
            f"cmake cannot build with CUDA, and nothing is built for the CPU: {line} (install the "
            f"CUDA toolkit: sudo pacman -S --needed cuda); its log: {work.log.path}",
        ) from exc


def _about_cuda(path: Path, begin: int) -> str | None:
    """Return the last line since `begin` that says what is wrong with CUDA."""
    with path.open("rb") as file:
        file.seek(begin)
        lines = file.read(4 << 20).decode("utf-8", "replace").splitlines()[1:]
    wrong = [at for at, line in enumerate(lines) if "CMake Error" in line]
    if not wrong:
        return None
    said = [line.strip()[:200] for line in lines[wrong[0] :] if _CUDA_WORDS.search(line)]
    # where it is wrong says less than what is: links to CUDA::cublas but the target was not found
    return next(
        (line for line in said if not line.startswith("CMake Error")), next(iter(said), None)
    )


def _environment(work: Work) -> dict[str, str]:
    """Return where nvcc is, which may be out of PATH, and ccache's folder: a service user may have
    no home."""
    found = {}
    if (nvcc := work.facts.programs.get("nvcc")) is not None:
        found["CUDACXX"] = nvcc
    if work.facts.has("ccache") and "CCACHE_DIR" not in os.environ:
        found["CCACHE_DIR"] = f"{work.facts.cache}/ccache"
    return found
