"""Broken and hostile HTTP/2 clients: what h2spec asks, by hand-made frames, and floods.

Each case ends as RFC 9113 says, with a GOAWAY or a reset of the one stream, and the server goes on.
"""

from __future__ import annotations

import struct
from contextlib import suppress

import pytest
import trio
import trio.testing
from h2.errors import ErrorCodes as Code

from orchd.kit import http, log
from orchd.kit.exchange import PREFACE
from orchd.kit.h2_connection import MAX_STREAMS
from orchd.kit.h2_frames import PATIENCE, RESET, Broken, Cutter
from orchd.kit.pipe import PipeClosed
from tests.fakes.h2_peer import HELLO, SETTINGS, H2Peer, frame, frames
from tests.fakes.peers import RawPeer, serving

pytestmark = pytest.mark.req("OC-CTRL-2025", "ORCH-3450")

GET = b"\x82\x86\x84\x41\x01x"  # GET http / of x
POST = b"\x83\x86\x84\x41\x01x"
DATA, HEADERS, PRIORITY, RST, SETTING, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
END, ACK, HEADS, PADDED, PRIO = 1, 1, 4, 8, 32
OPEN = frame(HEADERS, HEADS, 1, POST)
"""Stream 1, whose body is to come."""
DONE = frame(HEADERS, HEADS | END, 1, GET)


def word(value: int) -> bytes:
    return struct.pack(">I", value)


def setting(code: int, value: int) -> bytes:
    return frame(SETTING, 0, 0, struct.pack(">HI", code, value))


def literal(name: bytes, value: bytes) -> bytes:
    return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value


async def handler(request: http.Request) -> http.Answer:
    """Answer 204 after a while, or never."""
    if request.path == "/wait":
        await trio.sleep_forever()
    return http.Response(204)


