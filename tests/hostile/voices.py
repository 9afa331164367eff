"""Three ways to speak to the daemon: HTTP/1.1 over TCP, over the unix socket, and HTTP/2.

A voice keeps its connection while the daemon does, and says what it is told, right or wrong.
"""

from __future__ import annotations

from types import TracebackType
from typing import Final

import orjson
import trio

from orchd.kit.pipe import PipeClosed
from orchd.kit.target import Target
from tests.fakes.h2_peer import H2Peer
from tests.fakes.peers import Got, RawPeer
from tests.sockets.suite import Suite

WAYS: Final = ("http/1.1", "unix", "http/2")
ANSWER_S: Final = 20.0
LATER: Final = {503, 507}
"""No pool takes it now, no disk has room for it: neither says that something broke."""
JSON: Final = {"content-type": "application/json"}


def target_of(suite: Suite, way: str) -> Target:
    """Return where a way leads."""
    if way == "unix":
        return Target.unix(suite.front_socket)
    return Target.parse(f"http://127.0.0.1:{suite.port}")


class Voice:
    """One client. Closed by `with`."""

    def __init__(self, suite: Suite, way: str) -> None:
        self.way = way
        self._target = target_of(suite, way)
        self._h1: RawPeer | None = None
        self._h2: H2Peer | None = None

    def __enter__(self) -> Voice:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, at: TracebackType | None
    ) -> None:
        self.hang_up()

    def hang_up(self) -> None:
        """End the connection."""
        if self._h1 is not None:
            self._h1.pipe.close()
        if self._h2 is not None:
            self._h2.pipe.close()
        self._h1 = self._h2 = None

    async def ask(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] = JSON
    ) -> Got:
        """Ask for what HTTP can carry; return the answer."""
        with trio.fail_after(ANSWER_S):
            if self.way == "http/2":
                return await self._ask_h2(method, path, body, headers)
            lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            head = f"{method} {path} HTTP/1.1\r\nHost: x\r\n{lines}Content-Length: {len(body)}"
            return await self.say(head.encode("latin-1") + b"\r\n\r\n" + body, method)

    async def say(self, data: bytes, method: str = "GET") -> Got:
        """Say these bytes in HTTP/1.1; return the answer, whichever of both was quicker."""
        with trio.fail_after(ANSWER_S):
            if self._h1 is None:
                self._h1 = RawPeer(await self._target.connect())
            try:
                await self._h1.say(data)
            except PipeClosed:
                pass  # it was refused before it was read whole: the answer is there
            got = await self._h1.answer(method)
        if got.headers.get("connection") == "close":
            self.hang_up()
        return got

    async def _ask_h2(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> Got:
        if self._h2 is None or self._h2.goaway or self._h2.closed:
            self.hang_up()
            peer = self._h2 = H2Peer(await self._target.connect())
            peer.h2.initiate_connection()
            peer.h2.increment_flow_control_window(1 << 30)
            await peer.flush()
        answer = await self._h2.ask(path, method, body, **headers)
        assert answer.headers, f"the stream was reset: {answer.reset}"
        return Got(answer.status, answer.headers, answer.body, b"2")


def fair(got: Got, what: object) -> None:
    """Assert that an answer is one that a client may be given for a fault of its own."""
    assert got.status < 500 or got.status in LATER, (what, got)
    assert got.headers.get("x-correlation-id"), (what, got)
    assert b"Traceback" not in got.body, (what, got)
    if got.status >= 400:
        assert len(got.body) < 64 << 10, (what, len(got.body))
        envelope = orjson.loads(got.body)
        assert envelope["code"], (what, got)
        assert envelope["message"], (what, got)
        assert envelope["hint"], (what, got)
        assert b'File "' not in got.body, (what, got)
