"""The door: asks the rules, then the plugins, before anything leaves, and tells the journal.

One of these a process, or for each purpose in it. Sending is web.py's.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final

import trio

from orchd.kit import log
from orchd.policy.gate import Denied as Forbidden
from orchd.policy.gate import Gate
from orchd.policy.question import Question
from orchd.policy.rules import WINDOW_S, Allowed, Denied, Request, Rules, decide
from orchd.wire.address import Address
from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import Count
from orchd.wire.policy import What

MAX_TOLD: Final = 1024
"""URLs whose repetition is not told again; the one asked for longest ago is forgotten first."""
MAX_COUNTED: Final = 100_000
"""Times of requests that are kept: more than requests_per_min may say (orchd/config)."""


class Outbound:
    """Lets requests through, or raises."""

    def __init__(
        self,
        rules: Rules,
        purpose: str,
        clock: Callable[[], float] = trio.current_time,
        *,
        gate: Gate | None = None,
    ) -> None:
        """`purpose` says in the journal what for: `model llama`. `clock` is in seconds."""
        self._rules = rules
        self._purpose = purpose
        self._clock = clock
        self._gate = gate if gate is not None and gate.decides(What.OUTBOUND) else None
        self._left: deque[float] = deque(maxlen=MAX_COUNTED)
        self._told: OrderedDict[tuple[str, ...], None] = OrderedDict()

    def permit(
        self, address: Address | None, *, via: str = "http", size_bytes: int | None = None
    ) -> float:
        """Return 0 when the request may leave now, else the seconds after which to ask again.

        Every request of ours and every tool that would make one passes here first. Plugins are
        asked in this thread, within their deadlines. Raises OrchError(OUTBOUND_DENIED), which
        names the rule and the key.
        """
        request = Request(address=address, via=via, size_bytes=size_bytes, recent=self._recent())
        ruled = self._ruled(request)
        if isinstance(ruled, float):
            return ruled
        if self._gate is not None:
            self._unless(self._gate.judge_nowait(self._question(self._gate, request)), request)
        self._tell("outbound_allowed", request, ruled)
        return 0.0

    async def wait_permit(
        self,
        address: Address | None,
        *,
        via: str = "http",
        size_bytes: int | None = None,
        identity: str = "",
    ) -> None:
        """Return when the request may leave. The deadline is the caller's. Raises as permit.

        `identity`: the client on whose behalf, if any.
        """
        while True:
            request = Request(
                address=address,
                via=via,
                size_bytes=size_bytes,
                recent=self._recent(),
                identity=identity,
            )
            ruled = self._ruled(request)
            if isinstance(ruled, str):
                break
            await trio.sleep(ruled)
        if self._gate is not None:
            self._unless(await self._gate.judge(self._question(self._gate, request)), request)
        self._tell("outbound_allowed", request, ruled)

    def _recent(self) -> int:
        now = self._clock()
        while self._left and self._left[0] <= now - WINDOW_S:
            self._left.popleft()
        return len(self._left)

    def _ruled(self, request: Request) -> str | float:
        """Return what allows it, or how long it has to wait. Raises OrchError(OUTBOUND_DENIED)."""
        now = self._clock()
        match decide(request, self._rules):
            case Allowed(rule):
                self._left.append(now)
                return rule
            case Denied(rule, _, wait=True):
                self._tell("outbound_delayed", request, rule)
                return max(0.05, self._left[0] + WINDOW_S - now) if self._left else WINDOW_S
            case Denied(rule, reason):
                self._tell("outbound_denied", request, rule)
                raise OrchError(Kind.OUTBOUND_DENIED, f"{self._purpose}: {reason}")

    def _question(self, gate: Gate, request: Request) -> Question:
        address, size = request.address, request.size_bytes
        time_unix_s, minute_of_day, weekday = gate.when()
        return Question(
            what=What.OUTBOUND,
            time_unix_s=time_unix_s,
            minute_of_day=minute_of_day,
            weekday=weekday,
            identity=request.identity,
            purpose=self._purpose,
            scheme="" if address is None else address.scheme,
            host="" if address is None else address.host,
            port=Count(0 if address is None else address.port),
            path="" if address is None else address.target.partition("?")[0],
            via=request.via,
            size_bytes=None if size is None else Count(size),
        )

    def _unless(self, denied: Forbidden | None, request: Request) -> None:
        """Raise OrchError(OUTBOUND_DENIED) when a plugin forbids it."""
        if denied is None:
            return
        self._tell("outbound_denied", request, f"policy.plugins: {denied.plugin}")
        where = request.via if request.address is None else request.address.origin
        why = f"{where} is denied by the policy plugin {denied.plugin}: {denied.reason}"
        raise OrchError(Kind.OUTBOUND_DENIED, f"{self._purpose}: {why}")

    def _tell(self, name: str, request: Request, rule: str) -> None:
        """One line for each URL and what became of it: parts of one file are one URL."""
        via, size_bytes = request.via, request.size_bytes
        url = "" if request.address is None else request.address.shown
        key = (name, url or via, request.identity)
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
            identity=request.identity or None,
        )
