"""Which model a reload gave this replica: a small file that outlives the daemon, not the machine.

It holds while the configuration names the model that it named then; an operator who edits
`model.ref` is obeyed. The file lies in poolmgr's run directory, so a reboot forgets it.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from attrs import evolve, frozen

from orchd.config.pool import Model, Pool
from orchd.kit import log
from orchd.wire.ids import Text
from poolmgr.provision import state

MAX_BYTES = 64 << 10  # two names of at most 4096 characters, escaped


@frozen(kw_only=True)
class Reloaded:
    """The file's content."""

    configured: Text
    """`model.ref` at the time."""
    model_ref: Text
    digest: Text | None = None
    """That the reload said the model must have."""


def with_model(pool: Pool, model_ref: str, digest: str | None, configured: Pool) -> Pool:
    """Return the pool with another model, which must have `digest` where one is given.

    `model.digest` of the configuration is the configured model's alone.
    """
    model = configured.model
    if model_ref != model.ref:
        model = evolve(model, ref=Text(model_ref), digest=None)
    return evolve(pool, model=model if digest is None else evolve(model, digest=Text(digest)))


def in_force(pool: Pool, path: Path) -> Pool:
    """Return the configured pool with the model that it was reloaded with, if that still holds."""
    lost = "the model of the configuration is served"
    said = state.read(path, Reloaded, MAX_BYTES, "reload_forgotten", lost)
    if said is None:
        return pool
    if said.configured != pool.model.ref:
        forget(path)
        return pool
    log.event(
        "reload_remembered",
        f"Serving {said.model_ref}, which a reload chose, and not {pool.model.ref} of the "
        "configuration. Reload it with that, or write the model into the configuration.",
        pool_id=pool.id,
    )
    return with_model(pool, said.model_ref, said.digest, pool)


def remember(path: Path, configured: Pool, model: Model) -> None:
    """Write the file. When that fails the reload stands all the same."""
    if model.ref == configured.model.ref:
        forget(path)
        return
    said = Reloaded(configured=configured.model.ref, model_ref=model.ref, digest=model.digest)
    lost = "after a restart of this poolmgr the model of the configuration is served"
    state.keep(path, said, "reload_not_kept", lost)


def forget(path: Path) -> None:
    """Let the configuration hold again."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
