"""A configuration that was read again: what of it takes effect now, and what at the next start.

A pure comparison. Who reads is daemon.py, who puts it into effect App.
"""

from __future__ import annotations

import attrs
from attrs import frozen

from orchd.config.pool import Pool
from orchd.config.schema import Settings
from orchd.config.serving import Sse

_NOW = ("cancel_on_disconnect",)
_NOW_SSE = ("heartbeat_ms", "metrics_period_ms", "narration_period_ms")


@frozen
class Change:
    """What a second reading leads to."""

    settings: Settings
    """In force from now on: the old ones with what can change while streams run."""
    added: tuple[Pool, ...]
    """Pools that are new."""
    now: tuple[str, ...]
    """What has changed, in words for the operator."""
    later: tuple[str, ...]
    """What the file says and only a start puts into effect."""


def compare(old: Settings, new: Settings) -> Change:
    """Return what becomes of `new` in a daemon that runs with `old`."""
    known = {pool.id: pool for pool in old.pools}
    added = tuple(pool for pool in new.pools if pool.id not in known)
    sse = attrs.evolve(old.sse, **{name: getattr(new.sse, name) for name in _NOW_SSE})
    settings = attrs.evolve(
        old,
        pools=(*old.pools, *added),
        sse=sse,
        **{name: getattr(new, name) for name in _NOW},
    )
    now = [name for name in _NOW if getattr(old, name) != getattr(new, name)]
    now += [f"sse.{name}" for name in _NOW_SSE if getattr(old.sse, name) != getattr(new.sse, name)]
    now += [f"new pool {pool.id}" for pool in added]
    later = [
        each.name
        for each in attrs.fields(Settings)
        if each.name not in (*_NOW, "sse", "pools", "auth_token")
        and getattr(old, each.name) != getattr(new, each.name)
    ]
    # a secret compares by what it hides, which no log is told
    token, other = (each.auth_token and each.auth_token.reveal() for each in (old, new))
    later += ["auth_token"] if token != other else []
    later += [
        f"sse.{each.name}"
        for each in attrs.fields(Sse)
        if each.name not in _NOW_SSE and getattr(old.sse, each.name) != getattr(new.sse, each.name)
    ]
    there = {pool.id: pool for pool in new.pools}
    later += [f"pool {name}" for name in known if name in there and there[name] != known[name]]
    later += [f"pool {name}, which is gone" for name in known if name not in there]
    return Change(settings, added, tuple(now), tuple(later))
