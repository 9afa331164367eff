"""The three gates to Ready, from what happened and where [ORCH-3421, ORCH-3821]. Pure.

Model staged and verified, engine ensured, health and self-test passed: each stands in pool health.
"""

from __future__ import annotations

from typing import Final

from attrs import evolve

from orchd.wire.errors import Kind
from orchd.wire.snapshot import Gate, Gates, Phase
from poolmgr.core import lifewords as w

OF_MODEL: Final = frozenset({Kind.MODEL_MISSING, Kind.DIGEST_MISMATCH})
"""What keeps a replica from its model; else it is the engine that is wrong or has no room."""
_WITHOUT_HEALTH: Final = frozenset({Phase.LOADING, Phase.REPLACING, Phase.RESTORING})


def after(gates: Gates, event: w.Event, before: Phase, phase: Phase) -> Gates:
    """Return where the gates stand once `event` has led from `before` to `phase`."""
    if isinstance(event, w.Provisioned):
        return evolve(gates, model=Gate.PASSED, engine=Gate.PASSED)
    if isinstance(event, w.SelfTestPassed | w.NewPassed):
        return evolve(gates, health=Gate.PASSED)
    if phase is Phase.FAILED and before is not phase:
        return _failed(gates, event, before)
    if phase in _WITHOUT_HEALTH and before is not phase:
        return evolve(gates, health=Gate.PENDING)
    return gates


def _failed(gates: Gates, event: w.Event, before: Phase) -> Gates:
    if before is Phase.DEVICES:
        return gates
    if before is Phase.PROVISIONING:
        kind = event.error.kind if isinstance(event, w.Broke) else None
        if kind in OF_MODEL:
            return evolve(gates, model=Gate.FAILED)
        return evolve(gates, model=Gate.PASSED, engine=Gate.FAILED)
    return evolve(gates, health=Gate.FAILED)
