"""Whether systemd still tries to start a pool: asked over D-Bus while the pool is out of reach.

systemd's circuit breaker (StartLimitBurst=) leaves a unit `failed` when it has given up; nothing
starts it then but an operator. What health makes of it is core's.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import trio
from attrs import define
from jeepney import DBusAddress, Message, Properties, new_method_call
from jeepney.auth import AuthenticationError
from jeepney.io.trio import DBusRouter, open_dbus_router
from jeepney.wrappers import DBusErrorResponse, unwrap_msg

from orchd.kit.redact import redact_short
from orchd.wire.errors import Kind
from orchd.wire.ids import ReplicaId, parse_replica_id
from orchd.wire.snapshot import Cause

ASK_S: Final = 5.0
"""So often at most: a unit rests for hours, and who resets it also starts it."""
ANSWER_S: Final = 2.0
_MANAGER: Final = DBusAddress(
    "/org/freedesktop/systemd1",
    bus_name="org.freedesktop.systemd1",
    interface="org.freedesktop.systemd1.Manager",
)
_UNIT: Final = "org.freedesktop.systemd1.Unit"
_SERVICE: Final = "org.freedesktop.systemd1.Service"
_NO_ANSWER: Final = (
    OSError, ValueError, trio.TooSlowError, trio.BrokenResourceError, trio.EndOfChannel,
    AuthenticationError, DBusErrorResponse,
)  # fmt: skip


@define
class Units:
    """The units of pools, as far as systemd tells. `bus` is SYSTEM, or SESSION for a user's."""

    bus: str

    async def given_up(self, replica_id: ReplicaId) -> Cause | None:
        """Return why systemd has given up on a replica; None: it has not, or cannot be asked."""
        found: Cause | None = None
        try:
            with trio.fail_after(ANSWER_S):
                async with open_dbus_router(self.bus) as router:
                    found = await _given_up(router, replica_id)
        except* _NO_ANSWER:  # no bus, or systemd knows no such unit
            pass
        return found


async def _given_up(router: DBusRouter, replica_id: ReplicaId) -> Cause | None:
    name = f"poolmgr@{replica_id}.service"
    (path,) = await _call(router, new_method_call(_MANAGER, "GetUnit", "s", (name,)))
    unit = await _all(router, path, _UNIT)
    if unit.get("ActiveState") != "failed":
        return None
    service = await _all(router, path, _SERVICE)
    said = redact_short(str(service.get("StatusText") or "")) or "nothing"
    pool_id, _ = parse_replica_id(replica_id)
    # the last of these restarts is the one that was refused (seen with 257 and 262)
    starts = max(1, int(service.get("NRestarts") or 0))
    return Cause(
        kind=Kind.BREAKER_OPEN,
        message=f"systemd does not start {replica_id} any more, after {starts} tries; its last "
        f"status: {said.rstrip('.')}",
        advice=f"Mend the cause, then orchctl pools reset {pool_id}.",
    )


async def _all(router: DBusRouter, path: str, interface: str) -> Mapping[str, Any]:
    where = DBusAddress(path, bus_name="org.freedesktop.systemd1", interface=interface)
    (values,) = await _call(router, Properties(where).get_all())
    return {name: value for name, (_, value) in values.items()}


async def _call(router: DBusRouter, message: Message) -> tuple[Any, ...]:
    body = unwrap_msg(await router.send_and_get_reply(message))
    assert isinstance(body, tuple)
    return body


def units(run_dir: Path, environ: Mapping[str, str] = os.environ) -> Units | None:
    """Return whom to ask; None where this process is no unit of systemd's (`orchctl up`)."""
    if "INVOCATION_ID" not in environ:
        return None
    return Units("SYSTEM" if run_dir == Path("/run") else "SESSION")
