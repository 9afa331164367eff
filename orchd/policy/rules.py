"""May this request leave the machine? A pure decision over the rules of the configuration.

Requests of our own HTTP client and of external tools (git, podman, pacman) are asked about in the
same words. The door that asks is hook.py; what the keys mean is specs/18-policy.md.
"""

from __future__ import annotations

from typing import Final

from attrs import frozen

from orchd.wire.address import Address, covers, matches

KEY: Final = "policy.outbound"
WINDOW_S: Final = 60.0
"""What `requests_per_min` counts in."""


@frozen(kw_only=True)
class Named:
    """A host that the operator has named beside the rules: by a pool's model, by a command."""

    pattern: str
    by: str
    """What named it, for the log: `pools[0].model.ref`."""


@frozen(kw_only=True)
class Rules:
    """What may leave."""

    enabled: bool = True
    """The off switch: false, and nothing leaves, whatever else says."""
    allow: tuple[str, ...] = ()
    allow_key: str = f"{KEY}.allow"
    """What `allow` is called in the configuration."""
    deny: tuple[str, ...] = ()
    """Goes before `allow` and `named`."""
    named: tuple[Named, ...] = ()
    max_bytes: int | None = None
    """Of one answer's whole content, as far as it is known before; None: no bound."""
    per_minute: int | None = None
    """Requests; None: no bound."""


@frozen(kw_only=True)
class Request:
    """One request, before it leaves."""

    address: Address | None
    """None: a tool that chooses its hosts itself, such as pacman."""
    via: str = "http"
    """Who would send it: `http` is our client, else the tool's name."""
    size_bytes: int | None = None
    """How much it would fetch; None: not known."""
    recent: int = 0
    """Requests that left in the last WINDOW_S."""
    identity: str = ""
    """The client on whose behalf, if any; the rules are the same for all."""


@frozen
class Allowed:
    """It may leave; `rule` is what allows it."""

    rule: str


@frozen
class Denied:
    """It may not; `rule` is what forbids it, `reason` says why and which key would change that."""

    rule: str
    reason: str
    wait: bool = False
    """It may later, as it is."""


Verdict = Allowed | Denied


def decide(request: Request, rules: Rules) -> Verdict:
    """Return whether a request may leave. What forbids goes before what allows."""
    if not rules.enabled:
        return Denied(f"{KEY}.enabled", f"nothing may leave this machine: {KEY}.enabled is false")
    forbidden = _forbidden(request, rules)
    if forbidden is not None:
        return forbidden
    verdict = _allowed(request, rules)
    if (
        isinstance(verdict, Allowed)
        and rules.per_minute is not None
        and request.recent >= rules.per_minute
    ):
        why = f"{request.recent} requests left in the last minute: {KEY}.requests_per_min"
        return Denied(f"{KEY}.requests_per_min", why, wait=True)
    return verdict


def _forbidden(request: Request, rules: Rules) -> Denied | None:
    address = request.address
    if address is not None:
        if address.scheme != "https" and not address.loopback:
            why = f"{address.origin} is not encrypted: only https leaves this machine"
            return Denied("scheme", why)
        for pattern in rules.deny:
            if covers(pattern, address):
                why = f"{address.origin} is denied by {pattern!r} in {KEY}.deny"
                return Denied(f"{KEY}.deny: {pattern}", why)
    if (
        rules.max_bytes is not None
        and request.size_bytes is not None
        and request.size_bytes > rules.max_bytes
    ):
        why = (
            f"{request.size_bytes} bytes are more than {KEY}.max_mb allows "
            f"({rules.max_bytes >> 20} MiB)"
        )
        return Denied(f"{KEY}.max_mb", why)
    return None


def _allowed(request: Request, rules: Rules) -> Verdict:
    address = request.address
    if address is None:
        return Allowed(
            "the operator's own key"
        )  # such as allow_package_installs: whoever asks checks
    for pattern in rules.allow:
        if matches(pattern, address):
            return Allowed(f"{rules.allow_key}: {pattern}")
    for named in rules.named:
        if matches(named.pattern, address):
            return Allowed(named.by)
    host = address.origin.partition("://")[2]
    why = (
        f"{address.origin} is named neither by the configuration nor in {rules.allow_key} "
        f"(add {host!r})"
    )
    return Denied(rules.allow_key, why)
