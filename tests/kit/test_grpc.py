"""gRPC's calls against a peer that speaks HTTP/2, and against peers that break it off."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import h2.config
import h2.connection
import h2.events
import pytest
import trio
import trio.testing

from orchd.kit import fds
from orchd.kit.client import PeerError, Target
from orchd.kit.grpc import WINDOW, GrpcClient
from orchd.kit.pipe import Pipe, PipeClosed

OK = [(":status", "200"), ("content-type", "application/grpc")]


class Server:
    """The other end of one connection: reads the whole request, then a script answers."""

    def __init__(self, pipe: Pipe) -> None:
        self.pipe = pipe
        self.headers: dict[str, str] = {}
        self.body = b""
        self.window = 0
        config = h2.config.H2Configuration(client_side=False)
        self.conn = h2.connection.H2Connection(config)

    async def take(self) -> None:
        """Take in one piece of what the client says."""
        data = await self.pipe.recv()
        if not data:
            raise PipeClosed("gone")
        for event in self.conn.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                self.headers = {n.decode(): v.decode() for n, v in event.headers}
            elif isinstance(event, h2.events.DataReceived):
                self.body += event.data
                self.conn.acknowledge_received_data(event.flow_controlled_length, 1)
            elif isinstance(event, h2.events.StreamEnded):
                self.ended = True
        await self.say()

    async def request(self) -> None:
        self.ended = False
        self.conn.initiate_connection()
        while not self.ended:
            await self.take()

    async def say(self) -> None:
        data = self.conn.data_to_send()
        if data and not self.pipe.send_nowait(data):
            await self.pipe.flush()

    async def send(self, data: bytes) -> None:
        while data:
            room = min(self.conn.local_flow_control_window(1), self.conn.max_outbound_frame_size)
            self.window = max(self.window, room)
            if room:
                self.conn.send_data(1, data[:room])
                data = data[room:]
                await self.say()
            else:
                await self.take()

    async def trailers(self, *more: tuple[str, str]) -> None:
        self.conn.send_headers(1, [*more], end_stream=True)
        await self.say()


Script = Callable[[Server], Awaitable[None]]


@contextlib.asynccontextmanager
async def served(folder: Path, script: Script, seen: list[Server]) -> AsyncIterator[GrpcClient]:
    listener = fds.bind_unix(folder / "g")

    async def run() -> None:
        await trio.lowlevel.wait_readable(listener.fileno())
        server = Server(Pipe(listener.accept()[0]))
        seen.append(server)
        try:
            with contextlib.suppress(PipeClosed):
                await server.request()
                await script(server)
        finally:
            server.pipe.close()

    with listener:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            yield GrpcClient(Target.unix(folder / "g"))
            nursery.cancel_scope.cancel()


async def whole(client: GrpcClient, body: bytes = b"request", **more: float) -> bytes:
    async with client.open("POST", "/s/M", body, headers={"x-a": "b"}, **more) as call:  # type: ignore[arg-type]
        assert call.status == 200
        got = b""
        while data := await call.read_some():
            got += data
        return got


def last(words: str) -> bytes:
    return struct.pack(">BI", 0x80, len(words)) + words.encode()


@pytest.mark.req("ORCH-3610", "ORCH-3057")
async def test_a_call_and_its_answer_of_any_size(tmp_path: Path) -> None:
    seen: list[Server] = []
    answer = bytes(range(256)) * (3 * WINDOW // 256)

    async def script(server: Server) -> None:
        server.conn.send_headers(1, OK)
        await server.send(answer)
        await server.trailers(("grpc-status", "0"))

    request = b"r" * 300_000  # more than the window that the peer gives at first
    async with served(tmp_path, script, seen) as client:
        got = await whole(client, request)
    assert got == answer + last("grpc-status: 0\r\ngrpc-message: \r\n")
    assert seen[0].body == request
    said = seen[0].headers
    assert (said[":path"], said["te"], said["x-a"]) == ("/s/M", "trailers", "b")
    assert said["content-type"] == "application/grpc"


@pytest.mark.req("ORCH-3276")
async def test_an_answer_may_be_trailers_only(tmp_path: Path) -> None:
    async def script(server: Server) -> None:
        head = [*OK, ("grpc-status", "5"), ("grpc-message", "not%20found%0d%0agrpc-status: 0")]
        server.conn.send_headers(1, head, end_stream=True)
        await server.say()

    async with served(tmp_path, script, []) as client:
        got = await whole(client)
    assert got == last("grpc-status: 5\r\ngrpc-message: not found grpc-status: 0\r\n")


async def cut(server: Server) -> None:
    server.conn.send_headers(1, OK)
    await server.send(b"some")


async def reset(server: Server) -> None:
    await cut(server)
    server.conn.reset_stream(1, 8)
    await server.say()


async def goaway(server: Server) -> None:
    server.conn.close_connection(2)
    await server.say()


async def no_http2(server: Server) -> None:
    server.pipe.send_nowait(b"HTTP/1.1 400 Bad Request\r\n\r\n" + b"x" * 100)


async def silent(server: Server) -> None:
    await trio.sleep_forever()


async def half(server: Server) -> None:
    await cut(server)
    await trio.sleep_forever()


@pytest.mark.req("ORCH-3276", "ORCH-3611")
@pytest.mark.parametrize(
    ("script", "phase", "words"),
    [
        (cut, "receive", "cut off"),
        (reset, "receive", "reset with code 8"),
        (goaway, "receive", "cut off"),
        (no_http2, "receive", "cut off"),
        (silent, "deadline", "no answer within 30 s"),
        (half, "deadline", "nothing came for 2 s"),
    ],
)
async def test_a_break_is_told(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, script: Script, phase: str, words: str
) -> None:
    async with served(tmp_path, script, []) as client:
        with pytest.raises(PeerError) as broken:
            await whole(client, idle_s=2.0)
    assert broken.value.phase == phase
    assert words in broken.value.why


async def test_nobody_there_is_told(tmp_path: Path) -> None:
    client = GrpcClient(Target.unix(tmp_path / "none"), connect_s=1.0)
    with pytest.raises(PeerError) as broken:
        await whole(client)
    assert broken.value.phase == "connect"
    client.close()


async def test_leaving_closes_the_connection(tmp_path: Path) -> None:
    gone = trio.Event()

    async def script(server: Server) -> None:
        await cut(server)
        with contextlib.suppress(PipeClosed):
            while True:
                await server.take()
        gone.set()

    async with served(tmp_path, script, []) as client:
        async with client.open("POST", "/s/M", b"") as call:
            assert await call.read_some() == b"some"
        with trio.fail_after(5):
            await gone.wait()
