"""Where every request to an engine on another machine passes, before a byte of it leaves.

The one place for rules about what may leave this machine: whoever makes them puts them into the
gate, and raises OrchError there. It names each request in the log, its URL redacted; never what is
in it. An engine on this machine passes no gate: nothing leaves.
"""

from __future__ import annotations

from orchd.kit import log
from orchd.kit.client import Gate, Target
from orchd.kit.redact import redact


def gate_of(target: Target) -> Gate | None:
    """Return what requests to this engine have to pass; None: they stay on this machine."""
    return None if target.local else _pass


def _pass(target: Target, method: str, path: str) -> None:
    url = redact(f"{target}{path}")
    log.event("outbound_request", f"{method} {url} leaves this machine.", method=method, url=url)