CONNECTION_ERRORS = {
    # 3.4, 4.1, 4.2: preface, frames, sizes
    "no settings after the preface": (PREFACE + DONE, Code.PROTOCOL_ERROR),
    "an ack after the preface": (PREFACE + frame(SETTING, ACK), Code.PROTOCOL_ERROR),
    "a frame too long": (HELLO + b"\x00\x40\x01\x00\x00\x00\x00\x00\x01", Code.FRAME_SIZE_ERROR),
    "an unknown frame too long": (HELLO + b"\xff\xff\xff\xee\0\0\0\0\0", Code.FRAME_SIZE_ERROR),
    # 4.3, 6.10: header blocks
    "not hpack": (HELLO + frame(HEADERS, HEADS | END, 1, b"\xff\xff\xff\xff"), Code.PROTOCOL_ERROR),
    "another frame in a block": (
        HELLO + frame(HEADERS, END, 1, GET) + frame(PING, 0, 0, bytes(8)),
        Code.PROTOCOL_ERROR,
    ),
    "an unknown frame in a block": (
        HELLO + frame(HEADERS, END, 1, GET) + frame(0x16, 0, 0),
        Code.PROTOCOL_ERROR,
    ),
    "a block goes on elsewhere": (
        HELLO + frame(HEADERS, END, 1, GET) + frame(CONTINUATION, HEADS, 3),
        Code.PROTOCOL_ERROR,
    ),
    "continuation of nothing": (HELLO + frame(CONTINUATION, HEADS, 1, GET), Code.PROTOCOL_ERROR),
    "continuation behind a whole block": (
        HELLO + OPEN + frame(CONTINUATION, HEADS, 1, b""),
        Code.PROTOCOL_ERROR,
    ),
    # 5.1: stream states and ids
    "data on an idle stream": (HELLO + frame(DATA, END, 1, b"x"), Code.PROTOCOL_ERROR),
    "reset of an idle stream": (HELLO + frame(RST, 0, 1, word(8)), Code.PROTOCOL_ERROR),
    "window of an idle stream": (HELLO + frame(WINDOW, 0, 1, word(9)), Code.PROTOCOL_ERROR),
    "an even stream id": (HELLO + frame(HEADERS, HEADS | END, 2, GET), Code.PROTOCOL_ERROR),
    "stream 0": (HELLO + frame(HEADERS, HEADS | END, 0, GET), Code.PROTOCOL_ERROR),
    "a stream id that goes back": (
        HELLO + frame(HEADERS, HEADS | END, 5, GET) + frame(HEADERS, HEADS | END, 3, GET),
        Code.PROTOCOL_ERROR,
    ),
    "too many streams": (
        HELLO + b"".join(frame(HEADERS, HEADS, 1 + 2 * i, POST) for i in range(MAX_STREAMS + 1)),
        Code.PROTOCOL_ERROR,
    ),
    # 6: frames
    "data on stream 0": (HELLO + frame(DATA, 0, 0, b"x"), Code.PROTOCOL_ERROR),
    "data with too much padding": (
        HELLO + OPEN + frame(DATA, PADDED, 1, b"\x05abc"),
        Code.PROTOCOL_ERROR,
    ),
    "headers with too much padding": (
        HELLO + frame(HEADERS, HEADS | PADDED, 1, b"\x09" + GET),
        Code.PROTOCOL_ERROR,
    ),
    "a priority on stream 0": (HELLO + frame(PRIORITY, 0, 0, bytes(5)), Code.PROTOCOL_ERROR),
    "a stream that depends on itself": (
        HELLO + frame(HEADERS, HEADS | END | PRIO, 1, word(1) + b"\x10" + GET),
        Code.PROTOCOL_ERROR,
    ),
    "a reset on stream 0": (HELLO + frame(RST, 0, 0, word(8)), Code.PROTOCOL_ERROR),
    "a short reset": (HELLO + OPEN + frame(RST, 0, 1, b"abc"), Code.FRAME_SIZE_ERROR),
    "settings on a stream": (HELLO + frame(SETTING, 0, 1), Code.PROTOCOL_ERROR),
    "settings of 5 bytes": (HELLO + frame(SETTING, 0, 0, bytes(5)), Code.FRAME_SIZE_ERROR),
    "push of 2": (HELLO + setting(2, 2), Code.PROTOCOL_ERROR),
    "a window of 2^31": (HELLO + setting(4, 1 << 31), Code.FLOW_CONTROL_ERROR),
    "frames below the least": (HELLO + setting(5, 16383), Code.PROTOCOL_ERROR),
    "frames above the most": (HELLO + setting(5, 1 << 24), Code.PROTOCOL_ERROR),
    "a push promise": (HELLO + frame(PUSH, HEADS, 1, word(2) + GET), Code.PROTOCOL_ERROR),
    "a ping of 7 bytes": (HELLO + frame(PING, 0, 0, bytes(7)), Code.FRAME_SIZE_ERROR),
    "a ping on a stream": (HELLO + frame(PING, 0, 1, bytes(8)), Code.PROTOCOL_ERROR),
    "a goaway on a stream": (HELLO + frame(GOAWAY, 0, 1, bytes(8)), Code.PROTOCOL_ERROR),
    "a short goaway": (HELLO + frame(GOAWAY, 0, 0, bytes(7)), Code.PROTOCOL_ERROR),
    "a window update of 0": (HELLO + frame(WINDOW, 0, 0, word(0)), Code.PROTOCOL_ERROR),
    "a window update of 3 bytes": (HELLO + frame(WINDOW, 0, 0, b"abc"), Code.FRAME_SIZE_ERROR),
    "a connection's window over 2^31": (
        HELLO + frame(WINDOW, 0, 0, word(2**31 - 1)) * 2,
        Code.FLOW_CONTROL_ERROR,
    ),
    "data behind a stream that never was": (
        HELLO + OPEN + frame(DATA, 0, 3, b"x"),
        Code.PROTOCOL_ERROR,
    ),
    # 8: requests
    "an upper-case name": (
        HELLO + frame(HEADERS, HEADS | END, 1, GET + literal(b"A", b"b")),
        Code.PROTOCOL_ERROR,
    ),
    "an unknown pseudo-header": (
        HELLO + frame(HEADERS, HEADS | END, 1, GET + literal(b":x", b"b")),
        Code.PROTOCOL_ERROR,
    ),
    "a pseudo-header of answers": (
        HELLO + frame(HEADERS, HEADS | END, 1, GET + literal(b":status", b"200")),
        Code.PROTOCOL_ERROR,
    ),
    "a pseudo-header behind others": (
        HELLO + frame(HEADERS, HEADS | END, 1, b"\x82\x86" + literal(b"a", b"b") + b"\x84"),
        Code.PROTOCOL_ERROR,
    ),
    "a pseudo-header twice": (
        HELLO + frame(HEADERS, HEADS | END, 1, GET + b"\x84"),
        Code.PROTOCOL_ERROR,
    ),
    "no method": (HELLO + frame(HEADERS, HEADS | END, 1, b"\x86\x84"), Code.PROTOCOL_ERROR),
    "no path": (HELLO + frame(HEADERS, HEADS | END, 1, b"\x82\x86"), Code.PROTOCOL_ERROR),
    "an empty path": (
        HELLO + frame(HEADERS, HEADS | END, 1, b"\x82\x86\x44\x00\x41\x01x"),
        Code.PROTOCOL_ERROR,
    ),
    "no authority and no host": (
        HELLO + frame(HEADERS, HEADS | END, 1, b"\x82\x86\x84"),
        Code.PROTOCOL_ERROR,
    ),
    "another host than the authority": (
        HELLO + frame(HEADERS, HEADS | END, 1, GET + literal(b"host", b"y")),
        Code.PROTOCOL_ERROR,
    ),
    "a connection header": (
        HELLO + frame(HEADERS, HEADS | END, 1, GET + literal(b"connection", b"close")),
        Code.PROTOCOL_ERROR,
    ),
    "te but trailers": (
        HELLO + frame(HEADERS, HEADS | END, 1, GET + literal(b"te", b"gzip")),
        Code.PROTOCOL_ERROR,
    ),
    "a line end in a value": (
        HELLO + frame(HEADERS, HEADS | END, 1, GET + literal(b"a", b"b\r\nc: d")),
        Code.PROTOCOL_ERROR,
    ),
    "pseudo-headers in trailers": (
        HELLO + OPEN + frame(HEADERS, HEADS | END, 1, b"\x84"),
        Code.PROTOCOL_ERROR,
    ),
    "less body than its length": (
        HELLO
        + frame(HEADERS, HEADS, 1, POST + literal(b"content-length", b"5"))
        + frame(DATA, END, 1, b"abc"),
        Code.PROTOCOL_ERROR,
    ),
    "more body than its length": (
        HELLO
        + frame(HEADERS, HEADS, 1, POST + literal(b"content-length", b"1"))
        + frame(DATA, END, 1, b"abc"),
        Code.PROTOCOL_ERROR,
    ),
    "a length that is none": (
        HELLO + frame(HEADERS, HEADS, 1, POST + literal(b"content-length", b"x")),
        Code.PROTOCOL_ERROR,
    ),
    # what costs us and not them
    "a block of many frames": (
        HELLO + frame(HEADERS, 0, 1, GET) + frame(CONTINUATION, 0, 1, b"") * 200,
        Code.PROTOCOL_ERROR,
    ),
    "a block of many bytes": (
        HELLO + frame(HEADERS, 0, 1, GET) + frame(CONTINUATION, 0, 1, bytes(16384)) * 9,
        Code.ENHANCE_YOUR_CALM,
    ),
    "a bomb of indexed headers": (
        HELLO
        + frame(
            HEADERS,
            HEADS | END,
            1,
            GET + b"\x40\x01a\x7f\xa1\x1e" + b"b" * 4000 + b"\xbe" * 1000,
        ),
        Code.ENHANCE_YOUR_CALM,
    ),
    "settings without end": (
        HELLO + frame(SETTING, 0, 0, b"".join(struct.pack(">HI", 0x100 + i, 1) for i in range(99))),
        Code.ENHANCE_YOUR_CALM,
    ),
    "pings": (HELLO + frame(PING, 0, 0, bytes(8)) * (PATIENCE + 500), Code.ENHANCE_YOUR_CALM),
    "settings": (HELLO + SETTINGS * (PATIENCE + 500), Code.ENHANCE_YOUR_CALM),
    "priorities": (
        HELLO + frame(PRIORITY, 0, 1, bytes(5)) * (PATIENCE + 500),
        Code.ENHANCE_YOUR_CALM,
    ),
    "empty data": (HELLO + OPEN + frame(DATA, 0, 1) * (PATIENCE + 500), Code.ENHANCE_YOUR_CALM),
    "unknown frames": (HELLO + frame(0x42, 0, 0) * (PATIENCE + 500), Code.ENHANCE_YOUR_CALM),
}


