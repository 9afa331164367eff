"""One model from its reference to the cache: lock, list, choose, bring, verify, register.

Runs in the fetching program (__main__.py); who starts that is child.py's.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import trio
from attrs import evolve

from orchd.fetch import hashing
from orchd.fetch.choose import choose, in_order
from orchd.fetch.download import ChangedError, Downloads, disk_error
from orchd.fetch.entry import Entry
from orchd.fetch.orders import Done, Order, Progress
from orchd.fetch.remote import RemoteFile, Source
from orchd.fetch.sources import open_source
from orchd.kit.groups import leaves
from orchd.policy.web import Web
from orchd.wire import modelref
from orchd.wire.cached import Kept, Record, Shape
from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import Count, Text

TELL_S: Final = 1.0
LOCK_S: Final = 0.25
"""How often it is tried whether another one who fetches the same has ended."""
CHANGES: Final = 2
"""How often a model may change at its source while it is fetched."""
Say = Callable[[Progress], None]


async def fetch(order: Order, say: Say, environ: Mapping[str, str] = os.environ) -> Done:
    """Return the model, once it is in the cache and verified. One fetches, others wait for it.

    `say` is told about once a second. Raises OrchError: FETCH_FAILED, OUTBOUND_DENIED,
    DIGEST_MISMATCH, DISK_SHORT.
    """
    entry = Entry(Path(order.folder), order.ref, order.shape)
    try:
        while True:
            there = entry.locate()
            if there is not None:
                return _as_ordered(there, order)
            with entry.locked() as ours:
                if ours:
                    there = entry.locate()  # whoever had the lock may have brought it
                    if there is None:
                        return await _bring(order, entry, say, environ)
                    return _as_ordered(there, order)
            say(entry.told() or Progress(what=Text("waiting for another program that fetches it")))
            await trio.sleep(LOCK_S)
    except OSError as exc:
        raise disk_error(exc, entry.folder) from exc


def _as_ordered(there: Done, order: Order) -> Done:
    """Return what is there. Raises OrchError(DIGEST_MISMATCH): it was fetched without a digest."""
    if order.digest is not None and there.digest != order.digest:
        why = f"{there.path} has {there.digest}, and not {order.digest}: remove it to fetch it anew"
        raise OrchError(Kind.DIGEST_MISMATCH, why)
    return there


async def _bring(order: Order, entry: Entry, say: Say, environ: Mapping[str, str]) -> Done:
    try:
        ref = modelref.parse(order.ref)
    except ValueError as exc:
        raise OrchError(Kind.FETCH_FAILED, f"the reference {exc}") from None
    source, web = open_source(ref, order, environ)
    name = modelref.shown(order.ref).rpartition("/")[2]
    say(Progress(what=Text(f"asking for {name}")))
    try:
        for attempt in range(CHANGES + 1):
            try:
                # the listing is believed at first; what proves it wrong is asked for anew
                return await _attempt(order, entry, source, web, say, trust=attempt == 0)
            except ChangedError:
                await trio.to_thread.run_sync(entry.drop)
        raise OrchError(
            Kind.FETCH_FAILED, f"{name} changes at its source while it is fetched: try again later"
        )
    finally:
        web.close()


async def _attempt(
    order: Order, entry: Entry, source: Source, web: Web, say: Say, *, trust: bool
) -> Done:
    listing = await source.listing()
    try:
        files = choose(listing, order.shape)
    except ValueError as exc:
        raise OrchError(Kind.FETCH_FAILED, f"{modelref.shown(order.ref)}: {exc}") from None
    downloads = Downloads(web, source, entry, order.connections)
    what = files[0].name.rpartition("/")[2] if len(files) == 1 else f"{len(files)} files"
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_tell, downloads, entry, f"fetching {what}", say)
            digests = await downloads.run(files, trust=trust)
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as exc:
        raise _told(exc) from exc
    say(Progress(what=Text(f"verifying {what}"), done_bytes=Count(downloads.meter.done_bytes)))
    record = await _record(order, entry, files, digests)
    done = await trio.to_thread.run_sync(entry.commit, record)
    return evolve(done, fetched_bytes=Count(downloads.fetched_bytes))


def _told(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the one thing to tell of what broke in several connections at once."""
    found = list(leaves(group))
    for kind in (ChangedError, OrchError):
        if all(isinstance(one, (ChangedError, OrchError, trio.Cancelled)) for one in found):
            for one in found:
                if isinstance(one, kind):
                    return one
    return group


async def _tell(downloads: Downloads, entry: Entry, what: str, say: Say) -> None:
    while True:
        await trio.sleep(TELL_S)
        progress = downloads.meter.progress(what, trio.current_time())
        entry.tell(progress)
        say(progress)


async def _record(
    order: Order, entry: Entry, files: Sequence[RemoteFile], digests: Mapping[str, tuple[int, str]]
) -> Record:
    """Return the record of a model that came. Raises OrchError(DIGEST_MISMATCH)."""
    names = [file.name for file in files]
    if order.shape is Shape.GGUF:
        model, path = tuple(names), names[0]
    else:
        model, path = in_order(names), "."
    if len(model) == 1:
        digest = digests[model[0]][1]
    else:
        paths = [entry.file(name) for name in model]
        digest = await trio.to_thread.run_sync(hashing.of_files, paths, abandon_on_cancel=True)
    if order.digest is not None and f"sha256:{digest}" != order.digest:
        await trio.to_thread.run_sync(entry.drop)
        why = f"{modelref.shown(order.ref)} has sha256:{digest}, and not {order.digest}"
        raise OrchError(Kind.DIGEST_MISMATCH, why)
    return Record(
        ref=Text(modelref.shown(order.ref)),
        shape=order.shape,
        path=Text(path),
        model=tuple(Text(name) for name in model),
        digest=Text(f"sha256:{digest}"),
        files=tuple(
            Kept(name=Text(name), size=Count(size), sha256=Text(sha))
            for name, (size, sha) in digests.items()
        ),
    )
