"""HTTP to other machines: every request, and every hop of a redirect, is asked about first.

The bytes are the shared client's (orchd/kit/client.py). What may leave is rules.py's.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Final

from attrs import frozen

from orchd.kit.client import Client, Incoming, Target
from orchd.policy.hook import Outbound
from orchd.wire import address as addresses
from orchd.wire.address import Address
from orchd.wire.errors import Kind, OrchError

LookUp = Callable[[Address], Awaitable[tuple[str, ...]]]
"""The addresses of a host. Raises OrchError."""
NONE: Final[Mapping[str, str]] = MappingProxyType({})
REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
MAX_HOPS: Final = 8  # curl's own default is 50, browsers' 20; the Hub needs 2
MAX_CLIENTS: Final = 16  # origins with kept connections; a fetch meets two or three
DRAINED: Final = 64 << 10
"""Bytes of a redirect's body that are read to keep its connection."""
SECRET_NAMES: Final = frozenset({"authorization", "cookie", "proxy-authorization"})


@frozen
class Got:
    """An answer that is no redirect, and who gave it."""

    incoming: Incoming
    address: Address

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.incoming.status

    @property
    def headers(self) -> Mapping[str, str]:
        """Names in lower case."""
        return self.incoming.headers

    async def body(self, max_bytes: int) -> bytes:
        """Return the whole body. Raises PeerError; OrchError(FETCH_FAILED) past `max_bytes`."""
        parts: list[bytes] = []
        size = 0
        while data := await self.incoming.read_some():
            parts.append(data)
            size += len(data)
            if size > max_bytes:
                why = f"{self.address.shown} answers more than {max_bytes} bytes"
                raise OrchError(Kind.FETCH_FAILED, why)
        return b"".join(parts)


class Web:
    """GET requests under the rules of one `Outbound`. Holds kept-alive connections; close it."""

    def __init__(
        self, outbound: Outbound, proxy: str | None = None, look_up: LookUp | None = None
    ) -> None:
        """`proxy`: http://host:port of who carries the connections; None: nobody. `look_up` gives
        the addresses that may be connected to; None: those that the host has."""
        self._outbound = outbound
        self._look_up = look_up
        self._proxy = None if proxy is None else Target.parse(proxy)
        self._clients: OrderedDict[str, Client] = OrderedDict()

    @contextlib.asynccontextmanager
    async def get(
        self,
        url: str,
        *,
        headers: Mapping[str, str] = NONE,
        size_bytes: int | None = None,
        first_byte_s: float = 30.0,
        idle_s: float = 30.0,
        identity: str = "",
    ) -> AsyncIterator[Got]:
        """Enter with the head of the answer, redirects followed.

        Headers that are secrets go to the URL's own origin and to no other. `size_bytes`: how much
        of it is wanted in all, for the rules; `identity`: the client on whose behalf. Raises
        PeerError; OrchError: OUTBOUND_DENIED for any hop, FETCH_FAILED for redirects that lead
        nowhere.
        """
        first = address = _parsed(url)
        for _ in range(MAX_HOPS):
            sent = headers if address.origin == first.origin else _harmless(headers)
            await self._outbound.wait_permit(address, size_bytes=size_bytes, identity=identity)
            client = await self._client(address)
            opened = client.open(
                "GET", address.target, headers=sent, first_byte_s=first_byte_s, idle_s=idle_s
            )
            async with opened as incoming:
                location = incoming.headers.get("location")
                if incoming.status not in REDIRECTS or location is None:
                    yield Got(incoming, address)
                    return
                following = _followed(address, location)
                await _drain(incoming)
            address = following
        raise OrchError(
            Kind.FETCH_FAILED, f"{first.shown} leads through more than {MAX_HOPS} redirects"
        )

    def close(self) -> None:
        """Close the connections that nobody uses."""
        while self._clients:
            self._clients.popitem()[1].close()

    async def _client(self, address: Address) -> Client:
        client = self._clients.get(address.origin)
        if client is None:
            tls = address.scheme == "https"
            at = () if self._look_up is None else await self._look_up(address)
            client = Client(
                Target(
                    host=address.host,
                    port=address.port,
                    tls=tls,
                    proxy=None if address.loopback else self._proxy,
                    at=at,
                ),
                max_idle=16,
            )
            self._clients[address.origin] = client
            if len(self._clients) > MAX_CLIENTS:
                self._clients.popitem(last=False)[1].close()
        self._clients.move_to_end(address.origin)
        return client


def _parsed(url: str) -> Address:
    try:
        return addresses.parse(url)
    except ValueError as exc:
        raise OrchError(Kind.FETCH_FAILED, f"a URL cannot be asked: {exc}") from None


def _followed(address: Address, location: str) -> Address:
    try:
        following = address.joined(location)
    except ValueError as exc:
        why = f"{address.shown} redirects to what cannot be asked: {exc}"
        raise OrchError(Kind.FETCH_FAILED, why) from None
    if address.scheme == "https" and following.scheme != "https":
        why = f"{address.shown} redirects to {following.origin}, which is not encrypted"
        raise OrchError(Kind.OUTBOUND_DENIED, why)
    return following


def _harmless(headers: Mapping[str, str]) -> Mapping[str, str]:
    return {name: value for name, value in headers.items() if name.lower() not in SECRET_NAMES}


async def _drain(incoming: Incoming) -> None:
    size = 0
    while size < DRAINED and (data := await incoming.read_some()):
        size += len(data)