async def goaway_of(peer: RawPeer) -> tuple[int, bytes]:
    """Read to the end of the connection; return the code and the words of its GOAWAY."""
    data = b""
    with trio.fail_after(5):
        peer.pipe.shutdown()
        with suppress(PipeClosed):
            while more := await peer.recv():
                data += more
    last = frames(data)[-1]
    assert last[0] == GOAWAY, frames(data)
    return int.from_bytes(last[3][4:8], "big"), last[3][8:]


@pytest.mark.parametrize("case", CONNECTION_ERRORS.values(), ids=CONNECTION_ERRORS)
async def test_the_connection_ends_with(case: tuple[bytes, Code]) -> None:
    data, code = case
    with log.capture() as events:
        async with serving(handler) as served:
            peer = await served.connect()
            with suppress(PipeClosed):
                await peer.say(data)
            assert Code((await goaway_of(peer))[0]) == code
            assert (await (await H2Peer.connect(served)).ask()).status == 204
    assert [event for event in events if event["level"] != "debug"] == []


STREAM_ERRORS = {
    "a stream's window over 2^31": (
        frame(WINDOW, 0, 1, word(2**31 - 1)) * 2,
        Code.FLOW_CONTROL_ERROR,
    ),
    "data behind the end": (frame(DATA, END, 1, b"") + frame(DATA, 0, 1, b"x"), Code.STREAM_CLOSED),
    "headers behind the end": (
        frame(DATA, END, 1, b"") + frame(HEADERS, HEADS | END, 1, GET),
        Code.STREAM_CLOSED,
    ),
}


