"""Carries out what core asks of poolmgrs: drains and reloads, as requests to their sockets.

What a drain or a reload means, and what follows from an answer, is core's (drain.py, reload.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from orchd.config.schema import Settings
from orchd.core.effects import AskDrain, AskReload
from orchd.core.events import Event, ReloadRefused
from orchd.kit import log
from orchd.kit.client import Client, PeerError, Target
from orchd.wire import codec
from orchd.wire.control import DrainRequest, ReloadRequest
from orchd.wire.errors import Envelope, Kind, OrchError
from orchd.wire.ids import Digest, Positive, ReplicaId, Text

ASK_S: Final = 5.0
"""For a poolmgr to say that it begins; the work itself comes after its answer."""
PENDING_MAX: Final = 4096
"""Asks that may wait: one for each replica that there can be, and more; they are taken at once."""


class Control:
    """Asks poolmgrs. `report` takes what happened to core."""

    def __init__(self, settings: Settings, report: Callable[[Event], object]) -> None:
        self._settings = settings
        self._report = report
        self._send, self._asked = trio.open_memory_channel[AskDrain | AskReload](PENDING_MAX)

    def ask(self, effect: AskDrain | AskReload) -> None:
        """Ask a poolmgr, soon: `run` does it."""
        self._send.send_nowait(effect)

    async def run(self) -> None:
        """Ask until cancelled; each poolmgr for itself, so that a slow one delays no other."""
        async with trio.open_nursery() as nursery:
            async for effect in self._asked:
                nursery.start_soon(self._do, effect)

    async def _do(self, effect: AskDrain | AskReload) -> None:
        if isinstance(effect, AskDrain):
            body = codec.dumps(DrainRequest(deadline_ms=Positive(effect.deadline_ms)))
            refused = await self._post(effect.replica_id, "/drain", body)
            if refused is not None:
                log.event(
                    "drain_refused",
                    f"{effect.replica_id} does not drain: {refused.message}.",
                    level="warning",
                    replica_id=effect.replica_id,
                    reason=refused.kind,
                )
            return
        digest = None if effect.digest is None else Digest(effect.digest)
        wanted = ReloadRequest(new_model_ref=Text(effect.model_ref), digest=digest)
        body = codec.dumps(wanted)
        refused = await self._post(effect.replica_id, "/reload", body)
        if refused is not None:
            self._report(ReloadRefused(effect.replica_id, refused))

    async def _post(self, replica_id: ReplicaId, path: str, body: bytes) -> OrchError | None:
        """Return why the poolmgr did not take it; None when it did."""
        client = Client(Target.unix(self._settings.pool_socket(replica_id)))
        headers = {"content-type": "application/json"}
        try:
            answer = await client.request("POST", path, body, headers=headers, deadline_s=ASK_S)
        except PeerError as exc:
            return OrchError(Kind.POOL_UNREADY, f"its poolmgr {exc.why}")
        finally:
            client.close()
        if answer.status == 202:
            return None
        try:
            said = codec.loads(Envelope, answer.body).message
        except codec.ShapeError:
            said = f"its poolmgr answers {answer.status}"
        return OrchError(Kind.POOL_UNREADY, said)
