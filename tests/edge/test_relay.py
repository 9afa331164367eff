"""Streams and their readers, over real socket pairs: replay, resumption, cancel, slow readers."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from orchd.edge.relay import STALL_S, WINDOW_BYTES, Reader, Stream
from orchd.kit.h1_sink import H1Sink
from orchd.kit.pipe import Pipe
from orchd.wire import link, sse
from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import Count, PoolId, TaskId
from orchd.wire.shapes import Ended, FinishReason, MetricsFrame, Narration

TASK = TaskId("6e7a1d0c-0000-4000-8000-000000000001")
HELLO = Narration(human="Starts.", actor="orchd", action="start", target="demo:0")
END = Ended(
    tokens_out=Count(0),
    decode_time_ms=Count(0),
    decode_ms=Count(0),
    finish_reason=FinishReason.STOP,
)


def new_stream() -> Stream:
    stream = Stream(TASK, PoolId("demo"), 0.0)
    stream.say(("started", HELLO))
    return stream


def feed(stream: Stream, *texts: str) -> None:
    stream.feed(len(texts), sse.token_frames(stream.next_id, stream.tokens, texts))
    stream.pump()


class Client:
    """The other end of a reader: raw bytes in, events out."""

    def __init__(
        self,
        stream: Stream,
        position: int = 0,
        *,
        sndbuf: int | None = None,
        sink: type[H1Sink] = H1Sink,
    ) -> None:
        ours, theirs = socket.socketpair()
        if sndbuf is not None:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, sndbuf)
        self.peer = Pipe(theirs)
        self.sink = sink(Pipe(ours), b"", b"", chunked=False)
        self.reader = Reader(stream, position, self.sink)
        self.bytes = bytearray()

    def close(self) -> None:
        self.peer.close()
        self.sink.abort()

    def take(self) -> int:
        """Read what has left for this client by now; return how much that is."""
        before = len(self.bytes)
        while True:
            try:
                data = self.peer.sock.recv(1 << 20)
            except BlockingIOError:
                break
            if not data:
                break
            self.bytes += data
        return len(self.bytes) - before

    def drain_nowait(self) -> bytes:
        """Everything that has left for this client by now, from the beginning."""
        self.take()
        return bytes(self.bytes)

    def events(self) -> list[sse.Event]:
        return sse.Decoder(1 << 30).feed(self.drain_nowait())


@asynccontextmanager
async def reading(client: Client) -> AsyncIterator[Client]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.reader.run)
        await trio.testing.wait_all_tasks_blocked()
        yield client
        nursery.cancel_scope.cancel()
    client.close()


def names(events: list[sse.Event]) -> list[str]:
    return [event.name for event in events]


@pytest.mark.req("OC-CTRL-2027", "SSE-1002")
async def test_a_late_reader_gets_every_frame_from_the_first() -> None:
    stream = new_stream()
    feed(stream, "a", "b")
    async with reading(Client(stream)) as client:
        feed(stream, "c")
        stream.finish(("end", END))
        assert names(client.events()) == ["started", "token", "token", "token", "end"]
        assert [e.id for e in client.events()] == ["1", "2", "3", "4", "5"]


@pytest.mark.req("SSE-1001")
async def test_a_level_reader_is_written_to_in_the_same_step() -> None:
    stream = new_stream()
    async with reading(Client(stream)) as client:
        client.drain_nowait()
        feed(stream, "now")
        assert b'"t":"now"' in client.drain_nowait(), "no task switch lies between"


async def test_what_one_receive_brought_leaves_in_one_write() -> None:
    stream = new_stream()
    writes: list[bytes] = []

    class Counting(H1Sink):
        def send_nowait(self, data: bytes, *, last: bool = False) -> bool:
            writes.append(data)
            return super().send_nowait(data, last=last)

    client = Client(stream, sink=Counting)
    async with reading(client):
        writes.clear()
        for text in ("a", "b"):
            stream.feed(1, sse.token_frames(stream.next_id, stream.tokens, [text]))
        stream.finish(("narration", HELLO), ("end", END))
        stream.pump()
        assert names(sse.Decoder().feed(b"".join(writes))) == ["token", "token", "narration", "end"]
        assert len(writes) == 1


@given(
    texts=st.lists(st.text(max_size=20), max_size=30), seen=st.integers(0, 40), late=st.booleans()
)
def test_resuming_after_any_id_gives_exactly_the_rest(
    texts: list[str], seen: int, late: bool
) -> None:
    stream = new_stream()
    feed(stream, *texts)
    if late:
        stream.finish(("end", END))
    whole = sse.Decoder().feed(bytes(stream.log))
    if seen >= stream.next_id:
        with pytest.raises(OrchError) as refused:
            stream.offset(str(seen))
        assert refused.value.kind is Kind.INVALID_PARAMS
    else:
        rest = sse.Decoder().feed(bytes(stream.log[stream.offset(str(seen)) :]))
        assert [e.data for e in rest] == [e.data for e in whole[seen:]]


@pytest.mark.parametrize("bad", ["-1", "x", "1.0", "٣", "999999999999999999999", "9" * 5000])
def test_an_id_that_never_was_is_refused(bad: str) -> None:
    with pytest.raises(OrchError, match="Last-Event-ID"):
        new_stream().offset(bad)


@pytest.mark.req("ORCH-3026", "OC-CTRL-2012")
async def test_after_the_seal_no_token_is_written_or_replayed() -> None:
    stream = new_stream()
    async with reading(Client(stream)) as client:
        feed(stream, "a", "b")
        stream.seal()
        before = client.drain_nowait()
        feed(stream, "late")
        stream.say(("narration", HELLO))
        stream.finish(("end", END))
        assert b"event: token" not in client.drain_nowait()[len(before) :]
        assert names(client.events()) == ["started", "token", "token", "narration", "end"]
    async with reading(Client(stream)) as later:
        assert names(later.events()) == ["started", "narration", "end"]


@pytest.mark.parametrize("seen", ["1", "2", "3", "4"])
def test_a_reader_resumes_over_a_seal_without_loss_of_what_is_left(seen: str) -> None:
    stream = new_stream()
    feed(stream, "a", "b")
    stream.seal()
    stream.say(("narration", HELLO))
    stream.finish(("end", END))
    rest = sse.Decoder().feed(bytes(stream.log[stream.offset(seen) :]))
    wanted = ["narration", "end"] if int(seen) < 4 else ["end"]
    assert names(rest) == wanted


@pytest.mark.req("ORCH-3026")
async def test_a_cancel_waits_for_a_half_written_frame_and_cuts_behind_it() -> None:
    stream = new_stream()
    async with reading(Client(stream, sndbuf=4096)) as client:
        feed(stream, *["x" * 1000] * 100)
        assert client.sink.pending, "the socket took only a part"
        stream.seal()
        stream.finish(("end", END))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.settle)
            while client.sink.pending:
                client.drain_nowait()
                await trio.lowlevel.checkpoint()
        settled = len(client.drain_nowait())
        while b"event: end" not in client.drain_nowait():
            await trio.lowlevel.checkpoint()
        assert b"event: token" not in client.bytes[settled:]
        assert client.bytes.endswith(b"\n\n"), "frames are whole"


async def test_a_reader_that_takes_nothing_is_reset_before_the_cancel_is_answered(
    autojump_clock: trio.testing.MockClock,
) -> None:
    stream = new_stream()
    async with reading(Client(stream, sndbuf=4096)) as client:
        feed(stream, *["x" * 1000] * 100)
        stream.seal()
        await stream.settle()
        assert not client.sink.pending
        settled = client.drain_nowait()
        await trio.sleep(1)
        assert client.drain_nowait() == settled, "nothing leaves any more"


async def test_a_stalled_reader_is_given_up(autojump_clock: trio.testing.MockClock) -> None:
    stream = new_stream()
    async with reading(Client(stream, sndbuf=4096)):
        feed(stream, *["x" * 1000] * 100)
        await trio.sleep(STALL_S + 1)
        assert stream.readers == []


async def test_a_reader_that_takes_a_little_now_and_then_is_kept(
    autojump_clock: trio.testing.MockClock,
) -> None:
    stream = new_stream()
    client = Client(stream, sndbuf=4096)
    async with reading(client):
        feed(stream, *["x" * 1000] * 200)
        for _ in range(4):
            await trio.sleep(STALL_S * 0.9)
            assert client.take()
        assert client.sink.pending, "one batch, for longer than STALL_S"
        assert stream.readers == [client.reader]


async def test_a_slow_reader_stops_the_pools_credit_and_nobody_else() -> None:
    stream = new_stream()
    granted: list[int] = []
    stream.opened(granted.append, lambda _task: None)
    slow, quick = Client(stream, sndbuf=4096), Client(stream)
    async with reading(slow), reading(quick):
        text = "x" * 10_000
        while sum(granted) < WINDOW_BYTES // 2:
            feed(stream, text)
            quick.take()
            await trio.lowlevel.checkpoint()
        lag_at_grant = len(stream.log) - slow.reader.position
        assert lag_at_grant < WINDOW_BYTES
        for _ in range(WINDOW_BYTES // 5_000):
            feed(stream, text)
            quick.take()
            await trio.lowlevel.checkpoint()
        held = sum(granted)
        assert held < len(stream.log) - WINDOW_BYTES // 2, "credit is held back"
        while slow.reader.position < len(stream.log) or slow.sink.pending:
            slow.take()
            await trio.lowlevel.checkpoint()
        assert sum(granted) > held, "and given once the reader has caught up"


def test_all_that_a_pool_sent_is_credited_again() -> None:
    """A link's credit counts bodies, so a credit that forgot their heads would run out."""
    stream = new_stream()
    credit = [WINDOW_BYTES]
    stream.opened(credit.append, lambda _task: None)
    sent, frames = 0, sse.token_frames(2, 0, ["x" * 1000])
    while sent < 3 * WINDOW_BYTES:
        body = link.encode_frames(1, 0, 1, frames)[link.HEAD.size :]
        sent += len(body)
        stream.feed(1, frames)
        assert sum(credit) - sent >= WINDOW_BYTES // 2 - len(body)
    assert sum(credit) - sent <= WINDOW_BYTES


