"""The rules of the configuration, and of what names hosts beside it."""

from __future__ import annotations

from collections.abc import Iterable

from orchd.config.policy import Outbound
from orchd.policy.rules import Named, Rules


def rules(outbound: Outbound, named: Iterable[Named] = ()) -> Rules:
    """Return the rules that `policy.outbound` and those names make together."""
    return Rules(
        enabled=outbound.enabled,
        allow=outbound.allow,
        deny=outbound.deny,
        named=tuple(named),
        max_bytes=None if outbound.max_mb is None else outbound.max_mb << 20,
        per_minute=outbound.requests_per_min,
    )
