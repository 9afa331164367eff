"""What is no HTTP, or hardly, said to the live daemon: it answers 4xx or hangs up, and goes on."""

from __future__ import annotations

import random
import ssl

import pytest
import trio

from orchd.kit.exchange import PREFACE
from orchd.kit.pipe import PipeClosed
from tests.fakes.h2_peer import HELLO, Answer, H2Peer, frame
from tests.fakes.peers import RawPeer
from tests.hostile.ledger import nothing_left
from tests.hostile.voices import ANSWER_S, WAYS, target_of
from tests.sockets.suite import Suite

pytestmark = pytest.mark.slow
GET = b"GET /v1/pools HTTP/1.1\r\n"
HOST = b"Host: x\r\n"
POST = b"POST /v1/tasks HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


def client_hello() -> bytes:
    """Return how a client begins that takes the daemon for a TLS server."""
    out = ssl.MemoryBIO()
    context = ssl.create_default_context()
    try:
        context.wrap_bio(ssl.MemoryBIO(), out, server_hostname="x").do_handshake()
    except ssl.SSLWantReadError:
        pass
    return out.read()


BYTES = {
    "a word": b"hello\r\n\r\n",
    "NULs": b"\x00" * 1000,
    "TLS": client_hello(),
    "SSH": b"SSH-2.0-OpenSSH_9.6\r\n",
    "SOCKS": b"\x05\x01\x00\x04\x01\x7f\x00\x00\x01\x00\x50",
    "a proxy": b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n",
    "PROXY protocol": b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\n" + GET + HOST + b"\r\n",
    "HTTP/0.9": b"GET /\r\n\r\n",
    "HTTP/9.9": b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
    "no version": b"GET / \r\nHost: x\r\n\r\n",
    "no host": GET + b"\r\n",
    "two hosts": GET + HOST + HOST + b"\r\n",
    "an empty name": GET + HOST + b": x\r\n\r\n",
    "a space before the colon": GET + HOST + b"a : x\r\n\r\n",
    "a folded line": GET + HOST + b"a: x\r\n  y\r\n\r\n",
    "a NUL in a value": GET + HOST + b"a: \x00\r\n\r\n",
    "bare line ends": b"GET / HTTP/1.1\nHost: x\n\n",
    "raw UTF-8 in the path": "GET /é HTTP/1.1\r\nHost: x\r\n\r\n".encode(),
    "a space in the path": b"GET /a b HTTP/1.1\r\nHost: x\r\n\r\n",
    "another scheme": b"GET ftp://x/ HTTP/1.1\r\nHost: x\r\n\r\n",
    "10,000 headers": GET + HOST + b"".join(b"h%d: x\r\n" % n for n in range(10_000)) + b"\r\n",
    "10,000 equal headers": GET + HOST + b"a: x\r\n" * 10_000 + b"\r\n",
    "101 headers": GET + HOST + b"".join(b"h%d: x\r\n" % n for n in range(101)) + b"\r\n",
    "a long header": GET + HOST + b"a: " + b"x" * 100_000 + b"\r\n\r\n",
    "a long name": GET + HOST + b"a" * 100_000 + b": x\r\n\r\n",
    "a long path": b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "a long method": b"G" * 100_000 + b" / HTTP/1.1\r\nHost: x\r\n\r\n",
    "no end": b"x" * 100_000,
    "two lengths": POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
    "a negative length": POST + b"Content-Length: -1\r\n\r\n",
    "a huge length": POST + b"Content-Length: " + b"9" * 400 + b"\r\n\r\n",
    "a length of 5,000 digits": POST + b"Content-Length: " + b"9" * 5_000 + b"\r\n\r\n",
    "a signed length": POST + b"Content-Length: +1\r\n\r\nx",
    "full-width digits": POST + b"Content-Length: \xef\xbc\x91\r\n\r\nx",
    "length and chunks": POST + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "an unknown coding": POST + b"Transfer-Encoding: gzip\r\n\r\n",
    "a chunk of no size": CHUNKED + b"\r\n\r\n",
    "a chunk of hex words": CHUNKED + b"zz\r\n\r\n",
    "a negative chunk": CHUNKED + b"-1\r\n\r\n",
    "a huge chunk": CHUNKED + b"f" * 100 + b"\r\n",
    "a chunk that is longer": CHUNKED + b"1\r\nxxx\r\n0\r\n\r\n",
    "a chunk with extensions": CHUNKED + b"1;" + b"a" * 100_000 + b"\r\nx\r\n0\r\n\r\n",
    "many trailers": CHUNKED + b"0\r\n" + b"a: b\r\n" * 10_000 + b"\r\n",
    "one byte a chunk": CHUNKED + b"1\r\nx\r\n" * 100_000 + b"0\r\n\r\n",
    "an upgrade": GET + HOST + b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    "an unknown expectation": POST + b"Expect: 200-maybe\r\nContent-Length: 2\r\n\r\n{}",
    "a preface, broken off": PREFACE[:-1],
    "a preface and HTTP/1.1": PREFACE + GET + HOST + b"\r\n",
    "a frame of no kind": HELLO + frame(99, 255, 1, b"x" * 100),
    "a frame too long": HELLO + b"\xff\xff\xff\x00\x00\x00\x00\x00\x01",
    "headers of nothing": HELLO + frame(1, 5, 1, b""),
    "headers that are no HPACK": HELLO + frame(1, 5, 1, b"\xff" * 1000),
    "headers without an end": HELLO + frame(1, 1, 1, b"\x82") + frame(9, 0, 1, b"") * 5_000,
    "data on no stream": HELLO + frame(0, 1, 7, b"x"),
    "a window of nothing": HELLO + frame(8, 0, 0, bytes(4)),
    "resets of the unknown": HELLO + frame(3, 0, 1, bytes(4)) * 1_000,
    "pings": HELLO + frame(6, 0, 0, bytes(8)) * 10_000,
}


