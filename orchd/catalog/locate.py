"""Where a model is on this machine: questions that write nothing, asked before anything is staged.

A model is here as a file that a reference names, or in a cache of fetched models; what is in those
is given (kit/cached.py reads it).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from attrs import evolve, frozen

from orchd.catalog import files
from orchd.wire import modelref
from orchd.wire.cached import Cached
from orchd.wire.catalog import Located, ModelRecord, ModelRegistration
from orchd.wire.ids import Count

_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]*:")


@frozen
class Here:
    """Where a model's bytes are."""

    path: str
    files: tuple[str, ...]
    """Those that its digest counts, in order."""
    cached: Cached | None = None
    """None: a file that no fetch brought."""


def path_of(ref: str, base: str) -> str | None:
    """Return the path that a reference names, relative ones from the folder `base`; None: it names
    no file here."""
    path = ref.removeprefix("file:")
    if path == ref and _SCHEME.match(ref):
        return None
    if path.startswith("//"):  # file:///abs, as browsers write it
        path = "/" + path.lstrip("/")
    if not path or "\0" in path:
        return None
    return path if path.startswith("/") else f"{base}/{path}"


def locate(
    ref: str, base: str, cached: Iterable[Cached] = (), digest: str | None = None
) -> Here | None:
    """Return where the model of a reference is; None: it is not here [CAT-LOCATE].

    A reference has several models in caches when its source has changed, or when its repository
    was fetched in two shapes: then the one with `digest`, else the first.
    """
    path = path_of(ref, base)
    if path is not None:
        return Here(path, _parts(path)) if files.is_file(path) else None
    ref = modelref.shown(ref)
    mine = [each for each in cached if each.ref == ref]
    found = next((each for each in mine if each.digest == digest), mine[0] if mine else None)
    return None if found is None else _of(found)


def located(
    name: str, records: Sequence[ModelRecord], base: str, cached: Sequence[Cached]
) -> Located:
    """Return what is known here of an id, a digest or a reference: which models of the catalog it
    names, and where its files are [CAT-EXISTS] [CAT-LOCATE]."""
    models = [record.model for record in records]
    named = [model for model in models if name in (model.id, model.digest)]
    here: Here | None = None
    if named:  # an id goes before a reference of the same letters
        here = next(filter(None, (_of_model(model, base, cached) for model in named)), None)
    else:
        here = _digested(name, cached) or locate(name, base, cached)
        named = [model for model in models if _same(model, name, base)]
    told = Located(
        name=name,
        exists=bool(named) or here is not None,
        models=tuple(model.id for model in named),
    )
    if here is None:
        return told
    if here.cached is None:
        return evolve(told, path=here.path, size_bytes=Count(files.size_of(here.files)))
    held = here.cached
    return evolve(told, path=held.path, size_bytes=held.size_bytes, digest=held.digest)


def _of_model(model: ModelRegistration, base: str, cached: Sequence[Cached]) -> Here | None:
    if model.source_url is None:
        return _digested(model.digest, cached)
    found = locate(model.source_url, base, cached, model.digest)
    return found or _digested(model.digest, cached)


def _digested(digest: str, cached: Iterable[Cached]) -> Here | None:
    return next((_of(each) for each in cached if each.digest == digest), None)


def _of(cached: Cached) -> Here:
    return Here(cached.path, cached.files, cached)


def _same(model: ModelRegistration, ref: str, base: str) -> bool:
    """Whether a reference names the source of a model."""
    source = model.source_url
    if source is None:
        return False
    path = path_of(ref, base)
    if path is not None:
        return path_of(source, base) == path
    return modelref.shown(source) == modelref.shown(ref)


def _parts(path: str) -> tuple[str, ...]:
    """Return all files of a model in several, of which `path` is one; else the one."""
    folder, slash, name = path.rpartition("/")
    try:
        return tuple(f"{folder}{slash}{part}" for part in modelref.shards(name))
    except ValueError:
        return (path,)  # a name like one of a part, and none
