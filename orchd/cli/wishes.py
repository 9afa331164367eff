"""Options of `run` and `explain` that become the task's `placement`."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from orchd.wire.ids import DeviceMask, PoolId
from orchd.wire.shapes import Placement, PlacementMode


def options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --pin, --prefer, --avoid, --no-fallback and --mask; pass them on as `placement`."""

    @click.option("--pin", metavar="POOL", help="Run in this pool only.")
    @click.option("--prefer", multiple=True, metavar="POOL", help="Rather here; may be repeated.")
    @click.option("--avoid", multiple=True, metavar="POOL", help="Never here; may be repeated.")
    @click.option("--no-fallback", is_flag=True, help="With --prefer: and nowhere else.")
    @click.option("--mask", metavar="MASK", help="Only on these GPUs: 0, or 0_1 for two.")
    @wraps(command)
    def with_placement(
        *arguments: Any,
        pin: str | None,
        prefer: tuple[str, ...],
        avoid: tuple[str, ...],
        no_fallback: bool,
        mask: str | None,
        **more: Any,
    ) -> Any:
        placement = _placement(pin, prefer, avoid, no_fallback, mask)
        return command(*arguments, placement=placement, **more)

    return with_placement


def _placement(
    pin: str | None,
    prefer: tuple[str, ...],
    avoid: tuple[str, ...],
    no_fallback: bool,
    mask: str | None,
) -> Placement | None:
    """Return what the options wish; None for nothing. Raises click.UsageError."""
    if pin is not None and prefer:
        raise click.UsageError("--pin and --prefer exclude each other")
    mode = PlacementMode.AUTO
    if pin is not None or prefer:
        mode = PlacementMode.PIN if pin is not None else PlacementMode.PREFER
    made = Placement(
        mode=mode,
        pin_pool_id=None if pin is None else PoolId(pin),
        prefer_pools=tuple(map(PoolId, prefer)),
        avoid_pools=tuple(map(PoolId, avoid)),
        require_device_mask=None if mask is None else _mask(mask),
        allow_fallback=not no_fallback,
    )
    return None if made == Placement() else made


def _mask(text: str) -> DeviceMask:
    try:
        return DeviceMask.parse(text.replace(",", "_"))
    except ValueError as exc:
        raise click.BadParameter(str(exc), param_hint="--mask") from None
