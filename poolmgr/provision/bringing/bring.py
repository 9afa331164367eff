"""Doing a plan: one at a time for each engine, into a folder of its own, and then into the catalog.

Whatever fails leaves the log, the catalog as it was, and no half engine. What is here is not
brought again.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import trio

from orchd.catalog import engines
from orchd.catalog.files import hold, make_folder, release, sync_folder
from orchd.config.pool import Mode, Pool
from orchd.kit import log
from orchd.wire.engines import EngineEntry
from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import Count, Digest, Text
from poolmgr.provision.bringing import download, images, packages, source
from poolmgr.provision.bringing.work import Brought, Work
from poolmgr.provision.machine.cache import usable
from poolmgr.provision.plans import planning
from poolmgr.provision.plans import steps as s
from poolmgr.provision.plans.facts import Facts

WAIT_S: Final = 6 * 3600.0
"""For another program that brings the same engine: as long as the slowest build."""
INDEX_S: Final = 30.0
POLL_S: Final = 0.25


async def bring(work: Work, pool: Pool, plan: s.Plan, now_ms: int) -> EngineEntry:
    """Return the engine's entry; it is in the catalog then.

    Raises OrchError: PROVISION_FAILED, CPU_FALLBACK, ENGINE_MISSING, OUTBOUND_DENIED.
    """
    assert plan.entry_id is not None, "there is something to bring"
    cache = Path(work.facts.cache)
    with _told(cache):
        make_folder(str(cache))
    held = await _held(cache / f"{plan.entry_id}.lock", WAIT_S, work)
    try:
        there = await _there(cache, plan.entry_id, work.facts)
        if there is not None:
            work.tell("engine_here", f"{there.id} is here already: {there.version}.")
            return there
        with _told(cache):
            await trio.to_thread.run_sync(_remove, work.part)
        try:
            brought = await _bring(work, pool, plan)
            entry = _entry(pool, plan, brought, Path(plan.folder), work, now_ms)
            with _told(cache):
                await trio.to_thread.run_sync(_settle, work.part, Path(plan.folder))
        finally:
            with trio.CancelScope(shield=True):  # a build has gigabytes
                await trio.to_thread.run_sync(_remove, work.part)
        await _register(cache, entry, work)
        return entry
    finally:
        if pool.mode is Mode.CONTAINER:
            with trio.CancelScope(shield=True):  # it has a deadline
                await images.rest(work.facts)
        release(held)


async def _bring(work: Work, pool: Pool, plan: s.Plan) -> Brought:
    match pool.mode:
        case Mode.SOURCE:
            return await source.build(work, pool, plan)
        case Mode.CONTAINER:
            return await images.pull(work, pool)
        case Mode.PACKAGE:
            return await packages.install(work, pool, plan)
        case Mode.BINARY:
            return await download.download(work, pool, plan)
        case Mode.EXTERNAL:
            raise OrchError(Kind.PROVISION_FAILED, "an external engine is brought by others")


async def _there(cache: Path, entry_id: str, facts: Facts) -> EngineEntry | None:
    """Return the engine if it is here, whole."""
    entry = await trio.to_thread.run_sync(engines.find, str(cache), entry_id)
    if entry is None or not usable(entry):
        return None
    runtime = planning.runtime(facts)
    if entry.image is not None and (
        runtime is None
        or entry.store != images.store_of(facts)
        or await images.digest_of(runtime, entry.artifacts[0]) is None
    ):
        return None
    if str(entry.mode) == Mode.PACKAGE and facts.package.installed != entry.version:
        return None  # it was upgraded, or removed
    return entry


def _entry(
    pool: Pool, plan: s.Plan, brought: Brought, folder: Path, work: Work, now_ms: int
) -> EngineEntry:
    own = brought.image is not None
    paths = (one if own else str(folder / one) for one in brought.artifacts)
    assert plan.entry_id is not None, "there is something to bring"
    return EngineEntry(
        id=Text(plan.entry_id),
        engine=pool.engine.id,
        mode=Text(pool.mode),
        version=Text(brought.version),
        build_ref=Text(brought.build_ref),
        digest=None if brought.digest is None else Digest(brought.digest),
        build_flags=plan.flags,
        artifacts=tuple(Text(path) for path in paths),
        image=brought.image,
        runtime=None if brought.runtime is None else Text(brought.runtime),
        run_args=brought.run_args,
        store=None if brought.store is None else Text(brought.store),
        log=Text(str(work.log.path)),
        created_ms=Count(now_ms),
    )


def _settle(part: Path, folder: Path) -> None:
    """Give what was put together its place, by one rename. Blocks. Raises OSError."""
    if not part.exists():
        return  # an image, a package: it has its place elsewhere
    _remove(folder)
    for path in (*part.rglob("*"), part):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    part.rename(folder)
    sync_folder(str(folder.parent))


async def _register(cache: Path, entry: EngineEntry, work: Work) -> None:
    """Write the record; other engines' are written in between. Raises OrchError."""
    held = await _held(cache / "catalog.lock", INDEX_S, work)
    try:

        def write() -> None:
            shelf = engines.shelf(str(cache))
            shelf.folder.open()
            shelf.write(entry)

        with _told(cache):
            await trio.to_thread.run_sync(write)
    finally:
        release(held)
    work.tell("engine_ready", f"{entry.id} is here: {entry.version}.")


async def _held(path: Path, most_s: float, work: Work) -> int:
    """Return the lock, once it is ours. Raises OrchError(PROVISION_FAILED) after the deadline."""
    told = False
    with _told(path.parent), trio.move_on_after(most_s):
        while (descriptor := hold(str(path))) is None:
            if not told:
                told = True
                human = f"Waiting: another program brings {path.stem}."
                log.event("engine_wait", human, pool_id=work.pool_id)
            await trio.sleep(POLL_S)
        return descriptor
    raise OrchError(Kind.PROVISION_FAILED, f"{path} is held by another program for too long")


def _remove(path: Path) -> None:
    if path.exists():
        shutil.rmtree(path)


@contextmanager
def _told(cache: Path) -> Iterator[None]:
    """Tell what a disk does not take. Raises OrchError(PROVISION_FAILED)."""
    try:
        yield
    except OSError as exc:
        why = f"{exc.filename or cache} cannot be written: {exc.strerror}"
        raise OrchError(Kind.PROVISION_FAILED, why) from exc
