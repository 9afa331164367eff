"""An HTTP/2 client for tests: the library's client side over a pipe, and frames made by hand."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import orjson
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    InformationalResponseReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
)

from orchd.kit.exchange import PREFACE
from orchd.kit.pipe import Pipe, PipeClosed
from tests.fakes.peers import Served


def frame(kind: int, flags: int = 0, stream_id: int = 0, payload: bytes = b"") -> bytes:
    """Return a frame, right or wrong."""
    return (
        struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream_id) + payload
    )


SETTINGS = frame(4)
HELLO = PREFACE + SETTINGS


class Answer:
    """What came on one stream."""

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}
        self.data = bytearray()
        self.informed: list[str] = []
        self.ended = False
        self.reset: int | None = None

    @property
    def body(self) -> bytes:
        return bytes(self.data)

    @property
    def status(self) -> int:
        return int(self.headers[":status"])

    @property
    def json(self) -> Any:
        return orjson.loads(self.data)

    @property
    def over(self) -> bool:
        return self.ended or self.reset is not None


class H2Peer:
    """One connection. Streams in `idle` are received but never read: their windows stay shut."""

    def __init__(self, pipe: Pipe) -> None:
        self.pipe = pipe
        self.h2 = H2Connection(H2Configuration(client_side=True, header_encoding=None))
        self.answers: dict[int, Answer] = {}
        self.idle: set[int] = set()
        self.goaway: ConnectionTerminated | None = None
        self.closed = False

    @classmethod
    async def connect(cls, served: Served) -> H2Peer:
        peer = cls((await served.connect()).pipe)
        peer.h2.initiate_connection()
        # a client that is never the bottleneck: the connection's window is wide open
        peer.h2.increment_flow_control_window(1 << 30)
        await peer.flush()
        return peer

    async def flush(self) -> None:
        data = self.h2.data_to_send()
        if data and not self.pipe.send_nowait(data):
            await self.pipe.flush()

    async def say(self, data: bytes) -> None:
        """Send bytes that the state machine does not know of."""
        if not self.pipe.send_nowait(data):
            await self.pipe.flush()

    async def send(
        self,
        path: str = "/",
        method: str = "GET",
        body: bytes = b"",
        *,
        end: bool = True,
        **headers: Any,
    ) -> int:
        """Send a request; `end` False: more of the body is to come. Returns its stream id."""
        stream_id = self.h2.get_next_available_stream_id()
        fields = [(":method", method), (":scheme", "http"), (":authority", "x"), (":path", path)]
        fields += [(name.replace("_", "-"), value) for name, value in headers.items()]
        self.answers[stream_id] = Answer()
        self.h2.send_headers(stream_id, fields, end_stream=end and not body)
        for at in range(0, len(body), 16384):
            while self.h2.local_flow_control_window(stream_id) < 16384:
                await self.flush()
                await self.receive()
            piece = body[at : at + 16384]
            self.h2.send_data(stream_id, piece, end_stream=end and at + len(piece) == len(body))
        await self.flush()
        return stream_id

    async def receive(self) -> bool:
        """Take what comes; False at the end of the connection."""
        data = await self.pipe.recv()
        if not data:
            self.closed = True
            return False
        for event in self.h2.receive_data(data):
            self._happened(event)
        with suppress(PipeClosed):  # what it sent before it left is still to be read
            await self.flush()
        return True

    def _happened(self, event: object) -> None:
        if isinstance(event, ConnectionTerminated):
            self.goaway = event
            return
        answer = self.answers.get(getattr(event, "stream_id", None) or 0)
        if answer is None:
            return
        if isinstance(event, ResponseReceived):
            answer.headers = _text(event.headers)
        elif isinstance(event, InformationalResponseReceived):
            answer.informed.append(_text(event.headers)[":status"])
        elif isinstance(event, DataReceived):
            answer.data += event.data
            if event.stream_id not in self.idle and event.flow_controlled_length:
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, StreamEnded):
            answer.ended = True
        elif isinstance(event, StreamReset):
            answer.reset = int(event.error_code)

    async def answer(self, stream_id: int) -> Answer:
        """Return the answer of a stream once it is over."""
        answer = self.answers[stream_id]
        while not answer.over:
            assert await self.receive(), "the connection ended before the answer"
        return answer

    async def ask(
        self, path: str = "/", method: str = "GET", body: bytes = b"", **headers: Any
    ) -> Answer:
        """Send a request and return its answer."""
        return await self.answer(await self.send(path, method, body, **headers))

    async def body_of(self, stream_id: int, size: int) -> bytes:
        """Return the body so far, once it has `size` bytes."""
        answer = self.answers[stream_id]
        while len(answer.data) < size and not answer.over:
            assert await self.receive(), "the connection ended"
        return answer.body

    async def reset(self, stream_id: int, code: ErrorCodes = ErrorCodes.CANCEL) -> None:
        """Leave a stream."""
        self.h2.reset_stream(stream_id, code)
        await self.flush()

    async def to_end(self) -> None:
        """Take everything until the connection ends."""
        while await self.receive():
            pass


def _text(fields: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in fields}


def frames(data: bytes) -> list[tuple[int, int, int, bytes]]:
    """Cut what a server sent into (type, flags, stream id, payload)."""
    found = []
    while len(data) >= 9:
        length = int.from_bytes(data[:3], "big")
        found.append((data[3], data[4], int.from_bytes(data[5:9], "big"), data[9 : 9 + length]))
        data = data[9 + length :]
    return found
