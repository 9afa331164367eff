"""The proxy that tools go through, in the variables that they read: libcurl's, which git and podman
share.

What the environment of orchctl says of proxies is never handed on (tool.py). Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

_HERE: Final = "localhost,127.0.0.1,::1"
"""Asked without it: the proxy's own machine is another."""


def through(proxy: str | None) -> dict[str, str]:
    """Return the variables for `policy.outbound.proxy`; None: straight to the host."""
    if proxy is None:
        return {}
    return {"https_proxy": proxy, "HTTPS_PROXY": proxy, "no_proxy": _HERE, "NO_PROXY": _HERE}


NOWHERE: Final[Mapping[str, str]] = MappingProxyType(
    dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), "http://127.0.0.1:9")
)
"""For what has no business elsewhere, such as a compiler: nobody answers on the port of discard
(RFC 863), so a download of its own fails at once, and says so."""
