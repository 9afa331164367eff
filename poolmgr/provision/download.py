"""An engine that comes as a file from a URL: checked, unpacked, and looked at for CUDA."""

from __future__ import annotations

import os
from pathlib import Path

import trio

from orchd.catalog.files import sha256_of
from orchd.config.pool import Pool
from orchd.wire.errors import Kind, OrchError
from poolmgr.provision import cuda
from poolmgr.provision import steps as s
from poolmgr.provision.unpack import unpack
from poolmgr.provision.work import Brought, Work


async def download(work: Work, pool: Pool, plan: s.Plan) -> Brought:
    """Return the program. Raises OrchError: PROVISION_FAILED, CPU_FALLBACK, OUTBOUND_DENIED, and
    what fetching raises."""
    files, url = work.part / "files", pool.provisioning.binary.url or ""
    for step in plan.steps:
        match step:
            case s.Download():
                assert pool.provisioning.allow_binary_downloads, "preflight has seen it"
                work.tell("engine_download", f"Downloading {step.url.partition('?')[0]}.")
                work.part.mkdir(parents=True, exist_ok=True)
                await work.door.download(step.url, step.checksum, Path(step.into), work.progress)
            case s.Extract():
                work.tell("engine_extract", f"Unpacking {Path(step.archive).name}.")
                await trio.to_thread.run_sync(_extract, Path(step.archive), files)
            case s.CheckCuda():
                work.tell("engine_check", "Looking whether it was built with CUDA.")
                await cuda.check(program(files, pool.command[0]), work.log)
            case _:
                pass  # registering is the caller's
    found = program(files, pool.command[0])
    digest = await trio.to_thread.run_sync(sha256_of, str(found), lambda: None)
    return Brought(
        artifacts=(str(found.relative_to(work.part)),),
        version=(pool.provisioning.binary.checksum or "").removeprefix("sha256:")[:12],
        build_ref=url.partition("?")[0],
        digest=f"sha256:{digest}",
    )


def _extract(archive: Path, into: Path) -> None:
    """Unpack and remove it. Blocks; a cancellation is seen each MiB."""
    unpack(archive, into, trio.from_thread.check_cancelled)
    archive.unlink()


def program(files: Path, name: str) -> Path:
    """Return the program of this name, or at this path, below `files`. Blocks.

    Raises OrchError(PROVISION_FAILED): none, several, or no program.
    """
    wanted = Path(name)
    if "/" in name:
        found = [files / wanted] if (files / wanted).is_file() else []
    else:
        found = [path for path in sorted(files.rglob(name)) if path.is_file()]
        if not found:  # a bare program is called as its URL was
            every = [path for path in sorted(files.rglob("*")) if path.is_file()]
            found = every if len(every) == 1 else []
    inside = [path for path in found if path.resolve().is_relative_to(files.resolve())]
    if len(inside) != 1:
        many = "several" if inside else "no"
        why = f"the archive has {many} {name}: name its path in provisioning.command"
        raise OrchError(Kind.PROVISION_FAILED, why)
    if not os.access(inside[0], os.X_OK):
        raise OrchError(Kind.PROVISION_FAILED, f"{name} of the archive is no program")
    return inside[0]
