"""A model in a cache, as a fetch leaves it: by the code of the fetch, without a source."""

from __future__ import annotations

import hashlib
from pathlib import Path

from orchd.fetch.entry import Entry
from orchd.fetch.orders import Done
from orchd.wire import modelref
from orchd.wire.cached import Kept, Record, Shape
from orchd.wire.ids import Count, Text


def hexdigest(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(parts)).hexdigest()


def fetched(folder: Path, ref: str, *contents: bytes, shape: Shape = Shape.GGUF) -> Done:
    """Put a model into the cache `folder`; with several contents it has several files."""
    entry = Entry(folder, ref, shape)
    names = [f"m{number}.gguf" for number in range(len(contents))]
    with entry.locked() as ours:
        assert ours
        entry.begun()
        for name, content in zip(names, contents, strict=True):
            entry.file(name).write_bytes(content)
        record = Record(
            ref=Text(modelref.shown(ref)),
            shape=shape,
            path=Text(names[0] if shape is Shape.GGUF else "."),
            model=tuple(map(Text, names)),
            digest=Text(f"sha256:{hexdigest(*contents)}"),
            files=tuple(
                Kept(name=Text(name), size=Count(len(content)), sha256=Text(hexdigest(content)))
                for name, content in zip(names, contents, strict=True)
            ),
        )
        return entry.commit(record)
