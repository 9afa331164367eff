"""gRPC as the test's own: the grpcio package, so that nothing of the product helps the product.

An answer looks as http.client's do: status, read1, close. Its body is gRPC's frames as they would
be on the wire, with the trailers as the last one.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import grpc

from poolmgr.engines.base import Call


def _same(message: bytes) -> bytes:
    return message


class GrpcAnswer:
    """One call to a unix socket."""

    status = 200

    def __init__(self, socket: Path, call: Call) -> None:
        self._channel = grpc.insecure_channel(f"unix:{socket}")
        assert not call.headers
        method = self._channel.stream_stream(
            call.path, request_serializer=_same, response_deserializer=_same
        )
        self._stream = method(iter([call.body[5:]]), timeout=30)
        self._frames = self._read()

    def _read(self) -> Iterator[bytes]:
        code, words = 0, ""
        try:
            for message in self._stream:
                yield struct.pack(">BI", 0, len(message)) + message
        except grpc.RpcError as exc:
            code, words = exc.code().value[0], exc.details() or ""
            if code == grpc.StatusCode.UNAVAILABLE.value[0] and "Socket closed" in words:
                raise ConnectionError(words) from exc
        trailers = f"grpc-status: {code}\r\ngrpc-message: {words}\r\n".encode()
        yield struct.pack(">BI", 0x80, len(trailers)) + trailers

    def read1(self, _size: int = -1) -> bytes:
        """Return the next frame; b"" at the end."""
        return next(self._frames, b"")

    def read(self) -> bytes:
        """Return all frames."""
        return b"".join(self._frames)

    def close(self) -> None:
        """Cancel the call and close its connection."""
        self._stream.cancel()
        self._channel.close()
