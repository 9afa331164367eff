"""Engines that were brought here: what is kept of each, and what a pool needs to know to run one.

Where the records are is orchd/catalog's, how an engine comes here poolmgr/provision's.
"""

from __future__ import annotations

from collections.abc import Mapping

from attrs import field, frozen

from orchd.wire.ids import Count, Digest, EngineId, Text


@frozen(kw_only=True)
class ImageIdentity:
    """Which image: by digest it is one for ever, the tag says how it was called [ORCH-3802]."""

    image: Text
    tag: Text | None = None
    digest: Digest | None = None


@frozen(kw_only=True)
class EngineEntry:
    """One engine in the catalog of engines [ORCH-3440]."""

    id: Text
    """Made from the configuration alone: the same keys are the same engine."""
    engine: EngineId
    mode: Text
    version: Text
    """What the engine says of itself, else what the packager says."""
    build_ref: Text
    """Commit, image reference, package with its version, or URL."""
    digest: Digest | None = None
    """Of the program, or of the image."""
    build_flags: tuple[str, ...] = ()
    artifacts: tuple[Text, ...] = ()
    """Absolute paths, the program first; for a container the image that is run."""
    image: ImageIdentity | None = None
    runtime: Text | None = None
    """Absolute path of podman or docker, which has the image."""
    run_args: tuple[str, ...] = ()
    """What this machine's runtime needs to be told at each run."""
    store: Text | None = None
    """Absolute path of podman's images, where they are not in its user's own storage."""
    log: Text | None = None
    """Absolute path of what the tools said."""
    created_ms: Count


@frozen(kw_only=True)
class PreparedEngine:
    """An engine that can be started [ORCH-3805]."""

    name: EngineId
    version: Text
    build_ref: Text
    digest: Digest | None = None
    flags: tuple[str, ...] = ()
    mode: Text
    entry: Text
    """The program, or the image."""
    runtime: Text | None = None
    run_args: tuple[str, ...] = ()
    """Of an image: what runs it, and what that needs to be told."""
    store: Text | None = None
    """Where podman has it, if not in its user's own storage."""
    args: tuple[str, ...] = ()
    """Behind the program, before the adapter's own."""
    env: Mapping[str, str] = field(factory=dict)
    ports: tuple[int, ...] = ()
    """TCP ports that it takes. None: it listens on a unix socket."""
    workdir: Text
    engine_catalog_id: Text


def prepared(entry: EngineEntry, args: tuple[str, ...], workdir: str) -> PreparedEngine:
    """Return what a pool needs of an entry."""
    return PreparedEngine(
        name=entry.engine,
        version=entry.version,
        build_ref=entry.build_ref,
        digest=entry.digest,
        flags=entry.build_flags,
        mode=entry.mode,
        entry=entry.artifacts[0],
        runtime=entry.runtime,
        run_args=entry.run_args,
        store=entry.store,
        args=args,
        workdir=Text(workdir),
        engine_catalog_id=entry.id,
    )
