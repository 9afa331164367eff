"""HTTP/1.1 on one connection: a request in, its answer out, and so on.

Reading requests is receiver.py's; how a connection begins and ends is connection.py's.
"""

from __future__ import annotations

from typing import Final

import trio

from orchd.kit import exchange, heads
from orchd.kit.exchange import Server
from orchd.kit.groups import only
from orchd.kit.h1_sink import H1Sink
from orchd.kit.message import Peer, Response, Streaming, Upgraded, error_response
from orchd.kit.pipe import Pipe, PipeClosed
from orchd.kit.receiver import Phase, Receiver, Watch
from orchd.wire.errors import OrchError

LINGER_S: Final = 2.0
"""How long a refused client may go on sending, so that it reads the answer and not a reset."""


class Http1:
    """The exchanges of one connection. Its methods raise PipeClosed once the client has gone."""

    __slots__ = ("_peer", "_pipe", "_receiver", "_server", "_watch")

    def __init__(self, server: Server, pipe: Pipe, peer: Peer, watch: Watch) -> None:
        self._server = server
        self._pipe = pipe
        self._peer = peer
        self._watch = watch
        self._receiver = Receiver(pipe, peer, watch, server.limits)

    async def run(self, rest: bytes) -> None:
        """Serve until either side is done. `rest` is what was read of the first request."""
        idle_s = self._server.limits.head_s
        keep = True
        while keep:
            if self._server.stopping and not rest and self._pipe.quiet():
                return
            try:
                got = await self._receiver.receive(rest, idle_s)
            except OrchError as error:
                await self.refuse(error)
                return
            if got is None:
                return
            request, keep, rest = got
            self._watch.enter(Phase.HANDLER)
            answer = await exchange.answered(self._server, request)
            del got, request  # a stream may be open for hours: only what it needs is kept
            if isinstance(answer, Response):
                keep = keep and not self._server.stopping
                await self._respond(answer, close=not keep)
            elif isinstance(answer, Streaming):
                keep, rest = await self._stream(answer, rest, keep=keep)
            else:
                await self._upgrade(answer, rest)
                return
            idle_s = self._server.limits.keep_alive_s
            if rest:  # a client with a thousand requests in one packet is not alone here
                await trio.lowlevel.checkpoint()
        if not self._pipe.closed and (rest or not self._pipe.quiet()):
            await linger(self._pipe, self._server.limits.body_bytes)

    async def refuse(self, error: OrchError) -> None:
        """Answer and close such that the client can read it."""
        self._watch.enter(self._watch.phase)
        with trio.move_on_after(LINGER_S):
            await self._respond(error_response(error), close=True)
            await linger(self._pipe, self._server.limits.body_bytes)

    # answering

    async def _respond(self, answer: Response, *, close: bool) -> None:
        correlation_id = self._receiver.correlation_id or heads.new_correlation_id()
        head = heads.answer_head(
            answer.status,
            correlation_id,
            content_type=answer.content_type,
            headers=answer.headers,
            length=len(answer.body),
            close=close,
        )
        bodiless = self._receiver.head_only or answer.status in heads.BODILESS
        if not self._pipe.send_nowait(head if bodiless else head + answer.body):
            await self._drain()

    async def _drain(self) -> None:
        """Wait until the kernel has taken the answer; a peer that reads nothing is reset."""
        while self._pipe.pending:
            self._watch.enter(Phase.WRITE, self._server.limits.write_s)
            await self._pipe.flush_some()

    async def _stream(self, answer: Streaming, rest: bytes, *, keep: bool) -> tuple[bool, bytes]:
        """Run a Streaming answer; return whether the connection goes on, and what is read."""
        chunked = (
            not self._receiver.http10
        )  # to HTTP/1.0 the end of the connection is the end of the body
        keep = keep and not self._server.stopping
        head = heads.answer_head(
            answer.status,
            self._receiver.correlation_id,
            content_type=answer.content_type,
            headers=answer.headers,
            chunked=chunked,
            close=not keep,
        )
        if self._receiver.head_only:
            if not self._pipe.send_nowait(head):
                await self._drain()
            return keep, rest
        sink = H1Sink(self._pipe, head, rest, chunked=chunked)
        try:
            await answer.run(sink)
        except Exception as exc:  # noqa: BLE001 - the reset tells the client, the log the rest
            if not only(exc, PipeClosed):
                human = "A stream broke on an unexpected error"
                exchange.report("stream_failed", human, exc, self._peer)
            sink.abort()
        if self._pipe.closed:
            return False, b""
        left = sink.gone
        sink.finish()
        await self._drain()
        return keep and not left and not self._server.stopping, sink.rest

    async def _upgrade(self, answer: Upgraded, rest: bytes) -> None:
        self._pipe.send_nowait(heads.switching_head(answer.protocol, self._receiver.correlation_id))
        await self._drain()
        self._watch.enter(Phase.HANDLER)
        try:
            await answer.run(self._pipe, rest)
        except Exception as exc:  # noqa: BLE001 - as above
            if not only(exc, PipeClosed):
                human = f"{answer.protocol} broke on an error"
                exchange.report("upgraded_failed", human, exc, self._peer)


async def linger(pipe: Pipe, max_bytes: int) -> None:
    """Half-close, then discard what still comes: close() with bytes unread is a reset.

    For LINGER_S and `max_bytes` at most. Raises PipeClosed.
    """
    pipe.shutdown()
    with trio.move_on_after(LINGER_S):
        while max_bytes > 0 and (data := await pipe.recv()):
            max_bytes -= len(data)
