"""The door: asks the rules before anything leaves, and tells the journal what did and what did not.

One of these a process, or for each purpose in it. Sending is web.py's.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final

import trio

from orchd.kit import log
from orchd.policy.rules import WINDOW_S, Allowed, Denied, Request, Rules, decide
from orchd.wire.address import Address
from orchd.wire.errors import Kind, OrchError

MAX_TOLD: Final = 1024
"""URLs whose repetition is not told again; the one asked for longest ago is forgotten first."""
MAX_COUNTED: Final = 100_000
"""Times of requests that are kept: more than requests_per_min may say (orchd/config)."""


class Outbound:
    """Lets requests through, or raises."""

    def __init__(
        self, rules: Rules, purpose: str, clock: Callable[[], float] = trio.current_time
    ) -> None:
        """`purpose` says in the journal what for: `model llama`. `clock` is in seconds."""
        self._rules = rules
        self._purpose = purpose
        self._clock = clock
        self._left: deque[float] = deque(maxlen=MAX_COUNTED)
        self._told: OrderedDict[tuple[str, str], None] = OrderedDict()

    def permit(
        self, address: Address | None, *, via: str = "http", size_bytes: int | None = None
    ) -> float:
        """Return 0 when the request may leave now, else the seconds after which to ask again.

        Every request of ours and every tool that would make one passes here first. Raises
        OrchError(OUTBOUND_DENIED), which names the rule and the key.
        """
        now = self._clock()
        while self._left and self._left[0] <= now - WINDOW_S:
            self._left.popleft()
        request = Request(address=address, via=via, size_bytes=size_bytes, recent=len(self._left))
        verdict = decide(request, self._rules)
        url = "" if address is None else address.shown
        match verdict:
            case Allowed(rule):
                self._left.append(now)
                self._tell("outbound_allowed", via, url, rule, size_bytes)
                return 0.0
            case Denied(rule, _, wait=True):
                self._tell("outbound_delayed", via, url, rule, size_bytes)
                return max(0.05, self._left[0] + WINDOW_S - now) if self._left else WINDOW_S
            case Denied(rule, reason):
                self._tell("outbound_denied", via, url, rule, size_bytes)
                raise OrchError(Kind.OUTBOUND_DENIED, f"{self._purpose}: {reason}")

    async def wait_permit(self, address: Address, *, size_bytes: int | None = None) -> None:
        """Return when the request may leave. The deadline is the caller's. Raises as permit."""
        while True:
            pause = self.permit(address, size_bytes=size_bytes)
            if pause == 0:
                return
            await trio.sleep(pause)

    def _tell(self, name: str, via: str, url: str, rule: str, size_bytes: int | None) -> None:
        """One line for each URL and what became of it: parts of one file are one URL."""
        key = (name, url or via)
        if key in self._told:
            self._told.move_to_end(key)
            return
        self._told[key] = None
        if len(self._told) > MAX_TOLD:
            self._told.popitem(last=False)
        what = {"outbound_allowed": "may leave", "outbound_delayed": "waits"}.get(
            name, "may not leave"
        )
        log.event(
            name,
            f"{via} {url or 'of its own'} {what}: {rule}.",
            level="warning" if name == "outbound_denied" else "info",
            purpose=self._purpose,
            via=via,
            url=url or None,
            rule=rule,
            size_bytes=size_bytes,
        )
