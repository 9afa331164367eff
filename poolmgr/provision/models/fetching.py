"""A pool's model from elsewhere: in the cache already, or fetched now, if that is allowed.

How it is fetched is orchd/fetch's; whether it may be, model.fetch and orchd/policy say.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import trio

from orchd.config.pool import Pool
from orchd.config.schema import Settings
from orchd.fetch.child import fetched
from orchd.fetch.entry import Entry
from orchd.fetch.orders import Done, Order, Progress
from orchd.fetch.pools import ordered
from orchd.fetch.progress import duration, size, words
from orchd.kit import log
from orchd.wire import modelref
from orchd.wire.errors import Kind, OrchError

NARRATE_S: Final = 30.0
"""How often the journal is told of a fetch that goes on."""
STATUS_S: Final = 5.0
"""How often the status line is: `orchctl up` writes each as a line."""
Say = Callable[[str], None]


async def bring(
    settings: Settings, pool: Pool, say: Say, environ: Mapping[str, str] = os.environ
) -> tuple[Done, bool]:
    """Return the pool's model, and whether its digest has been compared just now.

    `say` hears a sentence every few seconds. Raises OrchError: MODEL_MISSING when it is not here
    and model.fetch is false; DIGEST_MISMATCH, FETCH_FAILED, OUTBOUND_DENIED, DISK_SHORT.
    """
    order = ordered(settings, pool, environ)
    entry = Entry(Path(order.folder), order.ref, order.shape)
    there = await trio.to_thread.run_sync(entry.locate)
    if there is not None:
        if order.digest not in (None, there.digest):
            why = f"{there.path} came with {there.digest}, and model.digest is {order.digest}"
            raise OrchError(Kind.DIGEST_MISMATCH, f"{why}: remove {entry.path} to fetch it anew")
        return there, False
    shown = modelref.shown(order.ref)
    if not pool.model.fetch:
        raise OrchError(
            Kind.MODEL_MISSING,
            f"{shown} is not in {order.folder}, and model.fetch of pool {pool.id} is false: "
            "orchctl models fetch brings it",
        )
    return await _fetched(order, shown, pool, say), True


async def _fetched(order: Order, shown: str, pool: Pool, say: Say) -> Done:
    began = told_at = trio.current_time()
    said_at, saying = -STATUS_S, ""
    log.event(
        "model_fetch_began",
        f"Fetching {shown} into {order.folder}.",
        pool_id=pool.id,
        model_id=shown,
    )

    def hear(progress: Progress) -> None:
        nonlocal told_at, said_at, saying
        sentence, now = words(progress), trio.current_time()
        if now - said_at >= STATUS_S or progress.what != saying:
            said_at, saying = now, progress.what
            say(sentence)
        if now - told_at >= NARRATE_S:
            told_at = now
            log.event(
                "model_fetching",
                f"{sentence[:1].upper()}{sentence[1:]}.",
                pool_id=pool.id,
                model_id=shown,
                done_bytes=progress.done_bytes,
                total_bytes=progress.total_bytes,
                bytes_per_s=progress.bytes_per_s,
            )

    done = await fetched(order, hear)
    took = trio.current_time() - began
    log.event(
        "model_fetched",
        f"Fetched {shown}: {size(done.fetched_bytes)} in {duration(took)}"
        f" ({size(done.fetched_bytes / max(took, 0.001))}/s), {done.digest}.",
        pool_id=pool.id,
        model_id=shown,
        size_bytes=done.size_bytes,
        fetched_bytes=done.fetched_bytes,
        digest=done.digest,
        seconds=round(took, 3),
    )
    return done
