"""A client's `placement`: whether it makes sense here [ORCH-3903]. What it means is placement.py's.

What contradicts itself, or names what is not configured, is refused before anything is decided.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Final

from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import DeviceMask, PoolId
from orchd.wire.shapes import Placement, PlacementMode, TaskRequest

AUTOMATIC: Final = Placement()
"""What a task without `placement` wishes [ORCH-3908]."""


def of(request: TaskRequest) -> Placement:
    """Return the wishes of a task."""
    return request.placement or AUTOMATIC


def mask_of(request: TaskRequest) -> DeviceMask | None:
    """Return the mask that a task requires, or None."""
    return request.placement.require_device_mask if request.placement else None


def wants(placement: Placement, pool_id: PoolId) -> bool:
    """Return whether a task with these wishes may run in a pool at all."""
    if pool_id in placement.avoid_pools:
        return False
    if placement.mode is PlacementMode.PIN:
        return pool_id == placement.pin_pool_id
    only = placement.mode is PlacementMode.PREFER and not placement.allow_fallback
    return not only or pool_id in placement.prefer_pools


def check(placement: Placement, known: Container[PoolId], named: str) -> None:
    """Raise OrchError(INVALID_PARAMS) that names the field. `named` lists the pools there are.

    A pool to avoid need not be known: it is avoided.
    """
    pin, mode = placement.pin_pool_id, placement.mode
    if mode is PlacementMode.PIN and pin is None:
        raise _invalid("pin_pool_id", "is required with mode pin")
    if mode is not PlacementMode.PIN and pin is not None:
        raise _invalid("pin_pool_id", f"goes with mode pin, not with {mode}")
    if mode is PlacementMode.PREFER and not placement.prefer_pools:
        raise _invalid("prefer_pools", "must name a pool with mode prefer")
    if mode is not PlacementMode.PREFER and placement.prefer_pools:
        raise _invalid("prefer_pools", f"goes with mode prefer, not with {mode}")
    if pin is not None and pin not in known:
        raise _invalid("pin_pool_id", f"there is no pool {pin} (known: {named})")
    for at, pool_id in enumerate(placement.prefer_pools):
        if pool_id not in known:
            raise _invalid(f"prefer_pools[{at}]", f"there is no pool {pool_id} (known: {named})")
    if pin is not None and pin in placement.avoid_pools:
        raise _invalid("avoid_pools", f"names {pin}, which pin_pool_id names too")


def _invalid(name: str, message: str) -> OrchError:
    path = f"$.placement.{name}"
    return OrchError(Kind.INVALID_PARAMS, f"{path}: {message}", path=path)
