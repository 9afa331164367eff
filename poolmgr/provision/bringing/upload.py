"""What the tools said, as an artifact of orchd's, where orchd answers [ORCH-3207].

The log's file stays the one that counts: without orchd nothing is missed and nothing waits.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import trio

from orchd.config.schema import Settings
from orchd.kit import log
from orchd.kit.client import Client, PeerError, Target
from orchd.wire import codec
from orchd.wire.artifacts import ArtifactKind, ArtifactStored, ArtifactUpload
from orchd.wire.ids import Tag, Text

MAX_BYTES: Final = 1 << 20
"""Of the log's end: an artifact has at most 4 MiB, and JSON escapes make it longer."""
DEADLINE_S: Final = 2.5


async def upload(settings: Settings, pool_id: str, entry_id: str, path: Path) -> str | None:
    """Return the artifact's id; None: orchd did not take it, which the journal says."""
    if not _there(settings.front_socket):
        return None
    token = settings.auth_token
    client = Client(
        Target.unix(settings.front_socket), token=token.reveal() if token is not None else None
    )
    body = ArtifactUpload(
        kind=ArtifactKind.TRACE,
        content=await trio.to_thread.run_sync(_end, path),
        tags=(Tag("provision"), Tag(f"pool:{pool_id}")),
        metadata={Tag("engine_catalog_id"): Text(entry_id), Tag("file"): Text(str(path))},
    )
    try:
        answer = await client.request(
            "POST",
            "/v1/artifacts",
            codec.dumps(body),
            headers={"content-type": "application/json"},
            deadline_s=DEADLINE_S,
        )
        if answer.status == 201:
            stored = codec.loads_known(ArtifactStored, answer.body)
            log.event("provision_log_stored", f"The log is artifact {stored.id}.", pool_id=pool_id)
            return stored.id
        why = f"orchd answered {answer.status}"
    except (PeerError, codec.ShapeError) as exc:
        why = str(exc) or "orchd did not answer"
    finally:
        client.close()
    human = f"The log is {path}, and no artifact: {why}."
    log.event("provision_log_kept", human, level="warning", pool_id=pool_id)
    return None


def _there(socket: Path) -> bool:
    try:
        return socket.exists()
    except PermissionError:  # a folder on the way is closed to us
        return False


def _end(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - MAX_BYTES))
        return file.read(MAX_BYTES).decode("utf-8", "replace")
