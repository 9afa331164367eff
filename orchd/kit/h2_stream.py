"""One HTTP/2 stream: its request's body in, the handler, the answer out. One task for each.

The rules are HTTP/1.1's (h1_connection.py): the same limits, errors, ids and order of things.
"""

from __future__ import annotations

from collections.abc import Sequence

import trio
from h2.errors import ErrorCodes

from orchd.kit import exchange, h2_heads, heads
from orchd.kit.exchange import Server
from orchd.kit.groups import only
from orchd.kit.h1_connection import LINGER_S
from orchd.kit.h2_output import H2Output
from orchd.kit.h2_sink import H2Sink
from orchd.kit.message import Peer, Request, Response, Streaming, error_response
from orchd.kit.pipe import PipeClosed
from orchd.wire.errors import Kind, OrchError


class H2Stream:
    """From a request's head to the end of its answer; `run` is its task."""

    __slots__ = (
        "_arrived",
        "_body",
        "_correlation_id",
        "_discarded",
        "_enough",
        "_fields",
        "_head_only",
        "_out",
        "_peer",
        "_request_ended",
        "_server",
        "_too_large",
        "sink",
    )

    def __init__(
        self,
        server: Server,
        out: H2Output,
        peer: Peer,
        stream_id: int,
        fields: Sequence[tuple[bytes, bytes]],
        *,
        ended: bool,
    ) -> None:
        """`ended`: the request has no body."""
        self._server = server
        self._out = out
        self._peer = peer
        self._fields: Sequence[tuple[bytes, bytes]] | None = fields
        self._head_only, self._correlation_id = h2_heads.sketch(fields)
        self._body = bytearray()
        self._too_large = False
        self._request_ended = ended
        self._arrived = trio.Event()
        """The body is whole, or is not waited for any more."""
        self._enough: trio.Event | None = None
        """Set when the client need not be waited for after an early answer."""
        self._discarded = 0
        self.sink = H2Sink(out, stream_id)

    # told by the connection

    @property
    def held(self) -> int:
        """Bytes of a body that is not whole yet."""
        return 0 if self._arrived.is_set() else len(self._body)

    def receive(self, data: bytes) -> None:
        """Take a part of the body."""
        if self._arrived.is_set():
            self._discarded += len(data)
            if self._discarded > self._server.limits.body_bytes:
                self._stop_waiting()
            return
        self._body += data
        if len(self._body) > self._server.limits.body_bytes:
            self._body.clear()
            self._too_large = True
            self._arrived.set()

    def end(self) -> None:
        """The request is whole."""
        self._request_ended = True
        self._arrived.set()
        self._stop_waiting()

    def leave(self) -> None:
        """The client reset the stream or left."""
        self._request_ended = True  # nobody is left to be told to stop sending
        self.sink.leave()
        self._arrived.set()
        self._stop_waiting()

    # its task

    async def run(self) -> None:
        """Serve the one request. Raises nothing but Cancelled."""
        try:
            try:
                request = await self._request()
            except OrchError as error:
                self._arrived.set()  # what still comes of the body is not kept
                self._respond(error_response(error))
            else:
                if request is not None:
                    await self._serve(request)
                    del request
            await self.sink.drain(self._server.limits.write_s)
            if not self._request_ended:
                await self._linger()
        except PipeClosed:
            pass  # the client left
        except Exception as exc:  # noqa: BLE001 - one stream must not end the others
            self._report("stream_failed", "An answer broke on an unexpected error", exc)
            self.sink.abort()

    async def _linger(self) -> None:
        """Discard what comes behind an early answer, then say that it is enough (RFC 9113, 8.1).

        At once would be right too, but curl 7.88 then drops an answer that it has already.
        """
        self._enough = trio.Event()
        with trio.move_on_after(LINGER_S):
            await self._enough.wait()
        if not self._request_ended:
            self._out.reset_id(self.sink.stream_id, ErrorCodes.NO_ERROR)

    def _stop_waiting(self) -> None:
        if self._enough is not None:
            self._enough.set()

    async def _request(self) -> Request | None:
        """Return the request once its body is there; None: the client left. Raises OrchError."""
        limits = self._server.limits
        assert self._fields is not None
        head = h2_heads.understood(self._fields, self._correlation_id, limits)
        self._fields = None  # a stream may be open for hours
        path, query = heads.split_target(head.method, head.target)
        if head.length > limits.body_bytes:
            raise self._over()
        if not self._request_ended:
            await self._whole_body(expected=head.expects_continue)
        if self.sink.gone:
            return None
        if self._too_large:
            raise self._over()
        body, self._body = bytes(self._body), bytearray()
        return Request(
            head.method, path, query, head.headers, body, self._peer, head.correlation_id
        )

    async def _whole_body(self, *, expected: bool) -> None:
        limits = self._server.limits
        if expected and not self._body:
            self._out.head(self.sink.stream_id, h2_heads.CONTINUE)
            self._out.emit()
        with trio.move_on_after(limits.body_s) as patience:
            await self._arrived.wait()
        if patience.cancelled_caught:
            raise OrchError(Kind.REQUEST_TIMEOUT, "the body of the request took too long")

    def _over(self) -> OrchError:
        limit = self._server.limits.body_bytes
        return OrchError(Kind.BODY_TOO_LARGE, f"the body is over {limit} bytes")

    async def _serve(self, request: Request) -> None:
        answer = await exchange.answered(self._server, request)
        del request
        if isinstance(answer, Streaming):
            await self._stream(answer)
        elif isinstance(answer, Response):
            self._respond(answer)
        else:
            error = OrchError(Kind.INVALID_PARAMS, "HTTP/2 has no Upgrade: ask with HTTP/1.1")
            self._respond(error_response(error))

    def _respond(self, answer: Response) -> None:
        if self.sink.gone:
            return
        bodiless = self._head_only or answer.status in heads.BODILESS or not answer.body
        fields = h2_heads.answer_fields(
            answer.status,
            self._correlation_id,
            content_type=answer.content_type,
            headers=answer.headers,
            length=len(answer.body),
        )
        self._head(fields, end=bodiless)
        if not bodiless:
            self.sink.finish(answer.body)

    def _head(self, fields: h2_heads.Fields, *, end: bool) -> None:
        self._out.head(self.sink.stream_id, fields, end=end)
        if end:
            self.sink.ended = self.sink.sent = True
            self._out.pump()

    async def _stream(self, answer: Streaming) -> None:
        if self.sink.gone:
            return
        fields = h2_heads.answer_fields(
            answer.status,
            self._correlation_id,
            content_type=answer.content_type,
            headers=answer.headers,
        )
        self._head(fields, end=self._head_only)
        if self._head_only:
            return
        try:
            await answer.run(self.sink)
        except Exception as exc:  # noqa: BLE001 - the reset tells the client, the log the rest
            if not only(exc, PipeClosed):
                self._report("stream_failed", "A stream broke on an unexpected error", exc)
            self.sink.abort()
        self.sink.finish()

    def _report(self, name: str, human: str, exc: BaseException) -> None:
        exchange.report(name, human, exc, self._peer)
