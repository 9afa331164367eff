"""Asks pools how many tokens a text has: before admission where it matters, and for clients.

When a prompt must be counted, and by whom, is core/flow/prompts.py's; the answer is the engine's.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import trio
from attrs import frozen

from orchd.config.pool import Pool
from orchd.config.schema import Settings
from orchd.core.front import Front
from orchd.core.limits import workloads
from orchd.kit import log
from orchd.kit.client import Client, PeerError, Target
from orchd.wire import codec
from orchd.wire.control import MAX_TEXT_BYTES, PoolTokenize, TokenizeRequest, Tokens
from orchd.wire.errors import Envelope, Kind, OrchError
from orchd.wire.ids import ReplicaId, parse_replica_id
from orchd.wire.shapes import TaskRequest

COUNT_S: Final = 2.0
"""For the count of a task's texts: so much later is it admitted when its pool does not answer."""
TELL_S: Final = 10.0
"""For a client that asks: longer than a poolmgr takes to give up (poolmgr.edge.engine, 5 s)."""
AT_ONCE: Final = 8
"""Texts under way to one poolmgr, which keeps them in memory; the others wait here."""


@frozen(kw_only=True)
class Counted:
    """What was counted of a task's texts. None: it did not matter, or nobody told."""

    prompt_tokens: int | None = None
    longest: workloads.Longest | None = None
    """Of its inputs."""


class Tokenizers:
    """The pools, as far as they read texts."""

    def __init__(self, front: Front, settings: Settings) -> None:
        self._front = front
        self._clients: dict[ReplicaId, Client] = {}
        self._turns: dict[ReplicaId, trio.CapacityLimiter] = {}
        self.add(settings, settings.pools)

    def add(self, settings: Settings, pools: Iterable[Pool]) -> None:
        """Take pools in."""
        for replica in (replica for pool in pools for replica in pool.replica_ids):
            target = Target.unix(settings.pool_socket(replica))
            self._clients[replica] = Client(target, max_idle=1)
            self._turns[replica] = trio.CapacityLimiter(AT_ONCE)

    def close(self) -> None:
        """Close the connections to the pools."""
        for client in self._clients.values():
            client.close()

    async def count(self, request: TaskRequest, identity: str, now: float) -> Counted:
        """Return the exact tokens of a task's prompt, or of the longest of its inputs.

        Nothing where they cannot matter, and does not wait then, or where they are not to be had
        within 2 s.
        """
        replica = self._front.counted_by(request, identity, now)
        if replica is None:
            return Counted()
        texts = workloads.to_count(request)
        # a query once; the prompt also where only a budget hangs on it
        parts = list(dict.fromkeys(part for text in texts for part in text.parts))
        if request.prompt is not None:
            parts = [request.prompt]
        try:
            with trio.fail_after(COUNT_S):
                counts = await self._counts(replica, parts)
            if request.prompt is not None:
                return Counted(prompt_tokens=counts[request.prompt])
            longest = max((sum(counts[part] for part in t.parts), t.index) for t in texts)
            return Counted(longest=workloads.Longest(*longest))
        except (OrchError, codec.ShapeError, trio.TooSlowError) as exc:
            why = str(exc) or f"no answer within {COUNT_S:g} s"
            log.event(
                "prompt_not_counted",
                f"The prompt of task {request.task_id} is left for its engine to count: {why}.",
                level="warning",
                job_id=request.task_id,
                replica_id=replica,
            )
            return Counted()

    async def _counts(self, replica: ReplicaId, texts: list[str]) -> dict[str, int]:
        """Return how many tokens each text has; one is asked after the other."""
        counts: dict[str, int] = {}
        for text in texts:
            asked = PoolTokenize(text=text, tokens=False)
            counts[text] = codec.loads(Tokens, await self._ask(replica, asked, COUNT_S)).count
        return counts

    async def tell(self, request: TokenizeRequest, now: float) -> bytes:
        """Return the body of the answer. Raises OrchError.

        It is the pool's, passed on unread: a long list of tokens would hold up the streams.
        """
        size = len(request.text.encode())
        if size > MAX_TEXT_BYTES:
            why = f"$.text has {size} bytes; at most {MAX_TEXT_BYTES} are read"
            raise OrchError(Kind.BODY_TOO_LARGE, why, path="$.text")
        replica = self._front.tokenized_by(request.model_ref, now)
        return await self._ask(replica, PoolTokenize(text=request.text), TELL_S)

    async def _ask(self, replica: ReplicaId, asked: PoolTokenize, deadline_s: float) -> bytes:
        pool_id, _ = parse_replica_id(replica)
        body = codec.dumps(asked)
        try:
            with trio.fail_after(deadline_s):
                async with self._turns[replica]:
                    answer = await self._clients[replica].request(
                        "POST", "/tokenize", body, deadline_s=deadline_s
                    )
        except (PeerError, trio.TooSlowError) as exc:
            why = exc.why if isinstance(exc, PeerError) else f"no answer within {deadline_s:g} s"
            raise OrchError(
                Kind.POOL_UNREADY, f"replica {replica} tells no tokens: {why}", pool_id=pool_id
            ) from exc
        if answer.status != 200:
            kind = Kind.INVALID_PARAMS if answer.status == 400 else Kind.POOL_UNREADY
            raise OrchError(kind, _said(answer.body), pool_id=pool_id)
        return answer.body


def _said(body: bytes) -> str:
    try:
        return codec.loads(Envelope, body).message
    except codec.ShapeError:
        return "the pool's answer is no envelope"
