"""orchd's end of a link, for tests of poolmgr: sends messages, collects what comes."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import trio
from attrs import define, field

from orchd.kit.client import Client, Target
from orchd.kit.pipe import Pipe, PipeClosed
from orchd.wire import codec, link, sse
from orchd.wire.ids import Positive, TaskId
from orchd.wire.shapes import Determinism, Workload
from orchd.wire.snapshot import Snapshot

WINDOW = 1 << 20


@define
class Got:
    """What came for one job, in order."""

    tokens: list[str] = field(factory=list)
    indices: list[int] = field(factory=list)
    ids: list[str] = field(factory=list)
    frames_bytes: int = 0
    messages: int = 0
    last: link.Message | None = None
    after_last: int = 0


class Peer:
    """One link, as orchd holds it."""

    def __init__(self, pipe: Pipe) -> None:
        self.pipe = pipe
        self.jobs: dict[int, Got] = {}
        self.states: list[Snapshot] = []
        self.welcome: link.Welcome | None = None
        self.closed = False
        self._number = 0
        self._news = trio.Event()

    def send(self, kind: link.Type, number: int, value: object = None) -> None:
        body = b"" if value is None else codec.dumps(value)
        self.pipe.send_nowait(link.encode(kind, number, body))

    def hello(self) -> None:
        self.send(link.Type.HELLO, 0, link.Hello(version="test", instance=str(uuid4())))

    def open(self, *, max_tokens: int = 16, credit: int = WINDOW, **more: Any) -> int:
        self._number += 1
        self.jobs[self._number] = Got()
        values: dict[str, Any] = {"prompt": "Tell me.", "first_id": Positive(1), **more}
        order = link.Open(
            task_id=TaskId(str(uuid4())),
            correlation_id="c",
            workload=Workload.COMPLETION,
            max_tokens=Positive(max_tokens),
            determinism=Determinism.BEST_EFFORT,
            credit=Positive(credit),
            ctx=Positive(8192),
            **values,
        )
        self.send(link.Type.OPEN, self._number, order)
        return self._number

    async def receive(self) -> None:
        """Collect until the link ends."""
        decoder = link.Decoder()
        while data := await self.pipe.recv():
            for message in decoder.feed(data):
                self._take(message)
            news, self._news = self._news, trio.Event()
            news.set()
        self.closed = True
        self._news.set()

    def _take(self, message: link.Message) -> None:
        kind, number, body = message
        if kind == link.Type.STATE:
            self.states.append(link.body(Snapshot, body))
            return
        if kind == link.Type.WELCOME:
            self.welcome = link.body(link.Welcome, body)
            return
        got = self.jobs[number]
        if got.last is not None:
            got.after_last += 1
        if kind == link.Type.FRAMES:
            first, count = link.FRAMES_HEAD.unpack_from(body)
            assert first == len(got.tokens)
            events = sse.Decoder().feed(body[link.FRAMES_HEAD.size :])
            assert len(events) == count
            for event in events:
                data = codec.loads(dict[str, Any], event.data.encode())
                got.tokens.append(data["t"])
                got.indices.append(data["i"])
                got.ids.append(event.id or "")
            got.frames_bytes += len(body)
            got.messages += 1
        else:
            got.last = message
            with contextlib.suppress(PipeClosed):  # it said its last word and went
                self.send(link.Type.ACK, number)

    async def until(self, condition: Any, deadline_s: float = 10.0) -> None:
        """Wait until `condition()` holds."""
        with trio.fail_after(deadline_s):
            while not condition():
                assert not self.closed, "the link ended"
                await self._news.wait()

    async def finished(self, number: int, deadline_s: float = 10.0) -> Got:
        """Return what came for a job once its last message is there."""
        await self.until(lambda: self.jobs[number].last is not None, deadline_s)
        return self.jobs[number]


def last_of(got: Got, cls: type[codec.T]) -> codec.T:
    """Return the body of a job's last message; its type must fit."""
    assert got.last is not None
    kinds = {link.End: link.Type.END, link.Fail: link.Type.FAIL, link.Freed: link.Type.FREED}
    assert got.last[0] == kinds[cls], (link.Type(got.last[0]).name, got.last[2])
    return link.body(cls, got.last[2])


@asynccontextmanager
async def linked(path: Path) -> AsyncIterator[Peer]:
    """Hold a link to the poolmgr at `path`."""
    pipe, rest = await Client(Target.unix(path)).upgrade("/link", link.PROTOCOL)
    assert not rest
    async with on_pipe(pipe) as peer:
        yield peer


@asynccontextmanager
async def on_pipe(pipe: Pipe) -> AsyncIterator[Peer]:
    """Hold a link on `pipe`, HELLO said."""
    peer = Peer(pipe)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.receive)
        peer.hello()
        await peer.until(lambda: peer.states)
        yield peer
        nursery.cancel_scope.cancel()
    pipe.close()
