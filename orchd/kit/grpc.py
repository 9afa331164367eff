"""A gRPC call as a stream of bytes: the framing is HTTP/2's (the h2 package), the pipe ours.

One connection for each call: closing it is how a call is canceled, and nothing else is on it. A
body is gRPC's own frames as they came, cut anywhere; the trailers follow as one more frame with
flag 0x80, as gRPC-Web has them. What messages mean is the caller's. No thread and no grpcio.
"""

from __future__ import annotations

import contextlib
import math
import struct
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Final
from urllib.parse import unquote

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
import trio

from orchd.kit.client import NO_HEADERS
from orchd.kit.incoming import PeerError
from orchd.kit.pipe import Pipe, PipeClosed
from orchd.kit.redact import redact
from orchd.kit.target import Target

WINDOW: Final = 1 << 20
"""Bytes that may come before we read them; then the peer waits."""
_STREAM: Final = 1
_TRAILERS: Final = struct.Struct(">BI")


class GrpcClient:
    """Calls to one target; `open` as kit.client.Client has it."""

    def __init__(self, target: Target, *, connect_s: float = math.inf) -> None:
        """`connect_s` bounds the wait for a connection."""
        self.target = target
        self._connect_s = connect_s

    def open(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        headers: Mapping[str, str] = NO_HEADERS,
        first_byte_s: float = 30.0,
        idle_s: float | None = None,
        repeatable: bool = False,  # noqa: ARG002 - a connection is never a kept one
    ) -> AbstractAsyncContextManager[GrpcCall]:
        """Begin a call and enter with the head of its answer: `first_byte_s` bounds that.

        `body` holds all messages of the request. Leaving closes the connection: so a call is
        canceled. `idle_s` bounds each wait for more. Raises PeerError.
        """
        return self._open(method, path, body or b"", headers, first_byte_s, idle_s)

    @contextlib.asynccontextmanager
    async def _open(
        self,
        method: str,
        path: str,
        body: bytes,
        headers: Mapping[str, str],
        first_byte_s: float,
        idle_s: float | None,
    ) -> AsyncIterator[GrpcCall]:
        try:
            with trio.fail_after(first_byte_s):
                pipe = await self._connect()
                call = GrpcCall(self.target, pipe, idle_s)
                try:
                    await call.begin(method, path, body, headers)
                except BaseException:
                    pipe.close()
                    raise
        except trio.TooSlowError:
            why = f"no answer within {first_byte_s:g} s"
            raise PeerError(self.target, "deadline", why) from None
        try:
            yield call
        finally:
            pipe.close()

    async def _connect(self) -> Pipe:
        try:
            with trio.fail_after(self._connect_s):
                return await self.target.connect()
        except trio.TooSlowError:
            why = f"no connection within {self._connect_s:g} s"
            raise PeerError(self.target, "connect", why) from None
        except OSError as exc:
            why = redact(f"cannot connect: {exc.strerror or exc}")
            raise PeerError(self.target, "connect", why) from exc

    def close(self) -> None:
        """Do nothing: no connection outlives its call."""


class GrpcCall:
    """One call whose answer is read as it comes."""

    def __init__(self, target: Target, pipe: Pipe, idle_s: float | None) -> None:
        self.status = 0
        """HTTP's; 200 for whatever gRPC's own status is."""
        self._target = target
        self._pipe = pipe
        self._idle_s = idle_s
        self._ready = b""
        self._ended = False
        config = h2.config.H2Configuration(client_side=True)
        self._conn = h2.connection.H2Connection(config)

    async def begin(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> None:
        """Send the request, and return with the head of the answer. Raises PeerError."""
        conn = self._conn
        conn.initiate_connection()
        conn.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: WINDOW})
        conn.increment_flow_control_window(WINDOW)
        head = [
            (":method", method), (":scheme", "http"), (":path", path),
            (":authority", self._target.authority), ("te", "trailers"),
            ("content-type", "application/grpc"), *headers.items(),
        ]  # fmt: skip
        conn.send_headers(_STREAM, head)
        while body:
            room = min(conn.local_flow_control_window(_STREAM), conn.max_outbound_frame_size)
            if not room:
                await self._receive()
                continue
            conn.send_data(_STREAM, body[:room])
            body = body[room:]
        conn.end_stream(_STREAM)
        while not self.status:
            await self._receive()

    async def read_some(self) -> bytes:
        """Return what is there of the body and its trailers, or wait for some; b"" at the end.

        Raises PeerError when the answer is cut off, and after `idle_s` seconds without a byte.
        """
        while not self._ready:
            if self._ended:
                return b""
            try:
                with trio.fail_after(math.inf if self._idle_s is None else self._idle_s):
                    await self._receive()
            except trio.TooSlowError:
                why = f"nothing came for {self._idle_s:g} s"
                raise PeerError(self._target, "deadline", why) from None
        data, self._ready = self._ready, b""
        return data

    async def _receive(self) -> None:
        """Send what waits, then take in what comes next."""
        try:
            await self._say()
            data = await self._pipe.recv()
            if not data:
                raise PeerError(self._target, "receive", "the answer was cut off")
            for event in self._conn.receive_data(data):
                self._take(event)
            await self._say()
        except PipeClosed as exc:
            raise PeerError(self._target, "receive", f"the answer was cut off: {exc}") from exc
        except h2.exceptions.ProtocolError as exc:
            raise PeerError(self._target, "receive", f"does not speak HTTP/2: {exc}") from exc

    async def _say(self) -> None:
        data = self._conn.data_to_send()
        with contextlib.suppress(PipeClosed):  # what it said before it left still counts
            if data and not self._pipe.send_nowait(data):
                await self._pipe.flush()

    def _take(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.DataReceived():
                self._ready += event.data
                self._conn.acknowledge_received_data(event.flow_controlled_length, _STREAM)
            case h2.events.ResponseReceived():
                said = _named(event.headers)
                self.status = int(said.get(":status", "502"))
                if "grpc-status" in said:  # an answer that is trailers only
                    self._ready += _trailers(said)
            case h2.events.TrailersReceived():
                self._ready += _trailers(_named(event.headers))
            case h2.events.StreamEnded():
                self._ended = True
            case h2.events.StreamReset():
                if event.error_code != h2.errors.ErrorCodes.NO_ERROR or not self._ended:
                    why = f"the answer was cut off: reset with code {event.error_code}"
                    raise PeerError(self._target, "receive", why)
            case h2.events.ConnectionTerminated():
                if not self._ended:
                    raise PeerError(self._target, "receive", "the answer was cut off")
            case _:
                pass  # settings, windows and pings: h2 answers them


def _named(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("utf-8", "replace") for name, value in headers}


def _trailers(said: Mapping[str, str]) -> bytes:
    """Return trailers as the last frame of the body."""
    words = " ".join(unquote(said.get("grpc-message", "")).split())
    text = f"grpc-status: {said.get('grpc-status', '')}\r\ngrpc-message: {words}\r\n"
    payload = text.encode("utf-8", "replace")
    return _TRAILERS.pack(0x80, len(payload)) + payload