@pytest.mark.parametrize("case", STREAM_ERRORS.values(), ids=STREAM_ERRORS)
async def test_only_the_stream_is_reset(case: tuple[bytes, Code]) -> None:
    data, code = case
    path = b"\x04\x05/wait"
    async with serving(handler) as served:
        peer = await served.connect()
        await peer.say(HELLO + frame(HEADERS, HEADS, 1, b"\x83\x86\x41\x01x" + path) + data)
        await peer.say(frame(HEADERS, HEADS | END, 3, GET))
        seen: list[tuple[int, int, int, bytes]] = []
        while not any(kind == HEADERS for kind, *_ in seen):
            seen += frames(await peer.recv())
        assert (RST, 0, 1, word(code)) in seen
        assert [stream_id for kind, _, stream_id, _ in seen if kind == HEADERS] == [3]


IGNORED = {
    "unknown frames": frame(0xEE, 0xFF, 9, b"x"),
    "unknown settings": setting(0x7777, 1),
    "unknown flags": frame(PING, 0xFE, 0, bytes(8)),
    "a ping's answer": frame(PING, ACK, 0, bytes(8)),
    "priority of an idle stream": frame(PRIORITY, 0, 9, word(7) + b"\x10"),
    "a goaway": frame(GOAWAY, 0, 0, bytes(8) + b"bye"),
    "a window update": frame(WINDOW, 0, 0, word(1)),
    "a table of 4 GiB": setting(1, 2**32 - 1),
    "the reserved bit": b"\x00\x00\x08\x06\x00\x80\x00\x00\x00" + bytes(8),
}


@pytest.mark.parametrize("data", IGNORED.values(), ids=IGNORED)
async def test_what_is_ignored(data: bytes) -> None:
    async with serving(handler) as served:
        peer = await served.connect()
        await peer.say(HELLO + data + DONE)
        seen: list[tuple[int, int, int, bytes]] = []
        while not any(kind == HEADERS for kind, *_ in seen):
            seen += frames(await peer.recv())
        assert not any(kind in {GOAWAY, RST} for kind, *_ in seen)


async def test_pings_and_settings_are_answered() -> None:
    async with serving(handler) as served:
        peer = await served.connect()
        await peer.say(HELLO + frame(PING, 0, 0, b"whatever"))
        seen = frames(await peer.recv())
        assert (SETTING, ACK, 0, b"") in seen
        assert (PING, ACK, 0, b"whatever") in seen
        assert seen[0][0] == SETTING
        assert seen[0][1] == 0


async def test_padding_and_priority_are_taken_off() -> None:
    bodies: list[bytes] = []

    async def keep(request: http.Request) -> http.Answer:
        bodies.append(request.body)
        return http.Response(204)

    async with serving(keep) as served:
        peer = await served.connect()
        head = b"\x03" + word(0) + b"\x10" + POST + bytes(3)
        await peer.say(
            HELLO
            + frame(HEADERS, HEADS | PADDED | PRIO, 1, head)
            + frame(DATA, PADDED, 1, b"\x02one" + bytes(2))
            + frame(DATA, PADDED | END, 1, b"\x00two")
        )
        await peer.until(b"\x89")  # :status 204
        assert bodies == [b"onetwo"]


