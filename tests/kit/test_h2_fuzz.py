"""HTTP/2 from clients that say anything: never an unexpected error, never a server that is gone."""

from __future__ import annotations

import random
from contextlib import suppress

import pytest
import trio

from orchd.kit import http, log
from orchd.kit.pipe import PipeClosed
from orchd.kit.sink import Sink
from tests.fakes.h2_peer import HELLO, H2Peer, frame
from tests.fakes.peers import Served, serving
from tests.kit.test_h2_frames import DONE, GET, HEADERS, HEADS, OPEN, PADDED, PRIO, word

pytestmark = pytest.mark.req("OC-CTRL-2025", "ORCH-3450")

ROUNDS = 300
PARTS = [
    OPEN,
    DONE,
    frame(HEADERS, HEADS | 1, 3, GET),
    frame(HEADERS, 1, 5, GET),
    frame(9, HEADS, 5, b"\x40\x01a\x01b"),
    frame(HEADERS, HEADS | PADDED | PRIO | 1, 7, b"\x01" + word(0) + b"\x10" + GET + b"\0"),
    frame(0, 0, 1, b"some body"),
    frame(0, 1, 1, b""),
    frame(3, 0, 1, word(8)),
    frame(3, 0, 3, word(8)),
    frame(4, 0, 0, b"\x00\x04\x00\x00\x00\x05"),
    frame(4, 0, 0, b"\x00\x01\x00\x00\x00\x00"),
    frame(4, 1, 0),
    frame(6, 0, 0, bytes(8)),
    frame(7, 0, 0, bytes(8)),
    frame(8, 0, 0, word(1000)),
    frame(8, 0, 1, word(1000)),
    frame(2, 0, 3, bytes(5)),
    frame(0x20, 0, 1, b"?"),
]


async def handler(request: http.Request) -> http.Answer:
    if request.method == "POST":
        return http.Response(200, bytes(1000))

    async def run(sink: Sink) -> None:
        for _ in range(20):
            if not sink.send_nowait(b"x" * 10):
                with trio.move_on_after(0.01) as patience:
                    await sink.flush()
                if patience.cancelled_caught:
                    sink.abort()
                    return

    return http.Streaming("text/plain", run)


async def talk(served: Served, data: bytes, step: int) -> None:
    """Say `data` in pieces, listen until the server has nothing more to say, and leave."""
    peer = await served.connect()
    with suppress(PipeClosed):
        for at in range(0, len(data), step):
            await peer.say(data[at : at + step])
            await trio.lowlevel.checkpoint()
        with trio.move_on_after(0.001):
            await peer.to_end()
    peer.pipe.close()


@pytest.mark.parametrize("how", ["shuffled", "flipped", "cut", "noise"])
async def test_anything_at_all(how: str) -> None:
    dice = random.Random(f"{how} 3450")
    with log.capture() as events:
        async with serving(handler, drain_s=1) as served:
            for _ in range(ROUNDS):
                data = bytearray(b"".join(dice.sample(PARTS, dice.randint(1, len(PARTS)))))
                if how == "flipped":
                    for _ in range(dice.randint(1, 4)):
                        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
                elif how == "cut":
                    at = dice.randrange(len(data))
                    del data[at : at + dice.randint(1, 12)]
                elif how == "noise":
                    data = bytearray(dice.randbytes(dice.randint(1, 200)))
                await talk(served, HELLO + data, dice.choice([1, 7, 1000]))
            peer = await H2Peer.connect(served)
            assert (await peer.ask("/", "POST")).status == 200
            served.stop.set()
            with trio.fail_after(5):
                peer.pipe.close()
                await served.ended.wait()
    assert [event for event in events if event["level"] != "debug"] == []
