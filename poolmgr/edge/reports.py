"""Reports of self-tests: kept in the state folder, then sent to orchd as artifacts.

Best effort: nothing waits for it, least of all Ready. What a self-test found before orchd answered,
or in a life that ended badly, is sent by the next life. orchd keeps the last SENT_KEPT of a
replica; older ones are removed by the ids that it gave, and nothing else is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import trio
from attrs import evolve, frozen

from orchd.kit import log
from orchd.kit.client import Answer, Client, PeerError
from orchd.wire import codec
from orchd.wire.artifacts import ArtifactKind, ArtifactStored, ArtifactUpload
from orchd.wire.ids import Tag
from poolmgr.core.selftest import Report, tags
from poolmgr.provision import state

PATH: Final = "/v1/artifacts"
PENDING_KEPT: Final = 16
"""Reports that wait for orchd; with one more the oldest goes. A storm of restarts has as many."""
SENT_KEPT: Final = 16
MAX_BYTES: Final = 1 << 20
WRITE_S: Final = 2.0
"""For the file: a disk that hangs must not keep a pool from serving."""
DEADLINE_S: Final = 10.0
RETRY_FIRST_S: Final = 0.5
RETRY_MAX_S: Final = 60.0
_LATER: Final = frozenset({408, 425, 429, 500, 502, 503, 504})


@frozen(kw_only=True)
class Kept:
    """The file's content, the oldest first."""

    pending: tuple[Report, ...] = ()
    sent: tuple[str, ...] = ()
    """The artifacts' ids."""


class Reports:
    """The reports of one replica."""

    def __init__(self, path: Path, client: Client) -> None:
        self._path = path
        self._client = client
        self._kept = self._saved = _load(path)
        self._writing = trio.Lock()
        self._more = trio.Event()

    @property
    def pending(self) -> int:
        """How many orchd has not got yet."""
        return len(self._kept.pending)

    @property
    def saved(self) -> bool:
        """Whether the file has been written since the last change, or that was given up."""
        return self._kept is self._saved and not self._writing.locked()

    def take(self, report: Report) -> None:
        """Keep a report, to be written and sent in a moment."""
        pending = (*self._kept.pending, report)[-PENDING_KEPT:]
        self._kept = evolve(self._kept, pending=pending)
        self._more.set()

    async def keep_sending(self) -> None:
        """Write and send what is kept, and what comes; for ever."""
        pause = RETRY_FIRST_S
        while True:
            if not self._kept.pending:
                self._more = trio.Event()
                await self._more.wait()
            await self.save()
            if await self._send(self._kept.pending[0]):
                pause = RETRY_FIRST_S
                await self.save()
            else:
                await trio.sleep(pause)
                pause = min(pause * 2, RETRY_MAX_S)

    async def save(self) -> None:
        """Write what is kept, or log why not, within WRITE_S: before a life ends."""
        async with self._writing:
            if self._kept is self._saved:
                return
            self._saved = self._kept  # also if it fails: it is said once, and sent all the same
            await self._write(codec.dumps(self._kept))

    async def _send(self, report: Report) -> bool:
        """Return whether that is done with: orchd has it, or will never take it."""
        upload = ArtifactUpload(
            kind=ArtifactKind.TRACE,
            content=codec.dumps(report).decode(),
            tags=tuple(map(Tag, tags(report))),
        )
        answer = await self._ask("POST", PATH, codec.dumps(upload))
        if answer is None or answer.status in _LATER:
            return False
        sent = self._kept.sent
        if answer.status == 201:
            stored = codec.loads(ArtifactStored, answer.body)
            sent = (*(known for known in sent if known != stored.id), stored.id)
        else:
            log.event(
                "self_test_not_sent",
                f"orchd does not take the report of the self-test: status {answer.status}: "
                f"{answer.body[:300].decode('utf-8', 'replace')}",
                level="warning",
                replica_id=report.replica_id,
            )
        for old in sent[:-SENT_KEPT]:
            await self._ask("DELETE", f"{PATH}/{old}", None)
        pending = tuple(one for one in self._kept.pending if one is not report)
        self._kept = Kept(pending=pending, sent=sent[-SENT_KEPT:])
        return True

    async def _ask(self, method: str, path: str, body: bytes | None) -> Answer | None:
        """Return None where orchd does not answer; that it does not is the registration's to
        tell."""
        headers = {"content-type": "application/json"} if body is not None else {}
        try:
            return await self._client.request(
                method, path, body, headers=headers, deadline_s=DEADLINE_S
            )
        except PeerError:
            return None

    async def _write(self, data: bytes) -> None:
        words = f"it took longer than {WRITE_S:.0f} s"
        with trio.move_on_after(WRITE_S):
            try:
                await trio.to_thread.run_sync(
                    state.write_whole, self._path, data, abandon_on_cancel=True
                )
                return
            except OSError as exc:
                words = exc.strerror or str(exc)
        log.event(
            "self_test_not_kept",
            f"{self._path} cannot be written ({words}): after a restart those reports of "
            "self-tests are lost that orchd has not got yet.",
            level="warning",
        )


def _load(path: Path) -> Kept:
    lost = "reports of earlier self-tests are forgotten"
    return state.read(path, Kept, MAX_BYTES, "self_tests_forgotten", lost) or Kept()
