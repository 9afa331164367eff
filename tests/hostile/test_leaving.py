"""Clients that leave, half-close or stop reading, at every byte of every request."""

from __future__ import annotations

import re
import socket
import struct
from collections.abc import Iterator
from itertools import cycle
from uuid import uuid4

import orjson
import pytest
import trio

from tests.fakes.h2_peer import H2Peer
from tests.fakes.tasks import task_body
from tests.hostile.ledger import VICTIM, idle, nothing_left
from tests.hostile.test_targets import request
from tests.sockets.suite import Suite
from tests.sockets.talk import get, submit
from tools.openapi.document import OPERATIONS
from tools.openapi.table import Operation

pytestmark = pytest.mark.slow
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close() sends a reset
ANSWER_S = 10.0


def said(row: Operation, task_id: str) -> bytes:
    """Return a good request of a route as HTTP/1.1, of a task that there is."""
    _, body = request(row)
    path = row.path.replace("{pool_id}", VICTIM).replace("{task_id}", task_id)
    path = re.sub(r"\{\w+\}", str(uuid4()), path)
    head = f"{row.method} {path} HTTP/1.1\r\nHost: x\r\n"
    if body:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


def connected(suite: Suite, way: str) -> socket.socket:
    if way == "unix":
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(suite.front_socket))
        return sock
    return socket.create_connection(("127.0.0.1", suite.port))


def leave(sock: socket.socket, how: str) -> None:
    """Close it, reset it, or close one half of it first."""
    match how:
        case "reset":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        case "half":
            try:
                sock.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # the daemon was quicker
    sock.close()


def ways_to_leave() -> Iterator[tuple[str, str]]:
    """Go round: each byte is left in one of six ways, each request in all of them."""
    return cycle((way, how) for how in ("close", "reset", "half") for way in ("http/1.1", "unix"))


@pytest.mark.req("SSE-1003", "ORCH-3101")
@pytest.mark.parametrize("row", OPERATIONS, ids=lambda row: row.id)
async def test_leaving_after_each_byte(suite: Suite, row: Operation) -> None:
    async with nothing_left(suite):
        client = suite.client()
        task = await submit(client, max_tokens=1)
        data, ways = said(row, task["task_id"]), ways_to_leave()
        for end in range(len(data) + 1):
            way, how = next(ways)
            with connected(suite, way) as sock:
                sock.sendall(data[:end])
                leave(sock, how)
            if end % 50 == 0:
                await get(client, "/health")
        client.close()


async def test_leaving_http2_after_each_byte(suite: Suite) -> None:
    async with nothing_left(suite):
        for end in range(len(preface_and_task())):
            with connected(suite, "http/1.1") as sock:
                sock.sendall(preface_and_task()[:end])
                leave(sock, ("close", "reset", "half")[end % 3])
        client = suite.client()
        await get(client, "/health")
        client.close()


def preface_and_task() -> bytes:
    """Return what an HTTP/2 client says that submits a task."""
    left, right = socket.socketpair()
    with left, right:
        peer = H2Peer.__new__(H2Peer)
        H2Peer.__init__(peer, None)  # type: ignore[arg-type]
        peer.h2.initiate_connection()
        fields = [(":method", "POST"), (":scheme", "http"), (":authority", "x")]
        fields += [(":path", "/v1/tasks"), ("content-type", "application/json")]
        peer.h2.send_headers(1, fields)
        peer.h2.send_data(1, orjson.dumps(task_body(max_tokens=2)), end_stream=True)
        return bytes(peer.h2.data_to_send())


@pytest.mark.parametrize("row", OPERATIONS, ids=lambda row: row.id)
async def test_a_half_closed_client_gets_its_answer(suite: Suite, row: Operation) -> None:
    """Whoever has said all that it wants to say may close its half, as `nc -N` does."""
    async with nothing_left(suite):
        client = suite.client()
        task = await submit(client, max_tokens=1)
        await idle(client)
        with connected(suite, "http/1.1") as sock:
            sock.settimeout(ANSWER_S)
            sock.sendall(said(row, task["task_id"]))
            sock.shutdown(socket.SHUT_WR)
            got = await trio.to_thread.run_sync(read_all, sock)
        assert re.match(rb"HTTP/1\.1 [2345]\d\d ", got), got[:200]
        assert not got.startswith(b"HTTP/1.1 500"), got
        client.close()


def read_all(sock: socket.socket) -> bytes:
    data = b""
    while more := sock.recv(65536):
        data += more
    return data


@pytest.mark.parametrize("way", ["http/1.1", "unix"])
async def test_a_client_that_asks_and_never_reads(suite: Suite, way: str) -> None:
    """Its answers wait in the kernel, then the daemon waits: only it, and for a bounded time."""
    async with nothing_left(suite):
        client = suite.client()
        with connected(suite, way) as sock:
            sock.setblocking(False)
            asked = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 100
            full = 0
            for _ in range(5_000):
                try:
                    sock.send(asked)
                    full = 0
                except BlockingIOError:
                    full += 1
                    if full == 20:
                        break
                    await get(client, "/health")
            assert full == 20, "the daemon took all that it was asked and was not answered for"
            for _ in range(5):
                task = await submit(client, max_tokens=2)
                assert task["task_id"]
        client.close()


async def test_a_client_that_reads_no_stream_of_its_own(suite: Suite) -> None:
    async with nothing_left(suite):
        client = suite.client()
        socks = []
        for index in range(20):
            task = await submit(client, max_tokens=2_000, ctx=8192)
            sock = connected(suite, ("http/1.1", "unix")[index % 2])
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            sock.sendall(f"GET {task['stream_url']} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            socks.append(sock)
        other = await submit(client, max_tokens=2)
        await idle_soon(client, other["task_id"])
        for index, sock in enumerate(socks):
            leave(sock, ("close", "reset", "half")[index % 3])
        client.close()


async def idle_soon(client: object, task_id: str) -> None:
    with trio.fail_after(20):
        while (await get(client, f"/v1/tasks/{task_id}"))["state"] != "ended":  # type: ignore[arg-type]
            await trio.sleep(0.01)


async def test_hundreds_that_begin_and_wait(suite: Suite) -> None:
    """Heads that do not end, bodies that do not come: whoever else comes is served meanwhile."""
    begun = (
        b"",
        b"G",
        b"GET /v1/tasks HTTP/1.1\r\nHost: x\r\n",
        b"POST /v1/tasks HTTP/1.1\r\nHost: x\r\nContent-Length: 8000000\r\n\r\n{",
        b"POST /v1/tasks HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        preface_and_task()[:60],
    )
    async with nothing_left(suite):
        client = suite.client()
        socks = []
        for index in range(400):
            sock = connected(suite, ("http/1.1", "unix")[index % 2])
            sock.sendall(begun[index % len(begun)])
            socks.append(sock)
        with trio.fail_after(5):
            await submit(client, max_tokens=2)
        for index, sock in enumerate(socks):
            leave(sock, ("close", "reset", "half")[index % 3])
        client.close()
