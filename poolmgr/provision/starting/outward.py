"""An engine on another machine: whether the pool may speak to it, at first and at each request.

The rules, their audit and the plugins are orchd/policy's; here is what is asked of them.
"""

from __future__ import annotations

from orchd.config.pool import Pool
from orchd.config.schema import Settings
from orchd.kit.client import Gate, Target
from orchd.policy import gate
from orchd.policy.configured import rules
from orchd.policy.hook import Outbound
from orchd.policy.rules import Named
from orchd.wire import address


def gate_of(settings: Settings, pool: Pool, target: Target) -> Gate | None:
    """Return what each request to this engine has to pass; None: nothing leaves this machine.

    Asked once at once, so that a pool that may not speak to its engine says so when it prepares.
    Raises OrchError: OUTBOUND_DENIED, which names the key; CONFIG_INVALID for an unusable plugin.
    """
    if target.local:
        return None
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

    async def passes(target: Target, _method: str, path: str) -> None:
        await door.wait_permit(address.parse(f"{target}{path}"), via="engine")

    return passes
