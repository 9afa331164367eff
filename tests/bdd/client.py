"""A client of the public API that shares no line with the product: http.client, sockets, threads.

Steps are synchronous, so a stream that is read while other steps go on has a thread of its own.
Every wait here has a deadline.
"""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from attrs import define, field, frozen

ANSWER_S = 10.0
FRAME_S = 20.0


@frozen
class Reply:
    """One answer."""

    status: int
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes

    @property
    def json(self) -> Any:
        """The body, which must be JSON."""
        return json.loads(self.body)


@frozen
class Frame:
    """One event of a stream."""

    id: int
    name: str
    data: Any


def ask(
    port: int, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
) -> Reply:
    """Ask once, on a connection of its own. `body` is sent as JSON; bytes as they are."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_S)
    sent = dict(headers or {})
    data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    if data is not None:
        sent.setdefault("Content-Type", "application/json")
    try:
        connection.request(method, path, data, sent)
        answer = connection.getresponse()
        names = {name.lower(): value for name, value in answer.getheaders()}
        return Reply(answer.status, names, answer.read())
    finally:
        connection.close()


@define(eq=False)
class Follower:
    """Reads one stream to its end, in a thread."""

    frames: list[Frame] = field(factory=list)
    over: str = ""
    """Why no more frames come: `end`, `left`, or what broke."""
    _changed: threading.Condition = field(factory=threading.Condition)
    _socket: socket.socket | None = None
    _thread: threading.Thread | None = None

    def start(self, port: int, path: str, headers: dict[str, str]) -> None:
        """Ask for the stream; its head is here when this returns. Fails unless it is a 200."""
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=FRAME_S)
        connection.request("GET", path, headers=headers)
        self._socket = connection.sock  # http.client forgets it when the answer is closed
        answer = connection.getresponse()
        assert answer.status == 200, (answer.status, answer.read())
        self._thread = threading.Thread(target=self._read, args=(connection, answer), daemon=True)
        self._thread.start()

    def _read(
        self, connection: http.client.HTTPConnection, answer: http.client.HTTPResponse
    ) -> None:
        why = "end"
        said: dict[str, str] = {}
        try:
            while line := answer.readline():
                text = line.decode().rstrip("\n")
                if text:
                    key, _, value = text.partition(": ")
                    said[key] = value
                elif "event" in said:
                    frame = Frame(int(said["id"]), said["event"], json.loads(said["data"]))
                    with self._changed:
                        self.frames.append(frame)
                        self._changed.notify_all()
                    said = {}
                else:
                    said = {}  # a comment: the heartbeat
        except (OSError, http.client.HTTPException) as exc:
            why = repr(exc)
        finally:
            connection.close()
            with self._changed:
                self.over = self.over or why
                self._changed.notify_all()

    def wait(self, what: str, fact: Callable[[list[Frame]], object]) -> None:
        """Wait until `fact` holds of the frames so far. Fails when the stream ends before."""
        deadline = time.monotonic() + FRAME_S
        with self._changed:
            while not fact(self.frames):
                assert not self.over, f"no {what}: the stream is over ({self.over}): {self.frames}"
                left = deadline - time.monotonic()
                assert left > 0, f"no {what} within {FRAME_S:g} s: {self.frames[-5:]}"
                self._changed.wait(left)

    def last(self) -> Frame:
        """Return the frame that ends the stream, when it has come and nothing followed it."""
        self.wait("end", lambda frames: frames and frames[-1].name in {"end", "error"})
        deadline = time.monotonic() + FRAME_S
        with self._changed:
            while not self.over:
                left = deadline - time.monotonic()
                assert left > 0, "the stream goes on after its last frame"
                self._changed.wait(left)
            assert self.over == "end", self.over
            return self.frames[-1]

    def leave(self) -> None:
        """Hang up, as a client does that is killed."""
        with self._changed:
            self.over = self.over or "left"
        if self._socket is not None:
            try:
                self._socket.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it has ended already
        if self._thread is not None:
            self._thread.join(FRAME_S)
            assert not self._thread.is_alive()
