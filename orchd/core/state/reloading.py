"""The reload that a pool is in: how far it is, who is asked, who has the new model.

Data only; the steps are reload.py's.
"""

from __future__ import annotations

import enum

from attrs import define, field, frozen

from orchd.wire.ids import ReplicaId
from orchd.wire.snapshot import Cause


class Stage(enum.StrEnum):
    """How far a set's reload is."""

    TRYING = "trying"
    FOLLOWING = "following"
    BACK = "back"


@frozen
class Asked:
    """What a replica was asked for, and what it was before: an older answer is not this one's."""

    model_ref: str
    instance: str | None
    number: int


@define(kw_only=True)
class SetReload:
    """The reload that a pool is in."""

    target: str
    back_to: str
    digest: str | None = None
    """That `target` must have, where somebody said it."""
    back_digest: str | None = None
    """The same of `back_to`, from the reload that brought it."""
    stage: Stage = Stage.TRYING
    to_follow: tuple[ReplicaId, ...]
    asked: dict[ReplicaId, Asked] = field(factory=dict)
    """Those that are at it."""
    changed: set[ReplicaId] = field(factory=set)
    """Those that have the new model."""
    cause: Cause | None = None
    """Why it failed."""
