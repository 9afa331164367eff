"""What can be configured of requests that leave this machine.

What the keys mean for one request is orchd/policy's.
"""

from __future__ import annotations

from attrs import frozen

from orchd.wire.ids import Positive, Text


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
    """http://host:port of an HTTP proxy that fetches go through; it is not asked about itself."""
    max_mb: Positive | None = None
    """MiB that one file may have; a larger one is not fetched."""
    requests_per_min: Positive | None = None
    """Requests a minute of one program; what comes above it waits. At most 100000."""


@frozen(kw_only=True)
class Policy:
    """What may leave this machine."""

    outbound: Outbound = Outbound()
