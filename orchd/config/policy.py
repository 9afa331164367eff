"""What can be configured of requests that leave this machine, and of plugins that decide.

What the keys mean for one request is orchd/policy's.
"""

from __future__ import annotations

from attrs import frozen

from orchd.wire.ids import Positive, Text
from orchd.wire.policy import OnError, What


@frozen(kw_only=True)
class Outbound:
    """Requests to other machines. Without a key only those leave that a pool's model.ref names."""

    enabled: bool = True
    """The off switch: false, and nothing leaves, whatever else is said."""
    allow: tuple[Text, ...] = ()
    """Further hosts: where downloads are redirected to, or where reloads take models from. A host,
    *.domain or host:port."""
    deny: tuple[Text, ...] = ()
    """Hosts that nothing goes to, whatever else is said; without a port: on any."""
    proxy: Text | None = None
    """http://host:port of an HTTP proxy that fetches, git and podman go through; it is not asked
    about itself."""
    max_mb: Positive | None = None
    """MiB that one file may have; a larger one is not fetched."""
    requests_per_min: Positive | None = None
    """Requests a minute of one program; what comes above it waits. At most 100000."""


@frozen(kw_only=True)
class Plugin:
    """A WebAssembly module that decides beside the rules."""

    name: Text
    """For journal and metrics: lower case, digits and dashes, at most 32."""
    path: Text
    """The .wasm file, beginning with /; orchd and the pools must be able to read it."""
    sha256: Text
    """64 hex digits that the file has to have."""
    decides: tuple[What, ...] = (What.OUTBOUND,)
    args: tuple[Text, ...] = ()
    """Words that it is given with every question, such as suffix=.hf.co."""
    fuel: Positive = Positive(1_000_000)
    """About as many wasm instructions may one decision take. At most 100000000."""
    memory_mb: Positive = Positive(4)
    """MiB of its memory. At most 64."""
    deadline_ms: Positive = Positive(100)
    """Of one decision. At most 1000."""
    on_error: OnError = OnError.DENY
    """What holds when it traps, passes a bound or answers what is no decision."""


@frozen(kw_only=True)
class Fetch:
    """Fetches for clients: POST /v1/fetch."""

    enabled: bool = False
    """Whether there are any."""
    allow: tuple[Text, ...] = ()
    """Hosts that clients may have fetched: as in policy.outbound.allow, which does not count."""
    private: tuple[Text, ...] = ()
    """Networks that are not of the internet and may be asked all the same: 192.168.1.0/24."""
    max_kb: Positive = Positive(1024)
    """KiB of an answer's body. At most 16384."""
    requests_per_min: Positive = Positive(30)
    """Of one identity, and as many at once. At most 100000."""
    timeout_ms: Positive = Positive(10_000)
    """Of one fetch with all its redirects. At most 60000."""


@frozen(kw_only=True)
class Policy:
    """What may leave this machine, and who decides beside the rules."""

    outbound: Outbound = Outbound()
    plugins: tuple[Plugin, ...] = ()
    fetch: Fetch = Fetch()
