"""An engine that a package brings: installed only where the operator has allowed it [ORCH-3434]."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

import trio

from orchd.catalog.files import sha256_of
from orchd.config.pool import Pool
from orchd.wire.errors import Kind, OrchError
from poolmgr.provision.bringing import cuda
from poolmgr.provision.bringing.work import Brought, Work
from poolmgr.provision.machine import tool
from poolmgr.provision.plans import planning
from poolmgr.provision.plans import steps as s

INSTALL_S: Final = 3 * 3600.0
"""An AUR helper compiles."""


async def install(work: Work, pool: Pool, plan: s.Plan) -> Brought:
    """Return the program of the package. Raises OrchError: PROVISION_FAILED, CPU_FALLBACK,
    OUTBOUND_DENIED."""
    name, path, program = planning.package_name(pool), "", pool.command[0]
    for step in plan.steps:
        match step:
            case s.Install(argv=argv):
                assert pool.provisioning.allow_package_installs, "preflight has seen it"
                work.tell("engine_install", f"Installing package {name}.")
                await work.door.permit(None, Path(argv[argv.index("-S") - 1]).name)
                await work.run(argv, INSTALL_S, root=True)
            case s.FindProgram():
                path = shutil.which(program) or ""
                if not path:
                    why = f"package {name} is installed, and there is no program {program}"
                    raise OrchError(Kind.PROVISION_FAILED, why)
            case s.CheckCuda():
                await cuda.check(Path(path), work.log)
            case _:
                pass  # registering is the caller's
    said = await tool.ask(["pacman", "-Q", name])
    version = said.text.split()[-1] if said is not None and said.code == 0 else "unknown"
    digest = await trio.to_thread.run_sync(sha256_of, path, lambda: None)
    return Brought(
        artifacts=(path,),
        version=version,
        build_ref=f"{name} {version}",
        digest=f"sha256:{digest}",
    )
