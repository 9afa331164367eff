"""What every way of bringing an engine has in common: the log, the door outside, who is told.

The ways themselves are source.py, images.py, packages.py and download.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from attrs import field, frozen

from orchd.kit import log
from orchd.wire.engines import ImageIdentity
from orchd.wire.errors import Kind, OrchError
from poolmgr.provision.machine import tool
from poolmgr.provision.machine.tool import Log
from poolmgr.provision.plans.facts import Facts

TOLD_EACH_S = 5.0
"""How often a long step says what its tool says."""


class Door(Protocol):
    """The one way out of this machine [ORCH-3206]."""

    @property
    def proxy(self) -> str | None:
        """The proxy that tools have to go through: http://host:port."""

    async def permit(self, url: str | None, via: str) -> None:
        """Return when `via` may ask `url`; None: the tool chooses its hosts itself.

        Raises OrchError that names the rule.
        """

    async def download(self, url: str, checksum: str, say: Callable[[str], None]) -> Path:
        """Return a file that has this checksum. Raises OrchError."""

    async def forget(self, file: Path) -> None:
        """Remove what `download` returned."""


@frozen
class Brought:
    """What came of it, before it is in the catalog."""

    artifacts: tuple[str, ...]
    """The program first; relative to the engine's folder, or absolute, or an image."""
    version: str
    build_ref: str
    digest: str | None = None
    image: ImageIdentity | None = None
    runtime: str | None = None
    run_args: tuple[str, ...] = ()
    store: str | None = None


@frozen
class Work:
    """One bringing."""

    pool_id: str
    facts: Facts
    part: Path
    """Where it is put together; becomes the engine's folder by one rename."""
    log: Log
    door: Door
    clock: Callable[[], float]
    _told: list[float] = field(factory=lambda: [float("-inf")], init=False)

    def tell(self, name: str, human: str) -> None:
        """Say what is done now [ORCH-3490]."""
        self.log.write(f"# {human}")
        log.event(name, human, pool_id=self.pool_id)

    def progress(self, line: str) -> None:
        """A line of a tool or a figure: told now and then."""
        now = self.clock()
        if now - self._told[0] >= TOLD_EACH_S:
            self._told[0] = now
            log.event("provision_progress", line[-200:], pool_id=self.pool_id)

    async def run(
        self,
        argv: Sequence[str],
        deadline_s: float,
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        root: bool = False,
    ) -> None:
        """Run a tool to its end, as `root` where we can. Raises OrchError(PROVISION_FAILED)."""
        await tool.run(
            argv,
            self.log,
            deadline_s=deadline_s,
            failed=Kind.PROVISION_FAILED,
            say=self.progress,
            cwd=cwd,
            env=env,
            root=root,
        )

    async def asked(self, argv: Sequence[str], deadline_s: float = tool.ASK_S) -> str:
        """Return what a tool says. Raises OrchError(PROVISION_FAILED)."""
        said = await tool.ask(argv, deadline_s)
        self.log.write(f"$ {' '.join(argv)}\n{said.text if said else 'no answer'}")
        if said is None or said.code:
            what = (said.text.strip()[-300:] if said else "") or "it does not answer"
            raise OrchError(Kind.PROVISION_FAILED, f"{Path(argv[0]).name} failed: {what}")
        return said.text.strip()
