"""Where the files of models are on this machine, and whether they are the right ones.

What is asked of a name is catalog/locate.py's, how a cache is read kit/cached.py's; here both run
in threads. Nothing here writes, and nothing is asked of another machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from orchd.catalog import locate
from orchd.catalog.locate import Here
from orchd.edge.disk import Disk
from orchd.kit import cached
from orchd.wire.cached import Cached
from orchd.wire.catalog import Located, ModelRecord, ModelRegistration, VerifyReason
from orchd.wire.modelref import is_remote


class Whereabouts:
    """Looks where models are."""

    def __init__(self, disk: Disk, base: str, caches: Callable[[], Iterable[Path]]) -> None:
        """`base`: where relative paths of models begin; `caches`: the folders that pools fetch
        their models into, and orchctl models fetch."""
        self._disk = disk
        self._base = base
        self._caches = caches

    async def cached(self) -> tuple[Cached, ...]:
        """Return every model of the caches. Raises OrchError(INTERNAL)."""
        return await self._disk.read(lambda: cached.entries(dict.fromkeys(self._caches())))

    async def located(self, name: str, records: Sequence[ModelRecord]) -> Located:
        """Return what is known here of a name. Raises OrchError(INTERNAL)."""
        held = await self.cached()
        return await self._disk.read(partial(locate.located, name, records, self._base, held))

    async def here(self, model: ModelRegistration) -> Here | None:
        """Return where a model's source is; None: not here. Raises OrchError(INTERNAL)."""
        source = model.source_url
        if source is None:
            return None
        held = await self.cached() if is_remote(source) else ()
        digest = model.digest
        return await self._disk.read(lambda: locate.locate(source, self._base, held, digest))

    def path(self, model: ModelRegistration) -> str | None:
        """Return the path that a model's source names; None: it names no file."""
        return None if model.source_url is None else locate.path_of(model.source_url, self._base)

    async def verified(self, model: ModelRegistration) -> tuple[VerifyReason, str]:
        """Hash a model's files; return how they compare with its digest, and that in words."""
        here = await self.here(model)
        if here is None:
            if self.path(model) is not None:
                return VerifyReason.NOT_FOUND, "its file is not there, or orchd may not see it"
            return VerifyReason.NOT_LOCAL, "it is not on this machine, so nothing was hashed"
        what = "its file has" if len(here.files) == 1 else f"its {len(here.files)} files have"
        try:
            digest = f"sha256:{await self._disk.sha256_of(here.files)}"
        except OSError as exc:
            return VerifyReason.UNREADABLE, f"it cannot be read: {exc.strerror or exc}"
        if digest == model.digest:
            return VerifyReason.MATCH, f"{what} the digest of the catalog"
        return VerifyReason.MISMATCH, f"{what} digest {digest}, the catalog {model.digest}"
