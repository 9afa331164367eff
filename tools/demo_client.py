"""The agents' side of the demo: orchd's public HTTP API with nothing but the standard library.

What any program in any language would do. What the demo shows and checks is in demo.py.
"""

from __future__ import annotations

import http.client
import json
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attrs import frozen

PATIENCE_S = 15.0


@frozen
class Event:
    """One frame of a stream."""

    id: int
    name: str
    data: dict[str, Any]


class RefusedError(Exception):
    """An answer that is no success."""

    def __init__(self, status: int, headers: http.client.HTTPMessage, body: bytes) -> None:
        said = json.loads(body or b"{}")
        super().__init__(f"HTTP {status}: {said.get('code')}: {said.get('message')}")
        self.status = status
        self.code = said.get("code")
        self.policy = said.get("policy_label")
        self.retry_after_s = int(headers.get("Retry-After", 0))
        self.backoff_ms = int(headers.get("X-Backoff-Ms", 0))


class _Connection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=PATIENCE_S)
        self._path = path

    def connect(self) -> None:
        self.sock = _connect(self._path)


def _connect(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(PATIENCE_S)
    try:
        sock.connect(str(path))
    except OSError:
        sock.close()
        raise
    return sock


class Api:
    """What orchd serves on its unix socket. One connection a call: agents share nothing."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def _call(self, method: str, path: str, body: object = None) -> Any:
        connection = _Connection(self._path)
        try:
            data = None if body is None else json.dumps(body)
            connection.request(method, path, data, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
            if answer.status >= 300:
                raise RefusedError(answer.status, answer.headers, text)
            return json.loads(text) if text else None
        finally:
            connection.close()

    def submit(self, max_tokens: int, prompt: str) -> Any:
        """POST a task; return the body of the 202. Raises RefusedError."""
        task = {
            "task_id": str(uuid.uuid4()),
            "session_id": str(uuid.uuid4()),
            "workload": "completion",
            "model_ref": "mock:lorem",
            "engine": "mock",
            "ctx": 2048,
            "priority": "interactive",
            "max_tokens": max_tokens,
            "deadline_ms": 60_000,
            "seed": 1,
            "prompt": prompt,
        }
        return self._call("POST", "/v1/tasks", task)

    def cancel(self, task_id: str) -> None:
        """POST the cancel; returns with the 204."""
        self._call("POST", f"/v1/tasks/{task_id}/cancel")

    def task(self, task_id: str) -> Any:
        """GET a task's state."""
        return self._call("GET", f"/v1/tasks/{task_id}")

    def replicas(self, pool_id: str) -> list[dict[str, Any]]:
        """GET a pool's health; return each replica's snapshot, {} for one that has not spoken."""
        try:
            health = self._call("GET", f"/v1/pools/{pool_id}/health")
        except (OSError, http.client.HTTPException):
            return []
        return [one.get("snapshot", {}) for one in health["replicas"]]

    def stream(self, task_id: str) -> Stream:
        """GET a task's stream."""
        return Stream(_connect(self._path), f"/v1/tasks/{task_id}/stream")


class Stream:
    """A stream's events. On a bare socket, to tell what has arrived from what will."""

    def __init__(self, sock: socket.socket, path: str) -> None:
        self._sock = sock
        self._raw = b""
        self._text = b""
        self._ended = False
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        while b"\r\n\r\n" not in self._raw:
            self._take()
        head, _, self._raw = self._raw.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200 ") or b"chunked" not in head.lower():
            raise OSError(f"unexpected answer: {head.decode(errors='replace')}")

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    def __iter__(self) -> Iterator[Event]:
        """Yield events until the end of the answer."""
        while True:
            yield from self._whole()
            if self._ended:
                return
            self._take()

    def already_here(self) -> list[Event]:
        """Return the events that have arrived by now, without waiting."""
        self._sock.settimeout(0)
        try:
            while True:
                self._take()
        except BlockingIOError:
            return list(self._whole())
        finally:
            self._sock.settimeout(PATIENCE_S)

    def _take(self) -> None:
        data = self._sock.recv(65536)
        if not data:
            raise OSError("the stream was cut off")
        self._raw += data

    def _whole(self) -> Iterator[Event]:
        while not self._ended:
            size_line, found, rest = self._raw.partition(b"\r\n")
            size = int(size_line, 16) if found else 0
            if not found or len(rest) < size + 2:
                break
            self._text += rest[:size]
            self._raw = rest[size + 2 :]
            self._ended = size == 0
        while b"\n\n" in self._text:
            frame, _, self._text = self._text.partition(b"\n\n")
            lines = dict(line.split(": ", 1) for line in frame.decode().split("\n"))
            if "event" in lines:
                yield Event(int(lines["id"]), lines["event"], json.loads(lines["data"]))
