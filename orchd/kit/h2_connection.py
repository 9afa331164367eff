"""HTTP/2 on one connection: frames in, streams started and told, the orderly end (RFC 9113).

The state machine is the library h2's. What it leaves to its user is here: bounds on what a client
may make us do, deadlines, GOAWAY with open streams. A stream's life is h2_stream.py's, what leaves
h2_output.py's; which connections speak HTTP/2 is said in connection.py.
"""

from __future__ import annotations

import contextlib
from typing import Final

import trio
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    DataReceived,
    Event,
    RemoteSettingsChanged,
    RequestReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings

from orchd.kit import h2_frames
from orchd.kit.exchange import PREFACE, Server
from orchd.kit.h1_connection import LINGER_S, linger
from orchd.kit.h2_frames import Broken, Cutter, Frame, Patience
from orchd.kit.h2_output import H2Output
from orchd.kit.h2_stream import H2Stream
from orchd.kit.message import Limits, Peer
from orchd.kit.pipe import Pipe, PipeClosed
from orchd.kit.receiver import Phase, Watch

MAX_STREAMS: Final = 128
"""Open at a time on a connection; nginx allows 128, too, and clients begin with 100."""
BODIES: Final = 4
"""Unfinished bodies of one connection hold so many times the limit of one body."""
_TABLE: Final = 4096
"""Bytes of header table for our answers, however much the client offers to keep."""
_CLOSED: Final = 1024
"""Closed streams that are remembered, to tell frames in flight from broken ones."""
_SETTINGS: Final = 64  # kinds of; seven are known, h2 keeps the others too
_RECV: Final = 16 << 10
_FAIR: Final = 64  # frames in a row before other tasks get their turn


class _H2(H2Connection):
    MAX_CLOSED_STREAMS = _CLOSED


