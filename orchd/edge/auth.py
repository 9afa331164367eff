"""Who asks, and whether they may: the bearer token, loopback and the unix socket, in one place.

AUTH-1001..1008. There are no roles: who may ask may ask everything.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
from functools import lru_cache

from attrs import frozen

from orchd.kit.http import Peer, Request
from orchd.wire.errors import Kind, OrchError

OPEN_PATHS = frozenset({"/health", "/healthz", "/readyz"})
"""What a supervisor may ask without a token: no answer there holds a user's data."""


FORWARDED_USER = "x-forwarded-user"
"""The header in which a proxy names the user whom it let in (oauth2-proxy, traefik, nginx)."""
_USER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")


@frozen
class Guard:
    """The rule of one daemon: with a token everybody presents it, but for `auth_optional` those
    that come over loopback or the unix socket. Without one, only those are served [AUTH-1002]."""

    token: str | None
    auth_optional: bool
    trust_proxy: bool = False
    """Callers on this machine that carry FORWARDED_USER are the proxy's users [AUTH-1006]."""
    origins: frozenset[str] = frozenset()
    """Web pages that may ask without a token, like the programs of this machine (cors.py)."""

    def identity(self, request: Request) -> str:
        """Return who asks: `localhost`, `uid:N`, `proxy:USER` or `token:<fp6>`.

        Raises OrchError 401 or 403.
        """
        offered = _bearer(request.headers.get("authorization"))
        if self.token is not None and offered is not None:
            if not hmac.compare_digest(offered.encode(), self.token.encode()):
                raise OrchError(Kind.BAD_TOKEN, "the bearer token is not the configured one")
            return f"token:{fingerprint(offered)}"
        here = _on_this_machine(request.peer)
        if self.trust_proxy and here is not None:
            user = request.headers.get(FORWARDED_USER)
            if user is not None:
                if not _USER.fullmatch(user):
                    raise OrchError(Kind.BAD_TOKEN, f"{FORWARDED_USER} holds no user's name")
                return f"proxy:{user}"
        if here is not None and (self.token is None or self.auth_optional):
            if here == "localhost" and request.path not in OPEN_PATHS:
                self._no_strange_page(request)
            return here
        if self.token is None:
            raise OrchError(
                Kind.NON_LOOPBACK_WITHOUT_TOKEN,
                "no token is configured, so only loopback is served",
            )
        if request.path in OPEN_PATHS:
            return "anonymous"
        raise OrchError(Kind.MISSING_TOKEN, "a bearer token is needed")

    def _no_strange_page(self, request: Request) -> None:
        """Refuse a web page that a browser of this machine shows: loopback proves nothing of it.

        A page says its origin with all that changes something. One whose own name was made to
        point here (DNS rebinding) need not, but then the Host is that name. Raises OrchError.
        """
        origin = request.headers.get("origin")
        if origin is not None and origin not in self.origins:
            raise OrchError(
                Kind.NON_LOOPBACK_WITHOUT_TOKEN,
                f"the page {origin[:80]!r} may not ask without the token; cors_origins names those "
                "that may",
            )
        host = request.headers.get("host", "")
        if not _is_of_here(host):
            raise OrchError(
                Kind.NON_LOOPBACK_WITHOUT_TOKEN,
                f"the Host {host[:80]!r} is not this machine's; say localhost or its address",
            )

    def registration(self, request: Request) -> None:
        """Check a worker that may ask: it must carry the token also where others need not
        [AUTH-1003]."""
        offered = _bearer(request.headers.get("authorization"))
        if self.token is not None and offered is None:
            raise OrchError(Kind.MISSING_TOKEN, "a worker registers with the configured token")


def fingerprint(token: str) -> str:
    """Return the six hex digits under which a token may be logged [AUTH-1008]."""
    return hashlib.sha256(token.encode()).hexdigest()[:6]


def _bearer(header: str | None) -> str | None:
    scheme, _, token = (header or "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token.strip() else None


def _on_this_machine(peer: Peer) -> str | None:
    """Return who a caller is that comes over loopback or a unix socket, whose mode let it in."""
    if peer.kind == "unix":
        return f"uid:{peer.uid}"
    return "localhost" if _is_loopback(peer.address.rpartition(":")[0]) else None


@lru_cache(1024)  # the same few callers come again and again
def _is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


@lru_cache(1024)
def _is_of_here(host: str) -> bool:
    """Return whether a Host is an address, localhost, or a name without a dot: nobody's domain."""
    name = host.rpartition(":")[0] if re.search(r":\d*$", host) else host
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        name = name.lower().rstrip(".")
        return "." not in name or name.endswith(".localhost")
    return True
