"""Fetches for clients: pages of other machines, under the rules, to no private address, bounded.

The route is orchd/edge's, the bytes and redirects are web.py's, the door is hook.py.
"""

from __future__ import annotations

import base64
import ipaddress
import math
import re
import socket
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from orchd import __version__
from orchd.config.policy import Policy
from orchd.kit import log
from orchd.kit.client import PeerError
from orchd.policy.gate import Gate
from orchd.policy.hook import Outbound
from orchd.policy.places import may_be_asked
from orchd.policy.rates import Buckets
from orchd.policy.rules import Rules
from orchd.policy.web import Got, Web
from orchd.wire import address as addresses
from orchd.wire.address import Address
from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import Count, Positive
from orchd.wire.pages import Encoding, FetchRequest, Page
from orchd.wire.policy import THROTTLE

AT_ONCE: Final = 8
"""Fetches under way; each may hold its whole body in memory."""
PURPOSE: Final = "fetch for a client"
MAX_TYPE: Final = 256
"""Characters of a header that is passed on."""
_ACCEPT: Final = re.compile(r"[\x20-\x7e]{1,256}")
_CLIENTS: Final = {
    Kind.OUTBOUND_DENIED: Kind.FETCH_DENIED,
    Kind.FETCH_FAILED: Kind.PAGE_FAILED,
}
"""The door and the web speak of pools' models; here a client is answered."""
_RESULTS: Final = {
    Kind.FETCH_DENIED: "denied",
    Kind.INVALID_PARAMS: "denied",
    Kind.THROTTLED: "throttled",
}

Resolve = Callable[[str, int], Awaitable[tuple[str, ...]]]
"""Host and port -> all its addresses. Raises OSError."""


async def resolved(host: str, port: int) -> tuple[str, ...]:
    """Return what the machine's resolver says."""
    found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(str(entry[4][0]) for entry in found))