@pytest.mark.req("SSE-1004")
async def test_metrics_repeat_the_id_before_them_and_are_not_replayed() -> None:
    stream = new_stream()
    frame = MetricsFrame(queue_depth=Count(3), on_time_probability=0.5)
    async with reading(Client(stream)) as client:
        assert stream.hint(frame) == 0
        feed(stream, "a")
        assert [(e.name, e.id) for e in client.events()] == [
            ("started", "1"),
            ("metrics", "1"),
            ("token", "2"),
        ]
    assert b"metrics" not in stream.log


async def test_metrics_are_dropped_for_a_reader_that_is_behind() -> None:
    stream = new_stream()
    async with reading(Client(stream, sndbuf=4096)) as client:
        feed(stream, *["x" * 1000] * 100)
        assert stream.hint(MetricsFrame(queue_depth=Count(0), on_time_probability=1.0)) == 1
        assert b"metrics" not in client.drain_nowait()


async def test_core_hears_of_the_first_token_before_a_reader_does() -> None:
    stream = new_stream()
    async with reading(Client(stream)) as client:
        seen: list[bytes] = []
        stream.opened(lambda _owed: None, lambda _task: seen.append(client.drain_nowait()))
        feed(stream, "a")
        feed(stream, "b")
    assert len(seen) == 1
    assert b"event: token" not in seen[0]


@pytest.mark.req("ORCH-3406", "OC-CORE-1022")
def test_a_first_token_that_comes_with_the_deadline_does_not_follow_the_error() -> None:
    stream = new_stream()
    error = OrchError(Kind.DECODE_TIMEOUT, "its deadline passed").envelope()
    # core looks at the clock first, whatever it is told
    stream.opened(lambda _: None, lambda _: stream.finish(("error", error)))
    feed(stream, "late")
    assert names(sse.Decoder().feed(bytes(stream.log))) == ["started", "error"]
    assert (stream.tokens, stream.next_id) == (0, 3)
