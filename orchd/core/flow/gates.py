"""The gates that a task passes before pools are asked: orchd stops, its sender's throttle, its
model's state in the catalog [ORCH-3961].

One order for Submit, for explain and for the question who counts a prompt. Whether a pool takes the
task is admission.py's, whether its session does turns.py's.
"""

from __future__ import annotations

from orchd.core.flow import admission
from orchd.core.state import models
from orchd.core.state.world import World
from orchd.wire.shapes import TaskRequest


def passed(
    world: World, request: TaskRequest, identity: str, prompt_tokens: int | None, now: float
) -> TaskRequest:
    """Return the request as pools are asked: with the model_ref of a pool. Takes nothing.

    Raises OrchError: DRAINING; THROTTLED, or INVALID_PARAMS for what no bucket can hold;
    MODEL_DEPRECATED or UNTRUSTED_ARTIFACT.
    """
    if world.draining:
        raise admission.stopping(world)
    world.throttle.check(identity, request, prompt_tokens, now)
    return models.resolved(world, request, now)
