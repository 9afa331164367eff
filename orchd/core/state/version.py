"""The version of the topology: a number that grows with every change that placement could see.

It is not left to whoever changes something to remember it: the fields of pool.Replica bump it when
they are set, and the methods that give and take slots do [ORCH-3410].
"""

from __future__ import annotations

from typing import Any

from attrs import Attribute, define


@define(eq=False)
class Version:
    """One for all pools of a world."""

    number: int = 0
    """Grows, never falls: also `snapshot_version` of a DecisionLog."""

    def bump(self) -> None:
        """Something changed: decisions of before say nothing of now."""
        self.number += 1


def bump(changed: Any, field: Attribute[Any], value: Any) -> Any:
    """Be the `on_setattr` of a class with a `version`: a new value is a new version."""
    if getattr(changed, field.name) != value:
        changed.version.bump()
    return value
