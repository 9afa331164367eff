"""One epoll loop with timers and buffered writers: all the IO of the mock engine.

Not trio: the mock engine is the bare baseline of the relay's figures, so it must cost next to
nothing itself. What is said over the connections is server.py's.
"""

from __future__ import annotations

import heapq
import re
import select
import socket
import time
from collections import deque
from collections.abc import Callable
from itertools import count

_IN = select.EPOLLIN | select.EPOLLRDHUP
_RECV_BYTES = 64 << 10
_SPLIT_PAUSE_S = 0.001  # so that the reader has the piece before the next one comes
# a cut behind each lead byte of a multi-byte sequence, and in the middle of each frame's head
_CUTS = re.compile(rb'(?<=[\xc2-\xf4])|(?<="con)(?=tent")')


class Loop:
    """Calls back when a file is ready or a time has come, until the process ends."""

    def __init__(self) -> None:
        self.now = time.monotonic()
        self._epoll = select.epoll()
        self._files: dict[int, Callable[[int], None]] = {}
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._soon: deque[Callable[[], None]] = deque()

    def add(self, fd: int, events: int, callback: Callable[[int], None]) -> None:
        """Call `callback(events)` whenever `fd` is ready for one of `events`."""
        self._files[fd] = callback
        self._epoll.register(fd, events)

    def want(self, fd: int, events: int) -> None:
        """Change what an added file is watched for."""
        self._epoll.modify(fd, events)

    def remove(self, fd: int) -> None:
        """Forget a file before it is closed."""
        self._epoll.unregister(fd)
        del self._files[fd]

    def at(self, when: float, callback: Callable[[], None]) -> None:
        """Call once, at `when` on the monotonic clock."""
        heapq.heappush(self._timers, (when, next(self._order), callback))

    def soon(self, callback: Callable[[], None]) -> None:
        """Call once, after the files that are ready have had their turn."""
        self._soon.append(callback)

    def run(self) -> None:
        """Serve for ever."""
        poll, timers, soon, files = self._epoll.poll, self._timers, self._soon, self._files
        clock = time.monotonic
        while True:
            if soon:
                wait = 0.0
            elif timers:
                wait = max(0.0, timers[0][0] - clock())
            else:
                wait = -1.0
            ready = poll(wait)
            self.now = now = clock()
            for fd, events in ready:
                callback = files.get(fd)
                if callback is not None:  # else an earlier callback closed it
                    callback(events)
            while timers and timers[0][0] <= now:
                heapq.heappop(timers)[2]()
            for _ in range(len(soon)):
                soon.popleft()()


class Wire:
    """One connection: bytes in to `on_data`, the end to `on_gone`; bytes out, kept when the
    kernel takes no more."""

    def __init__(self, loop: Loop, sock: socket.socket, *, split: bool) -> None:
        self._loop, self._sock, self._split = loop, sock, split
        self._out = bytearray()
        self._pieces: deque[bytes] = deque()
        self.gone = False
        self.on_data: Callable[[bytes], None]
        self.on_gone: Callable[[], None]
        self.on_drained: Callable[[], None] | None = None
        """Called once all that was written has been taken, when it was not at once."""
        sock.setblocking(False)
        loop.add(sock.fileno(), _IN, self._ready)

    def write(self, data: bytes) -> bool:
        """Send; True when the kernel took all of it."""
        if self.gone:
            return False
        if self._split:
            idle = not self._pieces
            self._pieces.extend(piece for piece in _CUTS.split(data) if piece)
            if idle:
                self._next_piece()
            return not self._pieces
        if self._out:
            self._out += data
            return False
        return self._send(data)

    def close(self) -> None:
        """Close; `on_gone` is not called."""
        if not self.gone:
            self.gone = True
            self._loop.remove(self._sock.fileno())
            self._sock.close()

    def _send(self, data: bytes) -> bool:
        try:
            sent = self._sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            return False  # the loop sees the same end and says so
        if sent == len(data):
            return True
        self._out = bytearray(data[sent:])
        self._loop.want(self._sock.fileno(), _IN | select.EPOLLOUT)
        return False

    def _next_piece(self) -> None:
        if self.gone:
            return
        self._send(self._pieces[0])
        self._loop.at(self._loop.now + _SPLIT_PAUSE_S, self._piece_sent)

    def _piece_sent(self) -> None:
        if self.gone:
            return
        if not self._out:
            self._pieces.popleft()
            if not self._pieces:
                self._drained()
                return
            self._send(self._pieces[0])
        self._loop.at(self._loop.now + _SPLIT_PAUSE_S, self._piece_sent)

    def _ready(self, events: int) -> None:
        if events & (select.EPOLLHUP | select.EPOLLERR | select.EPOLLRDHUP):
            self.close()
            self.on_gone()
            return
        if events & select.EPOLLOUT and self._flush() and not self._pieces:
            self._drained()
        if events & select.EPOLLIN and not self.gone:
            try:
                data = self._sock.recv(_RECV_BYTES)
            except (BlockingIOError, ConnectionError):
                return  # EPOLLHUP follows a reset
            if data:
                self.on_data(data)

    def _flush(self) -> bool:
        try:
            sent = self._sock.send(self._out)
        except (BlockingIOError, ConnectionError):
            return False
        del self._out[:sent]
        if self._out:
            return False
        self._loop.want(self._sock.fileno(), _IN)
        return True

    def _drained(self) -> None:
        if self.on_drained is not None:
            self.on_drained()
