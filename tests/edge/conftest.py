"""A whole front daemon in the test's process: real sockets, a real client, a pool peer.

`front` is orchd without its process: App, Routes and the HTTP server on a unix socket.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest
import trio

from orchd.config.pool import Engine, Model, Pool, Price, Queue, Watchdog
from orchd.config.schema import Secret, Settings
from orchd.edge.app import App
from orchd.edge.auth import Guard
from orchd.edge.cors import allowing
from orchd.edge.routes import Routes
from orchd.kit import fds, http
from orchd.kit.client import Answer, Client, Target
from orchd.wire.ids import DeviceMask, EngineId, PoolId, Positive, ReplicaId, Text
from orchd.wire.policy import FullPolicy
from tests.edge.pool_peer import PoolPeer, snapshot_of
from tests.fakes.tasks import task_body


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: a unix socket's name has 108 bytes."""
    with tempfile.TemporaryDirectory(prefix="orchd-") as name:
        yield Path(name)


class Front:
    """orchd in this process, its one pool `demo`, and a client of its unix socket."""

    def __init__(self, app: App, client: Client, peers: dict[ReplicaId, PoolPeer]) -> None:
        self.app, self.client, self.peers = app, client, peers

    @property
    def peer(self) -> PoolPeer:
        return next(iter(self.peers.values()))

    async def post(self, path: str, body: object = None, **headers: str) -> Answer:
        data = b"" if body is None else orjson.dumps(body)
        sent = {"content-type": "application/json"} | headers
        return await self.client.request("POST", path, data, headers=sent, deadline_s=5)

    async def get(self, path: str, **headers: str) -> Answer:
        return await self.client.request("GET", path, headers=headers, deadline_s=5)

    async def submit(self, **changes: Any) -> str:
        body = task_body(**changes)
        answer = await self.post("/v1/tasks", body)
        assert answer.status == 202, answer.body
        return str(body["task_id"])


Opener = Callable[..., Any]


@asynccontextmanager
async def open_front(
    folder: Path,
    *,
    replicas: int = 1,
    slots: int = 1,
    queue: Queue | None = None,
    token: str | None = None,
    ready: bool = True,
    price: Price | None = None,
    watchdog: Watchdog | None = None,
    full_policy: FullPolicy = FullPolicy.REJECT,
    **settings: Any,
) -> AsyncIterator[Front]:
    pool = Pool(
        id=PoolId("demo"),
        engine=Engine(id=EngineId("mock")),
        model=Model(ref=Text("mock:lorem")),
        replicas=tuple(DeviceMask((index,)) for index in range(replicas)),
        ctx=Positive(4096),
        slots=Positive(slots),
        queue=queue or Queue(),
        price=price or Price(),
        watchdog=watchdog or Watchdog(),
        full_policy=full_policy,
    )
    config = Settings(
        state_dir=settings.pop("state_dir", folder),
        run_dir=folder,
        pools=(pool,),
        auth_token=None if token is None else Secret(token),
        **settings,
    )
    app = App(config)
    listener = fds.bind_unix(config.front_socket)
    client = Client(Target.unix(config.front_socket), token=token)
    peers = {
        replica: PoolPeer(config.pool_socket(replica), snapshot_of(replica, slots=slots))
        for replica in (pool.replica_ids if ready else ())
    }
    try:
        async with trio.open_nursery() as nursery:
            for peer in peers.values():
                await nursery.start(peer.run)
            await nursery.start(app.run)
            guard = Guard(
                token,
                config.auth_optional,
                config.trust_proxy_auth,
                frozenset(config.cors_origins),
            )
            handler = allowing(config.cors_origins, Routes(app, guard))
            await nursery.start(partial(http.serve, [listener], handler))
            with trio.fail_after(5):
                for peer in peers.values():
                    await peer.linked.wait()
                while ready and app.unready_reasons():
                    await trio.sleep(0.001)
            yield Front(app, client, peers)
            nursery.cancel_scope.cancel()
    finally:
        client.close()
        listener.close()


@pytest.fixture
def front(folder: Path) -> Opener:
    return partial(open_front, folder)


def read_json(answer: Answer) -> dict[str, Any]:
    value = orjson.loads(answer.body)
    assert isinstance(value, dict)
    return value
