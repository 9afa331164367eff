"""An engine that comes as a file from a URL: checked, unpacked, and looked at for CUDA."""

from __future__ import annotations

import os
from pathlib import Path

import trio

from orchd.catalog.files import sha256_of
from orchd.config.pool import Pool
from orchd.wire.errors import Kind, OrchError
from poolmgr.provision.bringing import cuda
from poolmgr.provision.bringing.unpack import unpack
from poolmgr.provision.bringing.work import Brought, Work
from poolmgr.provision.plans import steps as s


async def download(work: Work, pool: Pool, plan: s.Plan) -> Brought:
    """Return the program. Raises OrchError: PROVISION_FAILED, CPU_FALLBACK, OUTBOUND_DENIED, and
    what fetching raises."""
    files, url = work.part / "files", pool.provisioning.binary.url or ""
    archive = Path()
    for step in plan.steps:
        match step:
            case s.Download():
                assert pool.provisioning.allow_binary_downloads, "preflight has seen it"
                work.tell("engine_download", f"Downloading {step.url.partition('?')[0]}.")
                archive = await work.door.download(step.url, step.checksum, work.progress)
            case s.Extract():
                work.tell("engine_extract", f"Unpacking {archive.name}.")
                await trio.to_thread.run_sync(
                    unpack, archive, files, trio.from_thread.check_cancelled
                )
                await work.door.forget(archive)
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
