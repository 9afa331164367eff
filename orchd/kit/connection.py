"""One HTTP/1.1 connection: a request in, its answer out, and so on; and the way it ends.

Reading requests is receiver.py's, accepting, counting and stopping connections http1.py's.
"""

from __future__ import annotations

import socket
import traceback
from typing import Final, Protocol

import trio

from orchd.kit import heads, log
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
from orchd.kit.pipe import Pipe, PipeClosed
from orchd.kit.receiver import Phase, Receiver, Watch
from orchd.kit.sink import Sink
from orchd.wire.errors import Kind, OrchError

LINGER_S: Final = 2.0
"""How long a refused client may go on sending, so that it reads the answer and not a reset."""


class Server(Protocol):
    """What a connection needs of its server."""

    handler: Handler
    limits: Limits
    stopping: bool


class Connection:
    """Owns its pipe; `run` is its task."""

    __slots__ = ("_peer", "_pipe", "_receiver", "_server", "_watch")

    def __init__(self, server: Server, sock: socket.socket, peer: Peer) -> None:
        self._server = server
        self._peer = peer
        self._pipe = Pipe(sock)
        self._watch = Watch()
        self._receiver = Receiver(self._pipe, peer, self._watch, server.limits)

    def stop_if_idle(self) -> None:
        """End it, unless it is in the middle of an exchange or a request is waiting to be read."""
        if self._watch.phase is Phase.IDLE and self._pipe.quiet():
            self._pipe.close()

    async def run(self) -> None:
        """Serve until either side is done. Raises nothing but Cancelled."""
        try:
            with self._watch.scope:
                await self._serve()
            if self._watch.scope.cancelled_caught:
                await self._out_of_time()
        except PipeClosed:
            pass  # the client left; what was being done for it knows from the same exception
        except Exception as exc:  # noqa: BLE001 - one connection must not end the server
            self._report("connection_failed", "A connection broke on an unexpected error", exc)
        except BaseExceptionGroup as exc:  # a handler's nursery broke while it was cancelled
            broke, cancelled = exc.split(Exception)
            if broke is not None and not only(broke, PipeClosed):
                self._report(
                    "connection_failed", "A connection broke on an unexpected error", broke
                )
            if cancelled is not None:
                raise cancelled from None
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
        if self._watch.phase is Phase.WRITE:
            self._pipe.abort()
        elif self._watch.phase in {Phase.HEAD, Phase.BODY}:
            part = self._watch.phase.value
            await self._refuse(
                OrchError(Kind.REQUEST_TIMEOUT, f"the {part} of the request took too long")
            )

    async def _serve(self) -> None:
        rest = b""
        idle_s = self._server.limits.head_s
        keep = True
        while keep:
            if self._server.stopping and not rest and self._pipe.quiet():
                return
            try:
                got = await self._receiver.receive(rest, idle_s)
            except OrchError as error:
                await self._refuse(error)
                return
            if got is None:
                return
            request, keep, rest = got
            self._watch.enter(Phase.HANDLER)
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
        correlation_id = self._receiver.correlation_id or heads.new_correlation_id()
        head = heads.answer_head(
            answer.status,
            correlation_id,
            content_type=answer.content_type,
            headers=answer.headers,
            length=len(answer.body),
            close=close,
        )
        bodiless = self._receiver.head_only or answer.status in {204, 304}
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
        sink = Sink(self._pipe, head, rest, chunked=chunked)
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
        self._pipe.send_nowait(heads.switching_head(answer.protocol, self._receiver.correlation_id))
        await self._drain()
        self._watch.enter(Phase.HANDLER)
        try:
            await answer.run(self._pipe, rest)
        except Exception as exc:  # noqa: BLE001 - as above
            if not only(exc, PipeClosed):
                self._report("upgraded_failed", f"{answer.protocol} broke on an error", exc)

    async def _refuse(self, error: OrchError) -> None:
        """Answer and close such that the client can read it."""
        self._watch.enter(self._watch.phase)
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
