"""The table of sessions: turns, time to live, and where the last turn ran. Metadata only.

A session is made by the first task that is admitted with its id. It is over when it was idle for
its time to live, had its turns, was deleted, or is the one idle longest of too many. What a task
reserves and is charged is turns.py's. Everything here is O(1).
"""

from __future__ import annotations

from collections import OrderedDict

from attrs import define, field, frozen

from orchd.core.limits.budgets import FREE, NOTHING, Account, Amounts, Price
from orchd.wire.ids import ReplicaId, SessionId


@frozen
class LastTurn:
    """Where a session's last turn ended well. Whether the replica lived on is affinity.py's."""

    replica_id: ReplicaId
    starts: int
    """Jobs that the replica had been sent then, this turn's the last of them."""
    tokens: int
    """Of its prompt and its answer: what its KV cache is of."""


@define(kw_only=True, eq=False)
class Session:
    """One session."""

    session_id: SessionId
    account: Account
    turns: int = 0
    """Tasks that were admitted, whatever became of them."""
    live: int = 0
    """Of those, tasks that wait or run."""
    last: LastTurn | None = None


@define(kw_only=True, eq=False)
class Turn:
    """A task's part in its session. It outlives the session's place in the table."""

    session: Session
    held: Amounts = NOTHING
    """What is reserved for it in the session's account."""
    price: Price = FREE
    """Of its pool."""
    prompt_tokens: int = 0
    """Of its prompt at most: what is charged where an engine said no figure."""
    starts: int = 0
    """Jobs that its replica had been sent when it was sent this one."""


@define(eq=False)
class Sessions:
    """All that are known. Those without a live task are in `idle` as well, longest idle first."""

    ttl_s: float
    idle_max: int
    known: dict[SessionId, Session] = field(factory=dict)
    idle: OrderedDict[SessionId, float] = field(factory=OrderedDict)
    """When each is over."""

    def find(self, session_id: SessionId, now: float) -> Session | None:
        """Return the session, if it is not over."""
        if self.idle.get(session_id, now + 1) <= now:
            return None
        return self.known.get(session_id)

    def keeps(self, session: Session) -> bool:
        """Return whether it is in the table: it is not over, and no other one has its id."""
        return self.known.get(session.session_id) is session

    def begin(self, session: Session) -> None:
        """A task of the session is admitted: one turn more; new sessions come into the table."""
        self.known[session.session_id] = session
        self.idle.pop(session.session_id, None)
        session.turns += 1
        session.live += 1

    def end(self, session: Session, now: float) -> Session | None:
        """A task of the session is over. Returns the session that had to make room, if one had.

        Only idle ones are counted and dropped: those with live tasks are as few as the queues and
        slots have room for.
        """
        session.live -= 1
        session_id = session.session_id
        if session.live or not self.keeps(session):
            return None
        self.idle[session_id] = now + self.ttl_s
        if len(self.idle) <= self.idle_max:
            return None
        oldest, _ = self.idle.popitem(last=False)
        return self.known.pop(oldest)

    def drop(self, session_id: SessionId) -> Session | None:
        """Forget a session; the next task with its id begins a new one. Its tasks go on."""
        self.idle.pop(session_id, None)
        return self.known.pop(session_id, None)

    def expired(self, now: float) -> Session | None:
        """Take out one session whose time to live is over."""
        due = self.next_expiry()
        if due is None or due > now:
            return None
        session_id, _ = self.idle.popitem(last=False)
        return self.known.pop(session_id)

    def next_expiry(self) -> float | None:
        """Return when the next session is over, as things stand."""
        # all live for the same time, so the order of becoming idle is that of ending
        return next(iter(self.idle.values()), None)

    def held_by(self, session_id: SessionId, replica_id: ReplicaId, starts: int) -> bool:
        """Return whether the replica still has the slot of the session's last turn as it was left.

        `starts`: jobs that it was sent so far. One since then could have taken the slot.
        """
        session = self.known.get(session_id)
        last = None if session is None else session.last
        return last is not None and (last.replica_id, last.starts) == (replica_id, starts)

    def ttl_ms(self, session: Session, now: float) -> int:
        """Return how long the session is still kept without a task; all of it while one is live."""
        until = self.idle.get(session.session_id, now + self.ttl_s)
        return max(0, round((until - now) * 1000))
