"""Which replica served a session last, and whether its KV cache may still be warm [ORCH-3009].

A hint with a soft TTL, not a promise: placement keeps a session where it was while that replica is
feasible and not much worse (placement.py), and nothing is moved to another one [ORCH-3023]. What a
session is, and when it ends, is not known here: whoever ends one calls `forget`.
"""

from __future__ import annotations

from collections import Counter, OrderedDict

from attrs import frozen

from orchd.wire.ids import ReplicaId, SessionId


@frozen
class _Last:
    replica_id: ReplicaId
    life: int
    """Of the replica: a later one has lost the cache."""
    used_at: float


class Affinity:
    """A bounded table: the session that was used longest ago goes first."""

    def __init__(self, ttl_s: float, most: int) -> None:
        self._ttl_s = ttl_s
        self._most = most
        self._last: OrderedDict[SessionId, _Last] = OrderedDict()
        self._lives: Counter[ReplicaId] = Counter()

    def __len__(self) -> int:
        return len(self._last)

    def served(self, session_id: SessionId, replica_id: ReplicaId, now: float) -> None:
        """A job of the session ran to its end there."""
        self._last[session_id] = _Last(replica_id, self._lives.get(replica_id, 0), now)
        self._last.move_to_end(session_id)
        if len(self._last) > self._most:
            self._last.popitem(last=False)

    def last(self, session_id: SessionId, now: float) -> ReplicaId | None:
        """Return the session's replica, or None: it has none, the TTL is over, or it was lost."""
        last = self._last.get(session_id)
        if last is None:
            return None
        if now - last.used_at >= self._ttl_s or last.life != self._lives.get(last.replica_id, 0):
            return None
        return last.replica_id

    def cooled(self, replica_id: ReplicaId) -> None:
        """The replica cannot be placed on any more: what it held for sessions may be gone."""
        self._lives[replica_id] += 1

    def forget(self, session_id: SessionId) -> None:
        """The session is over. One that is not known is no error."""
        self._last.pop(session_id, None)
