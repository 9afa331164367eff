"""Clients that mean no good, or do not care, at the real suite: nobody else may notice."""

from __future__ import annotations

import fcntl
import random
import socket
import struct
import tempfile
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
import trio

from orchd.kit.client import Client
from tests.fakes.tasks import task_body
from tests.lab.machine import wait_for
from tests.sockets.suite import SIMULATED, Suite, mock_pool
from tests.sockets.talk import events_of, last, post, stream, submit, until

pytestmark = pytest.mark.slow
PAUSE_S = 2.0
"""What others may wait at most while a bomb is read; an idle machine takes a tenth of it."""


@pytest.fixture(scope="module")
def suite() -> Iterator[Suite]:
    config = SIMULATED + mock_pool(engine="tokens_per_s = 500", replicas="[[0], [1]]")
    with tempfile.TemporaryDirectory(prefix="orchd-") as folder:
        with Suite(Path(folder), config) as started:
            started.wait_ready()
            yield started


@pytest.fixture
async def client(suite: Suite) -> Client:
    return suite.client()


def request(method: str, path: str, body: bytes = b"") -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


@pytest.mark.req("ORCH-3101")
@pytest.mark.parametrize(
    "bomb",
    [
        orjson.dumps(task_body(inputs=[0] * 2_000_000)),
        orjson.dumps({f"k{n}": n for n in range(300_000)}),
        orjson.dumps(task_body(model_ref="x" * 4_000_000)),
        b"[" * 4_000_000,
        b'{"a":' * 1_000_000,
    ],
    ids=["wrong items", "unknown keys", "long name", "deep list", "deep object"],
)
async def test_a_bomb_is_refused_soon_and_nobody_waits(
    suite: Suite, client: Client, bomb: bytes
) -> None:
    async def ask() -> None:
        answer = await client.request(
            "POST", "/v1/tasks", bomb, headers={"content-type": "application/json"}
        )
        assert answer.status == 400
        assert len(answer.body) < 64 << 10

    other = suite.client()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        for _ in range(5):
            with trio.fail_after(PAUSE_S):
                assert (await other.request("GET", "/health")).status == 200
    client.close()
    other.close()


async def test_no_seed_breaks_the_streams_of_others(suite: Suite, client: Client) -> None:
    mark = len(suite.events)
    victim = await submit(client, max_tokens=200)
    async with stream(client, victim["task_id"]) as incoming:
        await until(incoming, b"event: token")
        for seed in (-(2**63), 2**63 - 1, -1, 0):
            task = await submit(client, seed=seed, max_tokens=2)
            assert last(await events_of(client, task["task_id"]))["finish_reason"] == "length"
        assert b'"finish_reason":"length"' in await until(incoming, b"event: end")
    assert not [event for event in suite.events[mark:] if event["event"] == "link_down"]
    client.close()


def test_leaving_after_each_byte_leaves_nothing_behind(suite: Suite) -> None:
    data = request("POST", "/v1/tasks", orjson.dumps(task_body(max_tokens=1)))
    descriptors = Path(f"/proc/{suite.orchd_pid}/fd")
    before = len(list(descriptors.iterdir()))
    for end in range(len(data)):
        with socket.create_connection(("127.0.0.1", suite.port)) as sock:
            sock.sendall(data[:end])
            if end % 2:  # half of them with a reset
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with socket.create_connection(("127.0.0.1", suite.port)) as sock:
        sock.sendall(request("GET", "/health"))
        assert sock.recv(100).startswith(b"HTTP/1.1 200")
    wait_for(lambda: len(list(descriptors.iterdir())) < before + 20, 10.0, "closed connections")


@pytest.mark.req("ORCH-3026")
def test_no_token_comes_after_the_204(suite: Suite) -> None:
    """As seen by a client: what is not in its socket when the 204 comes holds no token."""
    dice = random.Random(5)
    with socket.create_connection(("127.0.0.1", suite.port)) as control:
        control.settimeout(10)
        for _ in range(60):
            body = task_body(max_tokens=1000)
            path = f"/v1/tasks/{body['task_id']}"
            control.sendall(request("POST", "/v1/tasks", orjson.dumps(body)))
            assert b" 202 " in control.recv(4096)
            with socket.create_connection(("127.0.0.1", suite.port)) as reader:
                reader.settimeout(10)
                reader.sendall(request("GET", f"{path}/stream"))
                time.sleep(dice.random() * 0.05)
                control.sendall(request("POST", f"{path}/cancel"))
                assert b" 204 " in control.recv(4096)
                waiting = fcntl.ioctl(reader, termios.FIONREAD, bytes(4))
                seen = int.from_bytes(waiting, "little")
                data = b""
                while not data.endswith(b"0\r\n\r\n"):
                    data += reader.recv(65536)
            assert b"event: token" not in data[seen:]
            assert data.count(b'"finish_reason":"canceled"') == 1


async def test_a_reader_of_a_byte_a_second_holds_up_nobody(suite: Suite, client: Client) -> None:
    task = await submit(client, max_tokens=500)
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        slow.connect(("127.0.0.1", suite.port))
        slow.sendall(request("GET", task["stream_url"]))
        with trio.fail_after(10):
            events = await events_of(client, task["task_id"])
        assert sum(event.name == "token" for event in events) == 500
        slow.settimeout(10)
        data = slow.recv(1)
        while not data.endswith(b"0\r\n\r\n"):
            data += slow.recv(65536)
        assert data.count(b"event: token") == 500
    client.close()


async def test_who_is_cancelled_while_it_waits_leaves_the_right_positions(
    suite: Suite, client: Client
) -> None:
    running = [await submit(client, max_tokens=900) for _ in range(2)]
    waiting = [await submit(client, max_tokens=1) for _ in range(40)]
    ids = [task["task_id"] for task in waiting]
    for task in random.Random(7).sample(ids, 30):
        assert (await post(client, f"/v1/tasks/{task}/cancel")).status == 204
        ids.remove(task)
        status = orjson.loads((await client.request("GET", f"/v1/tasks/{ids[-1]}")).body)
        assert status["queue_position"] == len(ids) - 1
    for task in running:
        assert (await post(client, f"/v1/tasks/{task['task_id']}/cancel")).status == 204
    for task in ids:
        assert last(await events_of(client, task))["finish_reason"] == "length"
    client.close()
