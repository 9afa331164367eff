"""One job while it runs: its order, what the link may still take of it, how it is stopped.

Who starts it and reads its engine is jobs.py. What does not fit the link at once is sent here.
"""

from __future__ import annotations

from typing import Final

import trio

from orchd.kit.incoming import Opener
from orchd.kit.pipe import Pipe
from orchd.wire import link as wire
from orchd.wire.errors import OrchError
from orchd.wire.sse import token_frames
from poolmgr.engines.base import Job

HIGH_BYTES: Final = 256 << 10
"""With so much unsent on the link, jobs stop reading their engine: then TCP holds the engine."""
FRAMES_HEAD_BYTES: Final = wire.FRAMES_HEAD.size


class Running:
    """One job while it runs."""

    __slots__ = (
        "client", "credit", "first_at", "index", "job", "number", "opened_at", "order", "over",
        "pipe", "quiet_since", "reads", "scope", "seen", "verdict", "wake", "window",
    )  # fmt: skip

    def __init__(
        self, number: int, order: wire.Open, pipe: Pipe, client: Opener | None = None
    ) -> None:
        now = trio.current_time()
        self.client = client
        """Of the engine that it began on: a reload does not move it."""
        self.number = number
        self.order = order
        self.pipe = pipe
        self.credit: int = order.credit
        self.window: int = order.credit
        self.index = 0
        self.over = False
        self.opened_at = now
        self.first_at: float | None = None
        self.reads = self.seen = 0
        self.quiet_since = now
        self.scope = trio.CancelScope()
        self.wake: trio.Event | None = None
        self.verdict: wire.Type | OrchError | None = None
        """Why it was stopped from outside: FREED, an error, or HELLO for a link that is lost."""
        self.job = Job(
            task_id=order.task_id,
            workload=order.workload,
            prompt=order.prompt,
            inputs=order.inputs,
            max_tokens=order.max_tokens,
            seed=order.seed,
            strict=order.determinism == "strict",
        )

    def grant(self, size: int) -> None:
        """Take a CREDIT."""
        self.credit += size
        if self.wake is not None:
            self.wake.set()

    def stop(self, verdict: wire.Type | OrchError) -> None:
        """Stop it now. The first verdict stands. The engine's connection is closed at once."""
        if self.verdict is None:
            self.verdict = verdict
            self.scope.cancel()


LOST: Final = wire.Type.HELLO
"""The verdict of a job whose link is gone: there is nobody to tell."""


async def send_slowly(running: Running, texts: tuple[str, ...]) -> None:
    """Send what does not fit at once: in pieces, as credit and the link's socket allow."""
    at = 0
    while at < len(texts):
        await wait_for_room(running)
        index, first_id = running.index, running.order.first_id
        room = min(running.credit, wire.MAX_FRAMES_BODY)
        taken: list[bytes] = []
        size = FRAMES_HEAD_BYTES
        for text in texts[at:]:
            number = index + len(taken)
            frame = token_frames(first_id + number, number, (text,))
            if size + len(frame) > room:
                break
            size += len(frame)
            taken.append(frame)
        if not taken:
            # a frame larger than what is left: wait for more, or, past the whole window, send it
            if running.credit < min(running.window, size + len(frame)):
                await _wait_for_credit(running)
                continue
            size += len(frame)
            taken.append(frame)
        running.credit -= size
        running.index = index + len(taken)
        at += len(taken)
        running.pipe.send_nowait(
            wire.encode_frames(running.number, index, len(taken), b"".join(taken))
        )


async def wait_for_room(running: Running) -> None:
    """Until the link's socket has taken enough of what waits. Not the engine's silence."""
    if running.pipe.pending > HIGH_BYTES:
        running.wake = trio.Event()
        try:
            await running.pipe.flush()
        finally:
            running.wake = None


async def _wait_for_credit(running: Running) -> None:
    """Until the next CREDIT."""
    running.wake = trio.Event()
    try:
        await running.wake.wait()
    finally:
        running.wake = None