async def test_a_client_that_opens_and_resets_is_sent_away() -> None:
    """CVE-2023-44487: cheap for it, a request each for us."""
    asked: list[str] = []

    async def count(request: http.Request) -> http.Answer:
        asked.append(request.path)
        return http.Response(204)

    async with serving(count) as served:
        peer = await served.connect()
        with suppress(PipeClosed):
            for number in range(5000):
                stream_id = 1 + 2 * number
                reset = frame(RST, 0, stream_id, word(Code.CANCEL))
                await peer.say(
                    (HELLO if not number else b"")
                    + frame(HEADERS, HEADS | END, stream_id, GET)
                    + reset
                )
        code, why = await goaway_of(peer)
        assert (code, why.partition(b" ")[0]) == (Code.ENHANCE_YOUR_CALM, b"too")
        assert len(asked) <= PATIENCE // RESET + 10


async def test_a_client_that_makes_us_reset_is_sent_away() -> None:
    """CVE-2025-8671: the resets are ours, the cost is the same."""
    async with serving(handler) as served:
        peer = await served.connect()
        with suppress(PipeClosed):
            for number in range(1000):
                stream_id = 1 + 2 * number
                await peer.say(
                    (HELLO if not number else b"")
                    + frame(HEADERS, HEADS, stream_id, POST)
                    + frame(WINDOW, 0, stream_id, word(2**31 - 1)) * 2
                )
        assert (await goaway_of(peer))[0] == Code.ENHANCE_YOUR_CALM


async def test_tasks_of_reset_streams_count() -> None:
    """A stream that was reset is free for the client, but its handler may still run."""
    running = 0
    go = trio.Event()

    async def slow(request: http.Request) -> http.Answer:
        nonlocal running
        running += 1
        await go.wait()
        return http.Response(204)

    async with serving(slow) as served:
        peer = await H2Peer.connect(served)
        for _ in range(MAX_STREAMS):
            stream_id = await peer.send()
            await trio.testing.wait_all_tasks_blocked()
            await peer.reset(stream_id)
        refused = await peer.answer(await peer.send())
        assert refused.reset == Code.REFUSED_STREAM
        assert running == MAX_STREAMS
        go.set()
        await trio.testing.wait_all_tasks_blocked()
        assert (await peer.ask()).status == 204


async def test_a_flood_leaves_the_others_their_turn() -> None:
    async with serving(handler) as served:
        greedy = await served.connect()
        modest = await H2Peer.connect(served)
        await greedy.say(HELLO + OPEN)
        await modest.ask()
        await greedy.say(frame(WINDOW, 0, 0, word(1)) * 2000)
        began = trio.current_time()
        await modest.ask()
        assert trio.current_time() - began < 1


async def test_unread_answers_to_pings_are_bounded() -> None:
    """It pings within its patience but reads nothing: what is kept for it has an end."""
    async with serving(handler) as served:
        peer = await served.connect()
        await peer.say(HELLO + frame(PING, 0, 0, bytes(8)) * (PATIENCE - 10))
        await trio.testing.wait_all_tasks_blocked()
        assert (await (await served.connect()).ask()).status == 204


@pytest.mark.parametrize("step", [1, 2, 8, 9, 10, 1000])
def test_frames_from_any_pieces(step: int) -> None:
    parts = [SETTINGS, frame(HEADERS, 0, 1, GET), frame(CONTINUATION, HEADS, 1, b"x" * 99)]
    data, cutter, got = PREFACE + b"".join(parts), Cutter(1000), []
    for at in range(0, len(data), step):
        cutter.feed(data[at : at + step])
        while found := cutter.next_frame():
            got.append(found.data)
    assert got == parts


@pytest.mark.parametrize("at", range(len(PREFACE)))
def test_a_preface_with_a_wrong_byte(at: int) -> None:
    data = bytearray(PREFACE)
    data[at] ^= 1
    for pieces in ([bytes(data)], [bytes(data[: at + 1])], [bytes([byte]) for byte in data]):
        cutter = Cutter(1000)
        with pytest.raises(Broken):
            for piece in pieces:
                cutter.feed(piece)
