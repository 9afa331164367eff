"""`python -m poolmgr.provisioner plan|provision POOL`: what `orchctl plan` and `provision` run.

The composition root of provisioning: configuration, GPUs, facts, plan; then the doing. It is a
program of the operator's and no daemon: specs/adr/0005-who-provisions.md.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import trio

from orchd.config.devices import Backend
from orchd.config.load import SYSTEM_FILE, load
from orchd.config.pool import Mode, Pool
from orchd.config.schema import Settings
from orchd.kit import log
from orchd.kit.run import run
from orchd.wire import codec
from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import PoolId
from poolmgr.edge.devices import Nvml
from poolmgr.provision.bringing.bring import bring
from poolmgr.provision.bringing.door import PolicyDoor
from poolmgr.provision.bringing.upload import upload
from poolmgr.provision.bringing.work import Work
from poolmgr.provision.machine.cache import cache_of
from poolmgr.provision.machine.look import look
from poolmgr.provision.machine.owner import become_owner
from poolmgr.provision.machine.tool import Log
from poolmgr.provision.plans import words
from poolmgr.provision.plans.facts import Facts, GpuFact
from poolmgr.provision.plans.planning import plan
from poolmgr.provision.plans.preflight import check
from poolmgr.provision.starting.brought import prepared_engine

UPLOAD_S: Final = 3.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; return the exit code of the error table."""
    arguments = _parser().parse_args(argv)
    log.setup(arguments.log, "orchd-provision")

    async def serve(stop: trio.Event) -> None:
        done = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_leave_with, stop, nursery.cancel_scope)
            settings = load(arguments.config)
            pool = _pool(settings, arguments.pool)
            if arguments.verb == "plan":
                await show(settings, pool, as_json=arguments.json)
            else:
                await provision(settings, pool, as_json=arguments.json)
            done.set()
            nursery.cancel_scope.cancel()
        if not done.is_set():
            raise OrchError(
                Kind.CANCELED, "stopped; what is in the catalog of engines is as it was"
            )

    return run(serve, "orchd-provision")


async def show(settings: Settings, pool: Pool, *, as_json: bool) -> None:
    """Print the plan of a pool and what is in the way. Changes nothing."""
    facts = await facts_of(settings, pool)
    planned, problems = plan(pool, facts), check(pool, facts)
    if as_json:
        sys.stdout.write(codec.dumps(words.value(planned, problems)).decode() + "\n")
    else:
        sys.stdout.write("".join(f"{line}\n" for line in words.lines(planned, problems)))


async def provision(settings: Settings, pool: Pool, *, as_json: bool) -> None:
    """Bring the engine of a pool, unless something is in the way; print what it is.

    Raises OrchError: PROVISION_FAILED with the first command that mends it, and what bring raises.
    """
    cache = cache_of(settings, pool)
    for_good = pool.mode is not Mode.PACKAGE  # pacman wants root, or asks for it
    if for_good:
        become_owner(cache)
    facts = await facts_of(settings, pool)
    planned, problems = plan(pool, facts), check(pool, facts)
    for problem in problems:
        log.event(
            "provision_problem",
            f"{problem.what}. Run: {problem.command}",
            level="error",
            pool_id=pool.id,
            command=problem.command,
        )
    if problems:
        first, others = problems[0], len(problems) - 1
        more = f" ({others} more in the way: above)" if others else ""
        raise OrchError(Kind.PROVISION_FAILED, f"{first.what}. Run: {first.command}{more}")
    if planned.entry_id is None:
        log.event("nothing_to_bring", f"Pool {pool.id} needs nothing brought.", pool_id=pool.id)
        return
    if not for_good:  # what the facts say of root and of sudo is known now
        become_owner(cache, for_good=False)
    now_ms = time.time_ns() // 1_000_000
    said = Log(cache / "logs" / f"{planned.entry_id}-{now_ms}.log")
    try:
        work = Work(
            pool_id=pool.id,
            facts=facts,
            part=cache / f"{planned.entry_id}.part",
            log=said,
            door=PolicyDoor(settings, pool, cache),
            clock=trio.current_time,
        )
        entry = await bring(work, pool, planned, now_ms)
    finally:
        said.close()
        # of a failure too, and of a stop, which waits a moment for it
        with trio.CancelScope(shield=True, deadline=trio.current_time() + UPLOAD_S):
            await upload(settings, pool.id, planned.entry_id, said.path)
    ready = prepared_engine(pool, entry)
    if as_json:
        sys.stdout.write(codec.dumps(ready).decode() + "\n")
    else:
        sys.stdout.write(
            f"{ready.engine_catalog_id}: {ready.name} {ready.version}\n{ready.entry}\n"
        )


async def facts_of(settings: Settings, pool: Pool) -> Facts:
    """Return what is known of this machine, its GPUs first."""
    gpus, no_driver = await _gpus(settings, pool)
    units = settings.source == SYSTEM_FILE
    return await look(pool, cache_of(settings, pool), gpus, no_driver, units=units)


async def _gpus(settings: Settings, pool: Pool) -> tuple[tuple[GpuFact, ...], str | None]:
    if pool.mode is Mode.EXTERNAL or settings.devices.backend is Backend.SIMULATED:
        return (), None
    try:
        found = await Nvml(pool.replicas[0], settings.devices).read()
    except OrchError as exc:
        return (), exc.message
    return (
        tuple(
            GpuFact(
                index=gpu.index,
                uuid=gpu.uuid,
                name=gpu.name,
                compute_capability=gpu.compute_capability,
            )
            for gpu in found
        ),
        None,
    )


def _pool(settings: Settings, name: str) -> Pool:
    try:
        return settings.pool(PoolId(name))
    except KeyError:
        known = ", ".join(pool.id for pool in settings.pools) or "none"
        raise OrchError(
            Kind.CONFIG_INVALID, f"no pool {name} is configured (configured: {known})"
        ) from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="orchd-provision", description=__doc__)
    parser.add_argument("verb", choices=["plan", "provision"])
    parser.add_argument("pool", metavar="POOL", help="the id of a pool")
    parser.add_argument("--config", type=Path, metavar="FILE", help="the configuration file")
    parser.add_argument("--json", action="store_true", help="one JSON object, for programs")
    log.add_option(parser)
    return parser


async def _leave_with(stop: trio.Event, scope: trio.CancelScope) -> None:
    await stop.wait()
    scope.cancel()


if __name__ == "__main__":
    sys.exit(main())
