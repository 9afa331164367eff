"""What a source offers: files, and how each is asked for.

The sources are hub.py, plainweb.py, s3.py and oci.py. Choosing among the files is choose.py's,
bringing them here download.py's.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

from attrs import field, frozen


@frozen(kw_only=True)
class RemoteFile:
    """One file of a model."""

    name: str
    """Below the model's folder; safe (wire/modelref.py)."""
    size: int | None = None
    sha256: str | None = None
    """Hex digits, where the source says them."""
    place: str = ""
    """The source's own word for where it is: a path, a key, a digest."""


@frozen
class Ask:
    """One GET request. The URL may hold a signature: it is never logged, shown or kept."""

    url: str = field(repr=False)
    headers: Mapping[str, str] = field(factory=lambda: MappingProxyType({}), repr=False)


class Source(Protocol):
    """Where a reference leads."""

    async def listing(self) -> tuple[RemoteFile, ...]:
        """Return the files of the model. Raises OrchError(FETCH_FAILED, OUTBOUND_DENIED),
        PeerError."""

    def ask(self, file: RemoteFile) -> Ask:
        """Return how to ask for a file now."""

    def refusal(self, status: int) -> str:
        """Return, in words, what a status other than 2xx may mean here, and what helps."""
