"""Bringing files here: parts over several connections, tried again, hashed as they come.

A file is written in place into the part folder of its entry; the journal says which of its bytes
are there and on the disk, so a kill costs at most JOURNAL_S of work. What is asked for, and how, is
the source's.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import trio

from orchd.fetch import hashing
from orchd.fetch.attempts import LaterError, check, persist
from orchd.fetch.entry import Entry
from orchd.fetch.parts import Part, Partial, split
from orchd.fetch.progress import Meter, size
from orchd.fetch.remote import RemoteFile, Source
from orchd.policy.web import Got, Web
from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import Count

JOURNAL_S: Final = 2.0
SPARE: Final = 64 << 20
"""Bytes of a disk that are left to others."""
UNKNOWN: Final = Count(1 << 62)
"""The end of a file whose size nobody says."""
_RANGE: Final = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})")
_PROBED: Final = frozenset({200, 206, 416})
_WHOLE: Final = frozenset({200})


class ChangedError(Exception):
    """The source has other content than it said, or than when the file was begun."""


class Downloads:
    """All files of one model, on their way."""

    def __init__(self, web: Web, source: Source, entry: Entry, connections: int) -> None:
        self.meter = Meter(0, None)
        self.fetched_bytes = 0
        self._web = web
        self._source = source
        self._entry = entry
        self._connections = connections
        self._partials: dict[str, Partial] = {}
        self._descriptors: dict[str, int] = {}
        self._dirty: set[str] = set()
        self._moved = trio.lowlevel.ParkingLot()

    async def run(self, files: Sequence[RemoteFile], *, trust: bool) -> dict[str, tuple[int, str]]:
        """Return size and sha256 of each file, once all are whole and as their source says.

        `trust`: believe the listing's size, and that parts can be asked for; else one byte of each
        is asked for first. Raises OrchError: FETCH_FAILED, OUTBOUND_DENIED, DIGEST_MISMATCH,
        DISK_SHORT; ChangedError, alone or in a group.
        """
        try:
            await self._begin(files, trust)
            self._check_space()
            digests: dict[str, str] = {}
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._keep_journal)
                async with trio.open_nursery() as work:
                    for file in files:
                        work.start_soon(self._hash, file, digests)
                    work.start_soon(self._bring, files)
                nursery.cancel_scope.cancel()
            await self._save()
            return {
                name: (partial.size or 0, digests[name]) for name, partial in self._partials.items()
            }
        finally:
            for descriptor in self._descriptors.values():
                os.close(descriptor)
            self._descriptors.clear()

    # before

    async def _begin(self, files: Sequence[RemoteFile], trust: bool) -> None:
        """See where each file is: begun already and the same still, or at its beginning."""
        begun = await trio.to_thread.run_sync(self._entry.begun)
        limit = trio.CapacityLimiter(self._connections)

        async def look(file: RemoteFile) -> None:
            if trust and file.size is not None and file.sha256 is not None:
                parts = split(file.size, self._connections)
                fresh = Partial(size=Count(file.size), sha256=file.sha256, parts=parts)
            else:
                async with limit:
                    fresh = await persist(lambda: self._probe(file))
            path = self._entry.file(file.name)
            there = path.stat().st_size if path.exists() else 0
            old = begun.get(file.name)
            same = old is not None and old.same(fresh.size, fresh.sha256, fresh.validator)
            if old is not None and same and old.furthest <= there:
                fresh = old
            self._partials[file.name] = fresh
            flags = os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
            self._descriptors[file.name] = os.open(path, flags, 0o644)

        async with trio.open_nursery() as nursery:
            for file in files:
                nursery.start_soon(look, file)
        sizes = [partial.size for partial in self._partials.values()]
        known = [one for one in sizes if one is not None]
        self.meter = Meter(
            sum(partial.done_bytes for partial in self._partials.values()),
            sum(known) if len(known) == len(sizes) else None,
        )

    async def _probe(self, file: RemoteFile) -> Partial:
        """Ask for one byte, to learn size, validator, and whether parts are given."""
        ask = self._source.ask(file)
        async with self._web.get(ask.url, headers={**ask.headers, "Range": "bytes=0-0"}) as got:
            check(got, file.name, _PROBED, self._source.refusal)
            match = _RANGE.fullmatch(got.headers.get("content-range", ""))
            length = got.headers.get("content-length", "")
            if got.status == 206 and match is not None:
                whole, ranged = int(match[3]), True
            elif got.status == 416:
                whole, ranged = 0, True  # no range of an empty file can be satisfied
            elif got.status == 200 and length.isdecimal():
                whole, ranged = int(length), False
            else:
                part = Part(Count(0), Count(0), UNKNOWN)
                return Partial(size=None, sha256=file.sha256, ranged=False, parts=[part])
        parts = [Part(Count(0), Count(0), Count(whole))]
        return Partial(
            size=Count(whole),
            sha256=file.sha256,
            validator=_validator(got),
            ranged=ranged,
            parts=split(whole, self._connections) if ranged else parts,
        )

    def _check_space(self) -> None:
        total = self.meter.total_bytes
        if total is None:
            return
        there = os.statvfs(self._entry.part)
        free = there.f_bavail * there.f_frsize
        missing = total - self.meter.done_bytes
        if missing + SPARE > free:
            raise OrchError(
                Kind.DISK_SHORT,
                f"{self._entry.folder} has {size(free)} free; {size(missing)} of {size(total)} are "
                f"still to come, and {size(SPARE)} have to stay free",
            )

    # meanwhile

    async def _bring(self, files: Sequence[RemoteFile]) -> None:
        """Give the parts of all files, in order, to the connections."""
        send, receive = trio.open_memory_channel[tuple[RemoteFile, Part]](0)
        async with trio.open_nursery() as nursery, send:
            async with receive:
                for _ in range(self._connections):
                    nursery.start_soon(self._connection, receive.clone())
            for file in files:
                for part in self._partials[file.name].parts:
                    if not part.done:
                        await send.send((file, part))

    async def _connection(self, work: trio.MemoryReceiveChannel[tuple[RemoteFile, Part]]) -> None:
        async with work:
            async for file, part in work:
                await self._part(file, self._partials[file.name], part)

    async def _part(self, file: RemoteFile, partial: Partial, part: Part) -> None:
        """Bring one part, however often it breaks off."""

        async def attempt() -> None:
            if not partial.ranged and part.at > part.begin:  # no way but from the beginning
                self.meter.add(part.begin - part.at)
                part.at = part.begin
            await self._stream(file, partial, part)

        await persist(attempt, (lambda: part.at) if partial.ranged else (lambda: 0))

    async def _stream(self, file: RemoteFile, partial: Partial, part: Part) -> None:
        ask = self._source.ask(file)
        headers = dict(ask.headers)
        if partial.ranged:
            headers["Range"] = f"bytes={part.at}-{part.end - 1}"
            if partial.validator is not None:
                headers["If-Range"] = partial.validator
        async with self._web.get(ask.url, headers=headers, size_bytes=partial.size) as got:
            check(got, file.name, _PROBED if partial.ranged else _WHOLE, self._source.refusal)
            if partial.ranged:
                _check_range(got, partial, part)
            await self._receive(got, self._descriptors[file.name], part)
            self._dirty.add(file.name)
        if partial.size is None:
            part.end = partial.size = part.at
        elif not part.done:
            why = f"{got.address.origin} answers less of {file.name} than it was asked for"
            raise LaterError(why, None)
        self._moved.unpark_all()

    async def _receive(self, got: Got, descriptor: int, part: Part) -> None:
        read, meter = got.incoming.read_some, self.meter
        while data := await read():
            if part.at + len(data) > part.end:
                raise ChangedError
            try:
                written = os.pwrite(descriptor, data, part.at)
                while written < len(data):  # a disk that is nearly full takes a part
                    written += os.pwrite(descriptor, data[written:], part.at + written)
            except OSError as exc:
                raise disk_error(exc, self._entry.folder) from exc
            part.at = Count(part.at + len(data))
            meter.done_bytes += len(data)
            self.fetched_bytes += len(data)
            self._moved.unpark_all()

    async def _hash(self, file: RemoteFile, digests: dict[str, str]) -> None:
        """Follow a file, and compare at its end. Raises OrchError(DIGEST_MISMATCH)."""
        partial, descriptor = self._partials[file.name], self._descriptors[file.name]
        found = await hashing.follow(partial, descriptor, lambda: self._moved)
        if partial.sha256 is not None and found != partial.sha256:
            await trio.to_thread.run_sync(self._entry.drop)
            said = f"{file.name} came with sha256:{found}"
            why = f"{said}, and its source says sha256:{partial.sha256}"
            raise OrchError(Kind.DIGEST_MISMATCH, why)
        digests[file.name] = found

    async def _keep_journal(self) -> None:
        while True:
            await trio.sleep(JOURNAL_S)
            await self._save()

    async def _save(self) -> None:
        """Sync what has come, then say so: the journal claims no byte that a crash could lose."""
        # parts as they are before the sync: what comes during it is not claimed
        taken = {
            name: Partial(
                size=partial.size,
                sha256=partial.sha256,
                validator=partial.validator,
                ranged=partial.ranged,
                parts=[Part(part.begin, part.at, part.end) for part in partial.parts],
            )
            for name, partial in self._partials.items()
        }
        descriptors = list(self._descriptors.values())

        def save() -> None:
            try:
                for descriptor in descriptors:
                    os.fdatasync(descriptor)
                self._entry.keep(taken)
            except OSError as exc:
                raise disk_error(exc, self._entry.folder) from exc

        await trio.to_thread.run_sync(save)


def disk_error(exc: OSError, folder: Path) -> OrchError:
    """Return what a file that cannot be written means."""
    if exc.errno in (errno.ENOSPC, errno.EDQUOT):
        return OrchError(Kind.DISK_SHORT, f"{folder} is full: {exc.strerror}")
    return OrchError(Kind.DISK_SHORT, f"{folder} cannot be written: {exc.strerror or exc}")


def _validator(got: Got) -> str | None:
    """Return what If-Range may carry: a strong ETag, else the date (RFC 9110, 13.1.5)."""
    etag = got.headers.get("etag", "")
    if etag.startswith('"'):
        return etag
    return got.headers.get("last-modified")


def _check_range(got: Got, partial: Partial, part: Part) -> None:
    """Raises ChangedError when the answer is not the part that was asked for."""
    match = _RANGE.fullmatch(got.headers.get("content-range", ""))
    if got.status != 206 or match is None:
        raise ChangedError
    begin, end, whole = (int(number) for number in match.groups())
    if (begin, whole) != (part.at, partial.size) or end >= part.end:
        raise ChangedError
