"""Having an image here, by podman or docker, and knowing which one it is [ORCH-3802]."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from attrs import evolve

from orchd.config.pool import Pool
from orchd.kit import log
from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import Digest
from poolmgr.provision.bringing.work import Brought, Work
from poolmgr.provision.machine import tool
from poolmgr.provision.machine.proxies import through
from poolmgr.provision.machine.store import images_of
from poolmgr.provision.plans import planning
from poolmgr.provision.plans.facts import Facts, Runtime

PULL_S: Final = 3 * 3600.0
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")


async def pull(work: Work, pool: Pool) -> Brought:
    """Return the image, pulled unless it is here. Raises OrchError(PROVISION_FAILED,
    OUTBOUND_DENIED)."""
    runtime, one = planning.runtime(work.facts), planning.image(pool)
    assert runtime is not None, "preflight has seen one"
    reference = planning.reference(one)
    if one.digest is None:
        log.event("image_not_pinned", planning.tag_warning(pool), level="warning", pool_id=pool.id)
    if await digest_of(runtime, reference) is None:
        work.tell("engine_pull", f"Pulling {reference} with {runtime.name}.")
        await work.door.permit(f"https://{one.image}", runtime.name)
        # docker's daemon has a proxy of its own (systemctl edit docker), and heeds nobody else's
        env = through(work.door.proxy)
        await work.run([*runtime.argv, "pull", reference], PULL_S, env=env)
    found = await digest_of(runtime, reference)
    if found is None:
        raise OrchError(Kind.PROVISION_FAILED, f"{reference} was pulled, and is not here")
    if one.digest is not None and found != one.digest:
        why = f"{runtime.name} has {found} for {reference}"
        raise OrchError(Kind.PROVISION_FAILED, why)
    one = evolve(one, digest=Digest(found))
    return Brought(
        artifacts=(planning.reference(one),),
        version=one.tag or found.removeprefix("sha256:")[:12],
        build_ref=reference,
        digest=found,
        image=one,
        runtime=runtime.path,
        # in the cgroup of its pool, so that the unit's filter of devices and addresses, its limits
        # and its end are the container's too. Of the OCI runtimes crun alone can.
        run_args=("--cgroups=disabled",) if runtime.oci == "crun" else (),
        store=store_of(work.facts),
    )


async def rest(facts: Facts) -> None:
    """End the process that podman leaves behind to hold its namespaces, where nobody else needs it:
    the pools have their own. It makes no difference to what is here."""
    runtime = planning.runtime(facts)
    if runtime is not None and store_of(facts) is not None:
        await tool.ask([*runtime.argv, "system", "migrate"], 60.0)


def store_of(facts: Facts) -> str | None:
    """Return where the units find images; None: in the storage of whoever runs podman, docker's."""
    runtime = planning.runtime(facts)
    own = facts.units and runtime is not None and runtime.name == "podman"
    return str(images_of(Path(facts.cache))) if own else None


async def digest_of(runtime: Runtime, reference: str) -> str | None:
    """Return the digest of an image that is here; None: it is not. Asks nobody else."""
    if runtime.name == "docker":
        form = '{{join .RepoDigests " "}}'
    else:
        form = '{{.Digest}} {{join .RepoDigests " "}}'
    said = await tool.ask([*runtime.argv, "image", "inspect", "--format", form, reference], 60.0)
    if said is None or said.code:
        return None
    wanted = _DIGEST.search(reference)
    digests = _DIGEST.findall(said.text)
    if wanted is not None and wanted[0] in digests:
        return wanted[0]
    return digests[0] if digests else None
