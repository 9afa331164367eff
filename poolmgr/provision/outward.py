"""An engine on another machine: whether the pool may speak to it at all.

Asked when the pool prepares, before anything leaves. Its requests afterwards are the engine's
client's, on a host that was permitted here.
"""

from __future__ import annotations

from orchd.config.pool import Pool
from orchd.config.schema import Settings
from orchd.kit.client import Target
from orchd.policy import gate
from orchd.policy.configured import rules
from orchd.policy.hook import Outbound
from orchd.policy.rules import Named
from orchd.wire import address


def permit_engine(settings: Settings, pool: Pool, target: Target) -> None:
    """Return if jobs may go there.

    Raises OrchError: OUTBOUND_DENIED, which names the key; CONFIG_INVALID for an unusable plugin.


    What is on this machine leaves nothing and is not asked about.
    """
    if target.local:
        return
    where = address.parse(str(target))
    named = Named(
        pattern=where.origin.partition("://")[2], by=f"provisioning.url of pool {pool.id}"
    )
    door = Outbound(
        rules(settings.policy.outbound, [named]),
        f"engine of pool {pool.id}",
        gate=gate.load(settings.policy.plugins),
    )
    door.permit(where, via="engine")