class Mediator:
    """Fetches pages. One for the daemon: what is counted is of all clients."""

    def __init__(
        self,
        policy: Policy,
        gate: Gate | None,
        *,
        resolve: Resolve = resolved,
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        """`clock` is in seconds."""
        self._fetch, self._outbound = policy.fetch, policy.outbound
        rules = Rules(
            enabled=policy.outbound.enabled,
            allow=policy.fetch.allow,
            allow_key="policy.fetch.allow",
            deny=policy.outbound.deny,
            per_minute=policy.outbound.requests_per_min,
        )
        self._door = Outbound(rules, PURPOSE, clock, gate=gate)
        self._private = tuple(ipaddress.ip_network(each) for each in policy.fetch.private)
        self._buckets = Buckets(policy.fetch.requests_per_min)
        self._turns = trio.CapacityLimiter(AT_ONCE)
        self._resolve, self._clock = resolve, clock
        max_kb = policy.fetch.max_kb
        if policy.outbound.max_mb is not None:
            max_kb = Positive(min(max_kb, policy.outbound.max_mb << 10))
        self._max_bytes = max_kb << 10
        self.ended: Counter[tuple[str, ...]] = Counter()
        """(result,) -> how many."""

    async def fetch(self, wanted: FetchRequest, identity: str) -> Page:
        """Return the page. Raises OrchError: FETCH_DENIED, THROTTLED, PAGE_FAILED, INVALID_PARAMS.

        `identity` is who asks: for its bucket, the plugins and the journal.
        """
        began = self._clock()
        try:
            page = await self._fetched(wanted, identity, began)
        except OrchError as error:
            self.ended[_RESULTS.get(error.kind, "failed"),] += 1
            log.event(
                "fetch_refused",
                f"A fetch for {identity} brought nothing: {error.message}.",
                identity=identity,
                kind=error.kind.value,
            )
            raise
        self.ended["ok",] += 1
        log.event(
            "fetch_ended",
            f"A fetch for {identity} brought {page.size_bytes} bytes of {page.url}.",
            identity=identity,
            url=page.url,
            status=page.status,
            size_bytes=page.size_bytes,
            duration_ms=round((self._clock() - began) * 1000),
        )
        return page

    async def _fetched(self, wanted: FetchRequest, identity: str, now: float) -> Page:
        if not self._fetch.enabled:
            why = "nothing is fetched for clients: policy.fetch.enabled is false"
            raise OrchError(Kind.FETCH_DENIED, why)
        try:
            addresses.parse(wanted.url)
        except ValueError as exc:
            raise OrchError(Kind.INVALID_PARAMS, f"$.url: {exc}", path="$.url") from None
        if wanted.accept is not None and not _ACCEPT.fullmatch(wanted.accept):
            why = "$.accept: must be 1 to 256 visible ASCII characters and spaces"
            raise OrchError(Kind.INVALID_PARAMS, why, path="$.accept")
        if wait_s := self._buckets.take(identity, now):
            raise OrchError(
                Kind.THROTTLED,
                f"{identity} fetches too often: policy.fetch.requests_per_min is "
                f"{self._fetch.requests_per_min}",
                retry_after_ms=math.ceil(wait_s * 1000),
                policy_label=THROTTLE,
            )
        timeout_s = self._fetch.timeout_ms / 1000
        try:
            with trio.fail_after(timeout_s):
                async with self._turns:
                    return await self._page(wanted, identity, timeout_s)
        except trio.TooSlowError:
            shown = addresses.parse(wanted.url).shown
            why = f"{shown}: no whole answer within {timeout_s:g} s (policy.fetch.timeout_ms)"
            raise OrchError(Kind.PAGE_FAILED, why) from None
        except PeerError as exc:
            raise OrchError(Kind.PAGE_FAILED, str(exc)) from exc
        except OrchError as exc:
            if exc.kind not in _CLIENTS:
                raise
            raise OrchError(_CLIENTS[exc.kind], exc.message) from exc

    async def _page(self, wanted: FetchRequest, identity: str, timeout_s: float) -> Page:
        sent = {
            "Accept": wanted.accept or "*/*",
            "Accept-Encoding": "identity",
            "User-Agent": f"orchd/{__version__}",
        }
        web = Web(self._door, self._outbound.proxy, self._look_up)
        try:
            async with web.get(
                wanted.url,
                headers=sent,
                first_byte_s=timeout_s,
                idle_s=timeout_s,
                identity=identity,
            ) as got:
                body = await self._body(got)
        finally:
            web.close()
        try:
            text, encoding = body.decode(), Encoding.UTF_8
        except UnicodeDecodeError:
            text, encoding = base64.b64encode(body).decode(), Encoding.BASE64
        return Page(
            status=Positive(got.status),
            url=got.address.shown,
            content_type=_header(got, "content-type"),
            content_encoding=_header(got, "content-encoding"),
            size_bytes=Count(len(body)),
            encoding=encoding,
            body=text,
        )

    async def _body(self, got: Got) -> bytes:
        """Return it whole. Raises OrchError(FETCH_DENIED): too large, as soon as that is known."""
        said = got.headers.get("content-length", "")
        size = int(said) if said.isascii() and said.isdigit() and len(said) < 20 else 0
        parts: list[bytes] = []
        while size <= self._max_bytes:
            data = await got.incoming.read_some()
            if not data:
                return b"".join(parts)
            parts.append(data)
            size = sum(map(len, parts))
        why = f"{got.address.shown} has more than {self._max_bytes >> 10} KiB"
        raise OrchError(Kind.FETCH_DENIED, f"{why}: policy.fetch.max_kb")

    async def _look_up(self, address: Address) -> tuple[str, ...]:
        """Return the addresses of a host: all of them may be asked. Raises OrchError."""
        try:
            found = await self._resolve(address.host, address.port)
        except OSError as exc:
            why = f"{address.host} has no address: {exc.strerror or exc}"
            raise OrchError(Kind.PAGE_FAILED, why) from None
        except UnicodeError:  # of the codec that names pass on their way to the resolver
            why = f"$.url: {address.host[:80]!r} is no name that a machine can have"
            raise OrchError(Kind.INVALID_PARAMS, why, path="$.url") from None
        for each in found:
            if not may_be_asked(each, self._private):
                why = f"{address.origin} is at {each}, which is not of the internet"
                raise OrchError(Kind.FETCH_DENIED, f"{why} (policy.fetch.private)")
        return found


def _header(got: Got, name: str) -> str | None:
    value = got.headers.get(name)
    return None if value is None else value[:MAX_TYPE].encode("utf-8", "replace").decode()
