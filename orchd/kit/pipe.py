"""A connected stream socket for the hot path: the call is tried first, waiting comes second.

trio's SocketStream costs 17 us for a send and a receive, the bare calls 2.3, a checkpoint 3.6
(specs/benchmarks.md). So nothing here makes a checkpoint while the kernel has data or room, but
for one in every FAIR calls. No framing and no deadlines: those are the caller's.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import Final

import trio

RECV_BYTES: Final = 64 << 10  # 256 KiB is slower: the buffer leaves the cache
MAX_PENDING: Final = 1 << 20
FAIR: Final = 16  # receives in a row before other tasks, and a cancellation, get their turn
_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 s: close() sends RST


class PipeClosed(Exception):  # noqa: N818 - names an event, as trio.EndOfChannel does
    """The peer has gone, or this side closed the pipe."""


class Pipe:
    """Owns a connected stream socket. One task receives; sends come from anywhere in the loop."""

    __slots__ = (
        "_closed",
        "_drained",
        "_idle",
        "_lock",
        "_pending",
        "_sock",
        "_turns",
        "max_pending",
    )

    def __init__(self, sock: socket.socket, *, max_pending: int = MAX_PENDING) -> None:
        """Take over `sock`; `max_pending` bounds, in bytes, what send_nowait keeps."""
        sock.setblocking(False)
        self._sock = sock
        self.max_pending = max_pending
        self._pending: bytes | bytearray = b""  # a bytearray only while there is a rest
        self._turns = 0
        self._drained = False
        """The last receive took all there was: trying again now would cost 3 us and fail."""
        self._closed = False
        self._lock: trio.Lock | None = None  # made by the first flush that has to wait
        self._idle: trio.lowlevel.ParkingLot | None = None

    @property
    def sock(self) -> socket.socket:
        """The socket itself, for its options and addresses."""
        return self._sock

    @property
    def closed(self) -> bool:
        """True after close() or abort() on this side."""
        return self._closed

    @property
    def pending(self) -> int:
        """Bytes that the kernel has not taken yet."""
        return len(self._pending)

    async def recv(self, max_bytes: int = RECV_BYTES) -> bytes:
        """Return what is there, at most `max_bytes`, or wait; b"" at the end of the stream.

        Raises PipeClosed on a reset.
        """
        self._turns += 1
        if self._turns >= FAIR:
            self._turns = 0
            await trio.lowlevel.checkpoint()
        while True:
            if not self._drained:
                try:
                    data = self._sock.recv(max_bytes)
                except BlockingIOError:
                    pass
                except OSError as exc:
                    raise PipeClosed(str(exc)) from exc
                else:
                    self._drained = 0 < len(data) < max_bytes
                    return data
            self._drained, self._turns = False, 0
            if self._closed:
                # trio keeps a wait on the number -1 for ever; the next one raises BusyResourceError
                raise PipeClosed("closed on this side")
            try:
                await trio.lowlevel.wait_readable(self._sock.fileno())
            except (trio.ClosedResourceError, OSError) as exc:
                raise PipeClosed("closed on this side") from exc

    def send_nowait(self, data: bytes) -> bool:
        """Give `data` to the kernel; True if it took all of it, else the rest is kept.

        A pipe that keeps more than `max_pending` bytes takes nothing more: it is reset. So at most
        `max_pending` bytes and one message are held. Raises PipeClosed.
        """
        if self._pending:
            if len(self._pending) > self.max_pending:
                self.abort()
                raise PipeClosed(f"the peer left {self.max_pending} bytes unread")
            self._pending += data
            return False
        try:
            taken = self._sock.send(data)
        except BlockingIOError:
            taken = 0
        except OSError as exc:
            raise PipeClosed(str(exc)) from exc
        if taken == len(data):
            return True
        self._pending = bytearray(memoryview(data)[taken:])
        if self._idle is not None:
            self._idle.unpark_all()
        return False

    async def flush_some(self) -> None:
        """Wait until the kernel takes a part of what is pending. Raises PipeClosed."""
        if not self._pending:
            return
        try:
            await trio.lowlevel.wait_writable(self._sock.fileno())
        except (trio.ClosedResourceError, OSError) as exc:
            raise PipeClosed("closed on this side") from exc
        try:
            taken = self._sock.send(self._pending)
        except BlockingIOError:
            return
        except OSError as exc:
            raise PipeClosed(str(exc)) from exc
        if taken == len(self._pending):
            self._pending = b""
        elif isinstance(self._pending, bytearray):
            del self._pending[:taken]  # moves a pointer, not the bytes

    async def flush(self) -> None:
        """Return when nothing is pending; at once, without a checkpoint, when nothing is.

        Several tasks may flush; they wait for each other. Raises PipeClosed.
        """
        if self._closed:
            raise PipeClosed("closed on this side")
        if not self._pending:
            return
        if self._lock is None:
            self._lock = trio.Lock()
        async with self._lock:
            while self._pending:
                await self.flush_some()
        if self._closed:
            raise PipeClosed("closed on this side")

    async def keep_flushing(self) -> None:
        """Flush whatever send_nowait leaves, for ever: a service for a nursery.

        Raises PipeClosed when the peer has gone or the pipe is closed on this side.
        """
        if self._idle is None:
            self._idle = trio.lowlevel.ParkingLot()
        while True:
            await self.flush()
            await self._idle.park()

    def quiet(self) -> bool:
        """True if the peer has neither sent anything nor hung up: a kept-alive pipe is usable."""
        try:
            self._sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def shutdown(self) -> None:
        """Say that nothing more is sent; receiving goes on. A peer that has gone is no error."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)

    def abort(self) -> None:
        """Close with a reset: the peer must not take what it has for the whole.

        A unix socket knows no reset; its peer sees the end of the stream.
        """
        if not self._closed:
            with contextlib.suppress(OSError):
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.close()

    def close(self) -> None:
        """Close; tasks that wait on this pipe get PipeClosed. What is pending is dropped."""
        if self._closed:
            return
        self._closed = True
        self._pending = b""
        trio.lowlevel.notify_closing(self._sock.fileno())
        self._sock.close()
        if self._idle is not None:
            self._idle.unpark_all()
