"""Where an outbound request goes: a URL taken apart, and the patterns that rules name hosts by.

What is allowed is orchd/policy's.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final
from urllib.parse import quote, urljoin, urlsplit

from attrs import frozen

PORTS: Final = {"https": 443, "http": 80}
_PATTERN: Final = re.compile(
    r"(?P<host>\*|(?:\*\.)?[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?|\[[0-9a-f:.]+\])(?::(?P<port>\d{1,5}))?"
)
FORM: Final = "host, *.domain or host:port, in lower case, such as huggingface.co or *.hf.co"
_SAFE: Final = "/:@!$&'()*+,;=-._~%?[]"


@frozen
class Address:
    """A URL, as far as a request needs it. `host`: lower case, no brackets, no dot at the end."""

    scheme: str
    host: str
    port: int
    target: str
    """Path and query, as the request line has them."""

    @property
    def origin(self) -> str:
        """`https://host:port`: to whom a secret may be sent again."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        usual = PORTS.get(self.scheme) == self.port
        return f"{self.scheme}://{host}" + ("" if usual else f":{self.port}")

    @property
    def shown(self) -> str:
        """The URL as a log may have it: what signs a URL is in its query, which is left out."""
        return self.origin + self.target.partition("?")[0]

    @property
    def loopback(self) -> bool:
        """Whether the host is this machine, by a name or number that nobody can turn elsewhere."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def joined(self, location: str) -> Address:
        """Return where a Location header of this URL's answer leads. Raises ValueError."""
        return parse(urljoin(self.origin + self.target, location))


def parse(url: str) -> Address:
    """Take a URL apart. Raises ValueError, which never shows a query."""
    try:
        parts = urlsplit(url)
        port = parts.port
        host = (parts.hostname or "").rstrip(".").lower()
        host = host if host.isascii() else host.encode("idna").decode("ascii")
    except (ValueError, UnicodeError):
        raise ValueError("it is no URL") from None
    if parts.scheme not in PORTS:
        raise ValueError(f"{parts.scheme or 'no scheme'}: is not spoken, only https: is")
    if not host or any(c.isspace() for c in host) or port == 0:
        raise ValueError("it names no host")
    if parts.username is not None or parts.password is not None:
        raise ValueError("it holds a user or a password")
    target = quote(parts.path or "/", safe=_SAFE)
    if parts.query:
        target += "?" + quote(parts.query, safe=_SAFE)
    return Address(parts.scheme, host, port or PORTS[parts.scheme], target)


def pattern_fault(pattern: str) -> str | None:
    """Return what is wrong with a host pattern of the configuration."""
    match = _PATTERN.fullmatch(pattern)
    if match is None or not 0 < int(match["port"] or 1) < 65536:
        return f"must be {FORM}, not {pattern!r}"
    return None


def matches(pattern: str, address: Address) -> bool:
    """Whether a pattern names the address. One without a port means the usual port of the scheme.

    `*.hf.co` is every name below hf.co, and not hf.co itself; `*` is every host.
    """
    match = _PATTERN.fullmatch(pattern)
    if match is None:
        return False
    port = int(match["port"]) if match["port"] else PORTS.get(address.scheme)
    if port != address.port:
        return False
    host = match["host"].strip("[]") if match["host"].startswith("[") else match["host"]
    if host == "*":
        return True
    if host.startswith("*."):
        return address.host.endswith(host[1:]) and len(address.host) > len(host) - 1
    return address.host == host


def covers(pattern: str, address: Address) -> bool:
    """As `matches`, but a pattern without a port means every port: for what is forbidden."""
    bare = pattern if _has_port(pattern) else f"{pattern}:{address.port}"
    return matches(bare, address)


def _has_port(pattern: str) -> bool:
    match = _PATTERN.fullmatch(pattern)
    return match is not None and match["port"] is not None
