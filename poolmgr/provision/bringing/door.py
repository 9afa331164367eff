"""The door of provisioning: the operator's rules for what leaves, and the one client that fetches.

What the rules mean is orchd/policy's, how a file is fetched orchd/fetch's.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import trio

from orchd.config.pool import Mode, Pool
from orchd.config.schema import Settings
from orchd.fetch.fetch import fetch
from orchd.fetch.orders import Order, Progress
from orchd.fetch.progress import words
from orchd.policy import gate
from orchd.policy.configured import rules
from orchd.policy.hook import Outbound
from orchd.policy.rules import Named
from orchd.wire import address as addresses
from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import Text
from poolmgr.provision.plans import planning

DOWNLOADS = "downloads"
"""Below the cache: what a broken download has brought is there for the next try."""


class PolicyDoor:
    """What one pool's provisioning may ask of other machines."""

    def __init__(self, settings: Settings, pool: Pool, cache: Path) -> None:
        """Raises OrchError(CONFIG_INVALID) for a policy plugin that cannot be used."""
        self._configured = settings.policy.outbound
        self._cache = cache
        self._purpose = f"engine of pool {pool.id}"
        self._key, url = _named(pool)
        named = []
        if url is not None:
            address = addresses.parse(url)
            named.append(Named(pattern=_pattern(address), by=self._key))
        self._plugins = settings.policy.plugins
        asked = gate.load(self._plugins)
        self._outbound = Outbound(rules(self._configured, named), self._purpose, gate=asked)

    @property
    def proxy(self) -> str | None:
        """The proxy that tools have to go through: http://host:port."""
        return self._configured.proxy

    async def permit(self, url: str | None, via: str) -> None:
        """Return when `via` may ask `url`. Raises OrchError(OUTBOUND_DENIED)."""
        try:
            address = None if url is None else addresses.parse(url)
        except ValueError as exc:
            raise OrchError(
                Kind.PROVISION_FAILED, f"{via} would ask what is no URL: {exc}"
            ) from None
        await self._outbound.wait_permit(address, via=via)

    async def download(self, url: str, checksum: str, say: Callable[[str], None]) -> Path:
        """Return a file with this checksum. Raises OrchError: FETCH_FAILED, OUTBOUND_DENIED,
        DIGEST_MISMATCH, DISK_SHORT."""

        def told(progress: Progress) -> None:
            say(words(progress))

        order = Order(
            ref=Text(url),
            folder=Text(str(self._cache / DOWNLOADS)),
            digest=Text(checksum),
            named_by=Text(self._key),
            purpose=Text(self._purpose),
            outbound=self._configured,
            plugins=self._plugins,
        )
        return Path((await fetch(order, told)).path)

    async def forget(self, file: Path) -> None:
        """Remove what was downloaded, once it is unpacked."""
        top = self._cache / DOWNLOADS
        below = file.relative_to(top).parts[0]
        await trio.to_thread.run_sync(shutil.rmtree, top / below)


def _named(pool: Pool) -> tuple[str, str | None]:
    """Return the key that names a host for this pool's engine, and the URL."""
    how, key = pool.provisioning, f"pool {pool.id}: provisioning"
    match pool.mode:
        case Mode.SOURCE:
            repo = how.source.git.repo
            return f"{key}.source.git.repo", repo if "://" in repo else None
        case Mode.CONTAINER:
            return f"{key}.container.image", f"https://{planning.image(pool).image}"
        case Mode.BINARY:
            return f"{key}.binary.url", how.binary.url
        case Mode.PACKAGE | Mode.EXTERNAL:
            return f"{key}.mode", None


def _pattern(address: addresses.Address) -> str:
    host = f"[{address.host}]" if ":" in address.host else address.host
    return f"{host}:{address.port}"
