"""One HTTP/1.1 connection: requests in, answers out in the same order, deadlines, the way it ends.

Accepting, the count of connections and stopping are http1.py's.
"""

from __future__ import annotations

import enum
import math
import socket
import traceback
from typing import Final, Protocol

import trio

from orchd.kit import heads, log
from orchd.kit.chunks import BadChunk, ChunkDecoder
from orchd.kit.groups import leaves, only, orch_error
from orchd.kit.message import (
    Answer,
    Handler,
    Limits,
    Peer,
    Request,
    Response,
    Streaming,
    Upgraded,
    error_response,
)
from orchd.kit.pipe import RECV_BYTES, Pipe, PipeClosed
from orchd.kit.sink import Sink
from orchd.wire.errors import Kind, OrchError

LINGER_S: Final = 2.0
"""How long a refused client may go on sending, so that it reads the answer and not a reset."""


class Phase(enum.Enum):
    """What the connection waits for: a deadline that passes means another thing in each."""

    IDLE = "idle"
    HEAD = "head"
    BODY = "body"
    HANDLER = "handler"
    WRITE = "write"


class Server(Protocol):
    """What a connection needs of its server."""

    handler: Handler
    limits: Limits
    stopping: bool


class Connection:
    """Owns its pipe; `run` is its task."""

    __slots__ = (
        "_correlation_id",
        "_head_only",
        "_http10",
        "_peer",
        "_pipe",
        "_scope",
        "_server",
        "phase",
    )

    def __init__(self, server: Server, sock: socket.socket, peer: Peer) -> None:
        self._server = server
        self._pipe = Pipe(sock)
        self._peer = peer
        # one scope for the connection's life, its deadline moved: a scope for each wait costs more
        self._scope = trio.CancelScope()
        self._correlation_id = ""
        self._head_only = False
        self._http10 = False
        self.phase = Phase.IDLE

    def stop_if_idle(self) -> None:
        """End it, unless it is in the middle of an exchange or a request is waiting to be read."""
        if self.phase is Phase.IDLE and self._pipe.quiet():
            self._pipe.close()

    async def run(self) -> None:
        """Serve until either side is done. Raises nothing but Cancelled."""
        try:
            with self._scope:
                await self._serve()
            if self._scope.cancelled_caught:
                await self._out_of_time()
        except PipeClosed:
            pass  # the client left; what was being done for it knows from the same exception
        except Exception as exc:  # noqa: BLE001 - one connection must not end the server
            self._report("connection_failed", "A connection broke on an unexpected error", exc)
        finally:
            self._pipe.close()

    async def refuse(self, error: OrchError) -> None:
        """Answer `error` to whatever the client wanted, then close."""
        try:
            await self._refuse(error)
        except PipeClosed:
            pass
        finally:
            self._pipe.close()

    async def _out_of_time(self) -> None:
        if self.phase is Phase.WRITE:
            self._pipe.abort()
        elif self.phase in {Phase.HEAD, Phase.BODY}:
            part = self.phase.value
            await self._refuse(
                OrchError(Kind.REQUEST_TIMEOUT, f"the {part} of the request took too long")
            )

    async def _serve(self) -> None:
        rest = b""
        idle_s = self._server.limits.head_s
        keep = True
        while keep:
            self._correlation_id = ""
            self._head_only = False
            try:
                got = await self._receive(rest, idle_s)
            except OrchError as error:
                await self._refuse(error)
                return
            if got is None:
                return
            request, keep, rest = got
            if self._scope.cancel_called:  # its last byte came as its time ran out
                await trio.lowlevel.checkpoint()
            self._enter(Phase.HANDLER, math.inf)
            log.correlation.set(request.correlation_id)
            answer = await self._handled(request)
            if log.debugging():
                self._access(request, answer)
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
            await self._linger()

    # receiving

    def _enter(self, phase: Phase, seconds: float) -> None:
        self.phase = phase
        self._scope.deadline = trio.current_time() + seconds

    async def _receive(self, rest: bytes, idle_s: float) -> tuple[Request, bool, bytes] | None:
        """Return the next request, whether another may follow, and what was read past it.

        None when the client is done.
        """
        limits = self._server.limits
        reader = heads.HeadReader(limits)
        head = reader.feed(rest) if rest else None
        if head is None:
            if reader.begun:
                self._enter(Phase.HEAD, limits.head_s)
            elif self._server.stopping:
                return None
            else:
                self._enter(Phase.IDLE, idle_s)
        while head is None:
            data = await self._pipe.recv()
            if not data:
                return None
            head = reader.feed(data)
            if head is None and self.phase is Phase.IDLE and reader.begun:
                self._enter(Phase.HEAD, limits.head_s)
        self._correlation_id = head.correlation_id
        self._head_only = head.method == "HEAD"
        self._http10 = head.http10
        path, query = heads.split_target(head.method, head.target)
        if head.length > limits.body_bytes:
            raise _too_large(limits)
        rest = reader.rest
        body = b""
        if head.length or head.chunked:
            if head.expects_continue and not rest:
                self._pipe.send_nowait(heads.CONTINUE)
            if head.chunked:
                body, rest = await self._chunked_body(rest)
            else:
                body, rest = await self._sized_body(rest, head.length)
        request = Request(
            head.method, path, query, head.headers, body, self._peer, head.correlation_id
        )
        return request, head.keep_alive, rest

    async def _more_body(self) -> bytes:
        if self.phase is not Phase.BODY:
            self._enter(Phase.BODY, self._server.limits.body_s)
        data = await self._pipe.recv()
        if not data:
            raise PipeClosed("the client left in the middle of a request")
        return data

    async def _sized_body(self, rest: bytes, length: int) -> tuple[bytes, bytes]:
        if len(rest) < length:
            gathered = bytearray(rest)
            while len(gathered) < length:
                gathered += await self._more_body()
            rest = bytes(gathered)
        return rest[:length], rest[length:]

    async def _chunked_body(self, data: bytes) -> tuple[bytes, bytes]:
        limits = self._server.limits
        decoder = ChunkDecoder()
        body = bytearray()
        sent = 0
        while True:
            try:
                body += decoder.feed(data)
            except BadChunk as exc:
                raise OrchError(Kind.MALFORMED_HTTP, str(exc)) from None
            sent += len(data)
            # twice: so many bytes of framing for each byte of body are nobody's honest chunks
            if len(body) > limits.body_bytes or sent > 2 * limits.body_bytes + RECV_BYTES:
                raise _too_large(limits)
            if decoder.done:
                return bytes(body), decoder.rest
            data = await self._more_body()

    # handling

    async def _handled(self, request: Request) -> Answer:
        try:
            return await self._server.handler(request)
        except Exception as exc:  # noqa: BLE001 - the client is told INTERNAL, the log the rest
            error = orch_error(exc)
            if error is None:
                self._report("handler_failed", "A request failed on an unexpected error", exc)
                error = OrchError(Kind.INTERNAL, "an unexpected error")
            return error_response(error)

    def _report(self, name: str, human: str, exc: BaseException) -> None:
        log.event(
            name,
            f"{human}: {type(next(leaves(exc))).__name__}",
            level="error",
            peer=self._peer.address,
            traceback="".join(traceback.format_exception(exc)),
        )

    def _access(self, request: Request, answer: Answer) -> None:
        status = 101 if isinstance(answer, Upgraded) else answer.status
        log.event(
            "http",
            level="debug",
            method=request.method,
            path=request.path,
            status=status,
            peer=self._peer.address,
        )

    # answering

    async def _respond(self, answer: Response, *, close: bool) -> None:
        correlation_id = self._correlation_id or heads.new_correlation_id()
        head = heads.answer_head(
            answer.status,
            correlation_id,
            content_type=answer.content_type,
            headers=answer.headers,
            length=len(answer.body),
            close=close,
        )
        bodiless = self._head_only or answer.status in {204, 304}
        if not self._pipe.send_nowait(head if bodiless else head + answer.body):
            await self._drain()

    async def _drain(self) -> None:
        """Wait until the kernel has taken the answer; a peer that reads nothing is reset."""
        while self._pipe.pending:
            self._enter(Phase.WRITE, self._server.limits.write_s)
            await self._pipe.flush_some()

    async def _stream(self, answer: Streaming, rest: bytes, *, keep: bool) -> tuple[bool, bytes]:
        """Run a Streaming answer; return whether the connection goes on, and what is read."""
        chunked = not self._http10  # to HTTP/1.0 the end of the connection is the end of the body
        keep = keep and not self._server.stopping
        head = heads.answer_head(
            answer.status,
            self._correlation_id,
            content_type=answer.content_type,
            headers=answer.headers,
            chunked=chunked,
            close=not keep,
        )
        if self._head_only:
            if not self._pipe.send_nowait(head):
                await self._drain()
            return keep, rest
        sink = Sink(self._pipe, head, rest, chunked=chunked)
        trio.lowlevel.current_trio_token().run_sync_soon(_begin, sink)
        try:
            await answer.run(sink)
        except Exception as exc:  # noqa: BLE001 - the reset tells the client, the log the rest
            if not only(exc, PipeClosed):
                self._report("stream_failed", "A stream broke on an unexpected error", exc)
            sink.abort()
        if self._pipe.closed:
            return False, b""
        left = sink.gone
        sink.finish()
        await self._drain()
        return keep and not left and not self._server.stopping, sink.rest

    async def _upgrade(self, answer: Upgraded, rest: bytes) -> None:
        self._pipe.send_nowait(heads.switching_head(answer.protocol, self._correlation_id))
        await self._drain()
        self._enter(Phase.HANDLER, math.inf)
        try:
            await answer.run(self._pipe, rest)
        except Exception as exc:  # noqa: BLE001 - as above
            if not only(exc, PipeClosed):
                self._report("upgraded_failed", f"{answer.protocol} broke on an error", exc)

    async def _refuse(self, error: OrchError) -> None:
        """Answer and close such that the client can read it."""
        self._scope.deadline = math.inf
        with trio.move_on_after(LINGER_S):
            await self._respond(error_response(error), close=True)
            await self._linger()

    async def _linger(self) -> None:
        """Half-close, then discard what still comes: close() with bytes unread is a reset."""
        self._pipe.shutdown()
        with trio.move_on_after(LINGER_S):
            left = self._server.limits.body_bytes
            while left > 0 and (data := await self._pipe.recv()):
                left -= len(data)


def _begin(sink: Sink) -> None:
    try:
        sink.begin()
    except PipeClosed:
        sink.gone = True


def _too_large(limits: Limits) -> OrchError:
    return OrchError(Kind.BODY_TOO_LARGE, f"the body is over {limits.body_bytes} bytes")
