"""The same from inside: orchd in this process, its core's invariants after every step.

A client that picks what it does by dice: good tasks and wrong ones, broken bytes, streams that are
left, cancels, engines that fail. After each step the core is asked whether all still holds; at the
end no task of trio's, no stream and no lease is left that was not there before.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import Any
from uuid import uuid4

import orjson
import pytest
import trio
import trio.lowlevel

from orchd.core import invariants
from orchd.kit.pipe import PipeClosed
from orchd.kit.target import Target
from orchd.wire.errors import Kind
from tests.edge.conftest import Front, open_front
from tests.edge.pool_peer import Job, PoolPeer
from tests.fakes.peers import RawPeer, short_folder
from tests.fakes.tasks import task_body
from tests.hostile.values import bad_bodies, bad_texts, with_bodies
from tests.hostile.voices import fair

pytestmark = pytest.mark.slow
STEPS = 500
SETTLE_S = 10.0
ROWS = with_bodies()


class Chance:
    """A client, and the engines behind it, that do whatever the dice say."""

    def __init__(self, front: Front, seed: int) -> None:
        self.front = front
        self.dice = random.Random(seed)
        self.socket = front.app.settings.front_socket
        self.known: list[str] = []
        self.bad = {row.id: list(bad_bodies(row)) for row in ROWS}
        self.texts = [text[:100_000] for text in bad_texts(orjson.dumps(task_body())).values()]
        self.done: set[str] = set()

    async def step(self) -> None:
        """Do one thing."""
        what = self.dice.choice(
            (self.good, self.good, self.wrong, self.broken, self.cut, self.stream, self.cancel)
        )
        self.done.add(what.__name__)
        await what()

    async def good(self) -> None:
        body = task_body(
            ctx=1024,
            max_tokens=self.dice.randint(1, 64),
            priority=self.dice.choice(("interactive", "batch")),
            deadline_ms=self.dice.choice((1, 50, 60_000)),
            expected_tokens=self.dice.choice((None, 1, 2**53 - 1)),
            prompt=self.dice.choice(("", "\x00", "\U0010ffff" * 100, "x" * 2000)),
        )
        await self.post("/v1/tasks", orjson.dumps(body))
        self.known.append(body["task_id"])

    async def wrong(self) -> None:
        row = self.dice.choice(ROWS)
        bad = self.dice.choice(self.bad[row.id])
        await self.post(row.path.replace("{pool_id}", "demo"), bad.body)

    async def broken(self) -> None:
        await self.post("/v1/tasks", self.dice.choice(self.texts))

    async def cut(self) -> None:
        """Say a part of a request, perhaps with some bytes wrong, and leave."""
        data = bytearray(self.raw("POST", "/v1/tasks", orjson.dumps(task_body(max_tokens=2))))
        for _ in range(self.dice.randint(0, 3)):
            data[self.dice.randrange(len(data))] = self.dice.randrange(256)
        peer = await self.connect()
        await peer.say(bytes(data[: self.dice.randint(0, len(data))]))
        if self.dice.random() < 0.5:
            await trio.lowlevel.checkpoint()
        peer.pipe.close()

    async def stream(self) -> None:
        """Read a stream for a moment: the last reader who leaves takes the task along."""
        peer = await self.connect()
        path = f"/v1/tasks/{self.some_id()}/stream"
        await peer.say(self.raw("GET", path, b"", f"Last-Event-ID: {self.dice.randint(0, 9)}\r\n"))
        with trio.move_on_after(self.dice.random() * 0.01):
            try:
                while await peer.recv():
                    pass
            except PipeClosed:
                pass
        peer.pipe.close()

    async def cancel(self) -> None:
        await self.post(f"/v1/tasks/{self.some_id()}/cancel", b"")

    async def post(self, path: str, body: bytes) -> None:
        peer = await self.connect()
        try:
            with trio.fail_after(SETTLE_S):
                try:
                    await peer.say(self.raw("POST", path, body))
                except PipeClosed:
                    pass  # refused before it was read whole
                fair(await peer.answer(), (path, body[:200]))
        finally:
            peer.pipe.close()

    def some_id(self) -> str:
        return self.dice.choice([*self.known[-5:], "%00", "x", str(uuid4())])

    async def connect(self) -> RawPeer:
        return RawPeer(await Target.unix(self.socket).connect())

    @staticmethod
    def raw(method: str, path: str, body: bytes, more: str = "") -> bytes:
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{more}"
        return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body

    # the engines

    async def engine(self, peer: PoolPeer) -> None:
        """Take every job of a replica; run it, break it, or let it hang until it is canceled."""
        async with trio.open_nursery() as jobs:
            while True:
                jobs.start_soon(self.run, await peer.opened.receive())

    async def run(self, job: Job) -> None:
        fate = self.dice.random()
        for _ in range(self.dice.randint(0, 3)):
            await trio.sleep(self.dice.random() * 0.005)
            if job.canceled.is_set():
                job.freed()
                return
            job.tokens("x")
        if fate < 0.6:
            job.end()
        elif fate < 0.8:
            job.fail(self.dice.choice((Kind.WORKER_RESET, Kind.ENGINE_DIED, Kind.INTERNAL)), "dice")
        else:
            await job.canceled.wait()
            job.freed()

    # the end

    async def settle(self) -> None:
        """Cancel all; wait until nobody waits, runs or reads."""
        app = self.front.app
        with trio.fail_after(SETTLE_S):
            while app.streams.open or any(stream.readers for stream in app.streams.all.values()):
                for task_id in list(app.streams.open):
                    await app.cancel(task_id)
                await trio.sleep(0.005)
            while any(
                r.leases for pool in app.front.world.pools.values() for r in pool.replicas.values()
            ):
                await trio.sleep(0.005)


def holds(front: Front) -> None:
    invariants.check(front.app.front, trio.current_time())
    world: Any = front.app.front.world
    assert front.app.streams.all.keys() == world.tasks.keys(), (
        "a stream for each task, and no other"
    )


@pytest.mark.req("ORCH-3250", "ORCH-3101")
@pytest.mark.parametrize("seed", range(3))
async def test_whatever_clients_and_engines_do_the_core_holds(seed: int) -> None:
    with short_folder() as folder:
        async with open_front(folder, replicas=2, slots=2) as front, trio.open_nursery() as engines:
            chance = Chance(front, seed)
            for peer in front.peers.values():
                engines.start_soon(chance.engine, peer)
            await front.get("/v1/pools")
            before = tasks_of_trio()
            for _ in range(STEPS):
                await chance.step()
                holds(front)
            await chance.settle()
            holds(front)
            assert chance.done == {"good", "wrong", "broken", "cut", "stream", "cancel"}
            front.app.tokenizers.close()  # connections that it keeps on purpose
            with trio.move_on_after(SETTLE_S):
                while tasks_of_trio() - before:
                    await trio.sleep(0.01)
            assert not tasks_of_trio() - before
            engines.cancel_scope.cancel()


def tasks_of_trio() -> Counter[str]:
    """Return how many tasks live, by their functions."""
    root = trio.lowlevel.current_root_task()
    assert root is not None
    found: Counter[str] = Counter()
    left = [root]
    while left:
        task = left.pop()
        found[task.name] += 1
        for nursery in task.child_nurseries:
            left.extend(nursery.child_tasks)
    return found