class Http2:
    """The streams of one connection. `run` raises PipeClosed once the client has gone."""

    __slots__ = (
        "_cutter",
        "_h2",
        "_leaving",
        "_nursery",
        "_out",
        "_patience",
        "_peer",
        "_pipe",
        "_reading",
        "_server",
        "_streams",
        "_watch",
    )

    def __init__(self, server: Server, pipe: Pipe, peer: Peer, watch: Watch) -> None:
        self._server = server
        self._pipe = pipe
        self._peer = peer
        self._watch = watch
        self._h2 = _h2(server.limits)
        self._out = H2Output(pipe, self._h2)
        self._cutter = Cutter(4 * server.limits.head_bytes)
        self._patience = Patience(trio.current_time())
        self._streams: dict[int, H2Stream] = {}
        """Those whose task runs, by id: also such as the client has reset already."""
        self._reading = trio.CancelScope()
        self._leaving = False
        self._nursery: trio.Nursery | None = None

    async def run(self, received: bytes) -> None:
        """Serve until either side is done. `received` begins with the preface, or is empty."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            writing = trio.CancelScope()
            nursery.start_soon(self._write, writing)
            goodbye = None
            try:
                with self._reading:
                    await self._read(received)
            except PipeClosed:
                pass
            except Broken as exc:
                goodbye = h2_frames.goaway(self._last_id, exc.code, exc.why)
            except ProtocolError:
                goodbye = self._h2.data_to_send()  # h2 has made it
            for stream in self._streams.values():
                stream.leave()
            writing.cancel()
            if goodbye is not None or self._reading.cancelled_caught:
                await self._hang_up(goodbye or b"")
            self._pipe.close()

    def stop(self) -> None:
        """Take no more streams, and end when none is open. What was sent already is answered."""
        if self._pipe.quiet():
            with contextlib.suppress(PipeClosed):
                self.leave()

    def leave(self) -> None:
        """Say GOAWAY: streams that come now were not looked at. Raises PipeClosed."""
        if not self._leaving:
            self._leaving = True
            self._out.say(h2_frames.goaway(self._last_id, ErrorCodes.NO_ERROR))
        if not self._streams:
            self._reading.cancel()

    @property
    def _last_id(self) -> int:
        return self._h2.highest_inbound_stream_id

    # reading

    async def _read(self, data: bytes) -> None:
        self._h2.initiate_connection()
        self._h2.receive_data(PREFACE)  # the cutter sees to it that it came
        self._out.emit()
        self._watch.enter(Phase.IDLE, self._server.limits.head_s)
        turns = 0
        while True:
            self._cutter.feed(data)
            while (frame := self._cutter.next_frame()) is not None:
                self._take(frame)
                turns += 1
                if turns % _FAIR == 0:
                    self._out.pump()
                    await trio.lowlevel.checkpoint()
            self._out.pump()
            if self._server.stopping and not self._leaving and self._pipe.quiet():
                self.leave()
            data = await self._pipe.recv(_RECV)
            if not data:
                return

    def _take(self, frame: Frame) -> None:
        if price := h2_frames.cost(frame):
            self._patience.spend(price, trio.current_time())
        if frame.type == h2_frames.Type.GOAWAY:
            return  # it will open no more streams; h2 would end those that are open
        for event in self._h2.receive_data(frame.data):
            self._happened(event)

    def _happened(self, event: Event) -> None:
        match event:
            case RequestReceived():
                self._open(event)
            case DataReceived():
                self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                self._receive(event.stream_id, event.data)
            case StreamEnded() if stream := self._streams.get(event.stream_id):
                stream.end()
            case StreamReset():
                if not event.remote_reset:
                    self._patience.spend(h2_frames.RESET, trio.current_time())
                if stream := self._streams.get(event.stream_id):
                    stream.leave()
            case WindowUpdated():
                self._opened(event.stream_id)
            case RemoteSettingsChanged():
                table = min(self._h2.encoder.header_table_size, _TABLE)
                if table != self._h2.encoder.header_table_size:
                    self._h2.encoder.header_table_size = table
                if len(self._h2.remote_settings) > _SETTINGS:
                    raise Broken(ErrorCodes.ENHANCE_YOUR_CALM, "too many settings")
                self._opened(0)

    def _open(self, event: RequestReceived) -> None:
        stream_id = event.stream_id
        # h2 counts open streams; the task of one that was reset may still run
        if self._leaving or len(self._streams) >= MAX_STREAMS:
            self._refuse(stream_id, ErrorCodes.REFUSED_STREAM)
            return
        assert self._nursery is not None
        stream = H2Stream(
            self._server,
            self._out,
            self._peer,
            stream_id,
            event.headers,
            ended=event.stream_ended is not None,
        )
        self._streams[stream_id] = stream
        self._watch.enter(Phase.HANDLER)
        self._nursery.start_soon(self._run, stream)

    async def _run(self, stream: H2Stream) -> None:
        try:
            await stream.run()
        finally:
            del self._streams[stream.sink.stream_id]
            if not self._streams:
                if self._leaving:
                    self._reading.cancel()
                self._watch.enter(Phase.IDLE, self._server.limits.keep_alive_s)

    def _receive(self, stream_id: int, data: bytes) -> None:
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        stream.receive(data)
        if len(self._streams) <= BODIES:
            return
        held = sum(each.held for each in self._streams.values())
        if held > BODIES * self._server.limits.body_bytes:
            stream.leave()
            self._refuse(stream_id, ErrorCodes.ENHANCE_YOUR_CALM)

    def _opened(self, stream_id: int) -> None:
        """A window was opened, that of the connection if 0."""
        if stream_id:
            if stream := self._streams.get(stream_id):
                self._out.queue(stream.sink)
        else:
            for stream in self._streams.values():
                self._out.queue(stream.sink)

    def _refuse(self, stream_id: int, code: ErrorCodes) -> None:
        self._patience.spend(h2_frames.RESET, trio.current_time())
        self._out.reset_id(stream_id, code)

    # the end

    async def _write(self, scope: trio.CancelScope) -> None:
        with scope:
            await self._out.run()

    async def _hang_up(self, goodbye: bytes) -> None:
        """See that the client can read what it was sent, and why it is over."""
        with contextlib.suppress(PipeClosed), trio.move_on_after(LINGER_S):
            self._pipe.send_nowait(goodbye)
            await self._pipe.flush()
            if not self._pipe.quiet():
                await linger(self._pipe, self._server.limits.body_bytes)


def _h2(limits: Limits) -> H2Connection:
    """Return a server's connection, set up."""
    config = H2Configuration(
        client_side=False,
        header_encoding=None,
        validate_outbound_headers=False,  # heads.check_field did
        normalize_outbound_headers=False,
    )
    h2 = _H2(config)
    h2.local_settings = Settings(
        client=False,
        initial_values={
            SettingCodes.MAX_CONCURRENT_STREAMS: MAX_STREAMS,
            SettingCodes.MAX_HEADER_LIST_SIZE: limits.head_bytes,
            SettingCodes.ENABLE_PUSH: 0,
        },
    )
    # what is over the limit is answered 431, as in HTTP/1.1; what is far over it is not read
    h2.decoder.max_header_list_size = 4 * limits.head_bytes
    return h2