@pytest.mark.req("ORCH-3101")
@pytest.mark.parametrize("data", BYTES.values(), ids=BYTES.keys())
async def test_what_is_no_request_is_refused_or_hung_up_on(suite: Suite, data: bytes) -> None:
    async with nothing_left(suite):
        for way in WAYS[:2]:
            _no_fault_of_ours(await said_to(suite, way, data))


async def test_random_bytes(suite: Suite) -> None:
    dice = random.Random(11)
    good = POST + b"Content-Length: 2\r\n\r\n{}"
    async with nothing_left(suite):
        for turn in range(400):
            broken = bytearray(
                good if turn % 2 else HELLO + frame(1, 5, 1, b"\x82\x84\x86\x41\x01x")
            )
            for _ in range(dice.randint(1, 6)):
                at = dice.randrange(len(broken))
                match dice.randrange(3):
                    case 0:
                        broken[at] = dice.randrange(256)
                    case 1:
                        del broken[at:]
                        broken += b"\r\n"
                    case _:
                        broken[at:at] = dice.randbytes(dice.randint(1, 40))
            _no_fault_of_ours(await said_to(suite, "http/1.1", bytes(broken)))


async def test_10_000_headers_over_http2(suite: Suite) -> None:
    async with nothing_left(suite):
        for count in (101, 10_000):
            peer = H2Peer(await target_of(suite, "http/2").connect())
            peer.h2.initiate_connection()
            fields = [(":method", "GET"), (":scheme", "http"), (":authority", "x"), (":path", "/")]
            peer.h2.send_headers(1, [*fields, *((f"h{n}", "x") for n in range(count))], True)
            answer = peer.answers[1] = Answer()
            with trio.fail_after(ANSWER_S):
                try:
                    await peer.flush()
                    while not (answer.over or peer.goaway) and await peer.receive():
                        pass
                except PipeClosed:
                    pass
            if answer.over:
                assert answer.status == 431
            else:
                assert peer.goaway is not None
            peer.pipe.close()


async def said_to(suite: Suite, way: str, data: bytes) -> bytes:
    """Say it, end this side, and return all that comes back."""
    peer = RawPeer(await target_of(suite, way).connect())
    got = b""
    try:
        with trio.fail_after(ANSWER_S):
            await peer.say(data)
            peer.pipe.shutdown()
            while more := await peer.recv():
                got += more
    except PipeClosed:
        pass  # a reset: what was said went unread
    finally:
        peer.pipe.close()
    return got


def _no_fault_of_ours(got: bytes) -> None:
    assert b"HTTP/1.1 500" not in got, got
    assert b"Traceback" not in got, got
    if got.startswith(b"HTTP/1.1 "):
        assert got[9:10] in {b"2", b"4"}, got[:200]
