"""Registration with orchd: this replica is Ready and asks for its link [AUTH-1003].

Repeated with a growing pause until it is taken, and again whenever no link has stood for a while:
then orchd is new, or has lost us.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import trio
from attrs import frozen

from orchd.kit import log
from orchd.kit.client import Answer, Client, PeerError
from orchd.wire import codec
from orchd.wire.control import WorkerRegistration
from orchd.wire.errors import TABLE, Envelope, Kind

PATH: Final = "/v1/workers/register"
RETRY_FIRST_S: Final = 0.2
RETRY_MAX_S: Final = 30.0
LINKLESS_S: Final = 5.0
"""How long Ready may last without a link before registering once more."""
DEADLINE_S: Final = 10.0


async def keep_registered(
    client: Client,
    registration: Callable[[], WorkerRegistration | None],
    ready: Callable[[], Awaitable[None]],
    linked: Callable[[], bool],
) -> None:
    """Register as long as there is something to register; for ever.

    `registration()` is None while the replica is not Ready, `ready()` waits for that; `linked()`
    says whether a link stands.
    """
    told = ""
    pause = RETRY_FIRST_S
    registered = False
    while True:
        body = registration()
        if body is None:
            registered, pause = False, RETRY_FIRST_S
            await ready()
            continue
        if not (registered and linked()):
            trouble = await _register(client, body)
            registered = trouble is None
            if trouble is None:
                pause = RETRY_FIRST_S
                if told != "registered":
                    log.event("registered", "Registered with orchd.", replica_id=body.replica_id)
                told = "registered"
            elif trouble.why != told:
                told = trouble.why
                log.event(
                    "registration_failed",
                    f"{trouble.why} It is asked again every {RETRY_MAX_S:.0f} s at the latest.",
                    level="info" if trouble.early else "warning",
                    replica_id=body.replica_id,
                    reason=trouble.why,
                )
        if registered:
            await trio.sleep(LINKLESS_S)
        else:
            await trio.sleep(pause)
            pause = min(pause * 2, RETRY_MAX_S)


@frozen
class _Trouble:
    """Why orchd did not take a registration: whole sentences."""

    why: str
    early: bool = False
    """Nothing is wrong: orchd will learn of this replica."""


async def _register(client: Client, body: WorkerRegistration) -> _Trouble | None:
    """Return None when orchd took it, else why not."""
    try:
        answer = await client.request(
            "POST",
            PATH,
            codec.dumps(body),
            headers={"content-type": "application/json"},
            deadline_s=DEADLINE_S,
        )
    except PeerError as exc:
        return _Trouble(f"orchd cannot be reached to register with: {exc}.")
    return None if answer.status == 200 else _refused(answer, body)


def _refused(answer: Answer, body: WorkerRegistration) -> _Trouble:
    try:
        told = codec.loads_known(Envelope, answer.body)
    except codec.ShapeError:
        return _Trouble(
            f"orchd does not take the registration: it answered {answer.status} without saying why."
        )
    if told.hint == TABLE[Kind.UNKNOWN_REPLICA].advice:
        return _Trouble(
            f"orchd has not been told of {body.replica_id} yet: systemctl reload orchd lets it "
            "read its configuration again.",
            early=True,
        )
    return _Trouble(
        f"orchd does not take the registration: {told.message}. {told.hint or ''}".rstrip()
    )
