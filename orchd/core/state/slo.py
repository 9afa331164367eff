"""A circuit breaker for a pool that is too slow: whether it sheds load, and since when. Pure.

The SLO is on the time from admission to the first token. While it is breached for long enough, new
tasks are refused until those that are there have ended; then a few are let in as a test, and what
they meet decides [ORCH-3040]. Who is refused with what words is shedding.py's.
"""

from __future__ import annotations

import enum
from collections import deque
from typing import Final

from attrs import define, field

from orchd.core.given.spec import Slo

LEAST: Final = 5
"""First tokens that say something: fewer, and one slow prompt would be a breach."""
MOST: Final = 64
"""First tokens that are kept: at more in a window the last ones speak for it."""
PROBES: Final = 4
"""Tasks that are let in as a test."""
SHED_MAX_S: Final = 300.0
"""After each test that fails shedding lasts twice as long, up to this."""


class State(enum.StrEnum):
    """Where the breaker is."""

    CLOSED = "closed"
    """Tasks are let in."""
    OPEN = "open"
    """Load is shed."""
    HALF_OPEN = "half_open"
    """A few tasks are let in as a test."""


@define
class Breaker:
    """The breaker of one pool. `now` is in seconds of one monotonic clock."""

    slo: Slo
    opened: int = 0
    """How often it has opened."""
    _seen: deque[tuple[float, bool]] = field(factory=lambda: deque(maxlen=MOST))
    """First tokens: when, and whether too late."""
    _breached_since: float | None = None
    _until: float | None = None
    """None: it is closed. Else load is shed until then, and after it is a test."""
    _pause_s: float = 0.0
    _probes: int = 0
    _passed: int = 0
    _round_at: float = 0.0

    def state(self, now: float) -> State:
        """Return where it is."""
        if self._until is None:
            return State.CLOSED
        return State.OPEN if now < self._until else State.HALF_OPEN

    def late_share(self, now: float) -> float | None:
        """Return which share of the window's first tokens was late; None: too few say anything."""
        late = [late for at, late in self._seen if at > now - self.slo.breach_s]
        return sum(late) / len(late) if len(late) >= LEAST else None

    def wait_s(self, now: float) -> float:
        """Return how long it is worth waiting before asking again, while it does not admit."""
        assert self._until is not None, "a closed breaker refuses nobody"
        if now < self._until:
            return self._until - now
        return max(0.0, self._round_at + self.slo.shed_s - now)

    def admits(self, now: float) -> bool:
        """Whether a task may come in: it is closed, or one more is wanted for a test."""
        match self.state(now):
            case State.CLOSED:
                return True
            case State.OPEN:
                return False
            case State.HALF_OPEN:
                # tasks of a test that were canceled say nothing: after a while there is another
                return self._probes < PROBES or now >= self._round_at + self.slo.shed_s

    def admitted(self, now: float) -> None:
        """A task was let in."""
        if self.state(now) is not State.HALF_OPEN:
            return
        if self._probes >= PROBES or not self._probes:
            self._probes, self._passed, self._round_at = 0, 0, now
        self._probes += 1

    def first_token(self, admitted_at: float, now: float) -> State | None:
        """A task's first token came; return the state that this leads to. None: it is as it was."""
        late = now - admitted_at > self.slo.first_token_s
        self._seen.append((now, late))
        if self._until is None:
            return self.look(0, now)
        if now < self._until or not self._probes or admitted_at < self._until:
            return None  # it came in before, and says nothing about what a task would meet now
        if late:
            return self._open(now)
        self._passed += 1
        return self._close() if self._passed >= PROBES else None

    def look(self, overdue: int, now: float) -> State | None:
        """See whether the breach has lasted; `overdue` tasks wait for longer than is promised and
        have no token yet. Returns OPEN when it opens now."""
        if self._until is not None:
            return None
        while self._seen and self._seen[0][0] <= now - self.slo.breach_s:
            self._seen.popleft()
        late = sum(late for _, late in self._seen) + overdue
        all_ = len(self._seen) + overdue
        if all_ < LEAST or 2 * late <= all_:
            self._breached_since = None
        elif self._breached_since is None:
            self._breached_since = now
        elif now - self._breached_since >= self.slo.breach_s:
            return self._open(now)
        return None

    def _open(self, now: float) -> State:
        self._pause_s = min(2 * self._pause_s, SHED_MAX_S) if self._pause_s else self.slo.shed_s
        self._until = now + self._pause_s
        self._probes = self._passed = 0
        self.opened += 1
        return State.OPEN

    def _close(self) -> State:
        self._until = self._breached_since = None
        self._pause_s = 0.0
        self._seen.clear()
        return State.CLOSED
