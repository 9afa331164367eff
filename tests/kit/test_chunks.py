"""The chunk decoder: whole, in every cut, with bytes behind, and what it refuses."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchd.kit.chunks import MAX_LINE, BadChunk, ChunkDecoder

GOLDEN = [
    (b"0\r\n\r\n", b""),
    (b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
    (b"5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n", b"hello!"),
    (b"00A;ext=1\r\n0123456789\r\n0\r\nX: y\r\nZ: 1\r\n\r\n", b"0123456789"),
    (b"2 \r\n\r\n\r\n0\r\n\r\n", b"\r\n"),
]


@pytest.mark.parametrize(("data", "body"), GOLDEN)
def test_whole_byte_by_byte_and_with_bytes_behind(data: bytes, body: bytes) -> None:
    whole = ChunkDecoder()
    assert whole.feed(data + b"NEXT") == body
    assert (whole.done, whole.rest) == (True, b"NEXT")
    single = ChunkDecoder()
    got = b""
    for i in range(len(data)):
        assert not single.done
        got += single.feed(data[i : i + 1])
    assert (got, single.done, single.rest) == (body, True, b"")


@settings(max_examples=40)
@given(st.lists(st.binary(min_size=1, max_size=40), max_size=8), st.data())
def test_any_cuts_give_the_same(pieces: list[bytes], data: st.DataObject) -> None:
    wire = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    decoder = ChunkDecoder()
    got = b""
    while wire:
        size = data.draw(st.integers(1, len(wire)))
        got += decoder.feed(wire[:size])
        wire = wire[size:]
    assert decoder.done
    assert got == b"".join(pieces)


@settings(max_examples=40)
@given(st.lists(st.binary(min_size=1, max_size=40), max_size=8))
def test_it_reads_h11(pieces: list[bytes]) -> None:
    conn = h11.Connection(h11.CLIENT)
    head = [("Host", "x"), ("Transfer-Encoding", "chunked")]
    conn.send(h11.Request(method="POST", target="/", headers=head))
    wire = [conn.send(h11.Data(data=piece)) or b"" for piece in pieces]
    wire.append(conn.send(h11.EndOfMessage()) or b"")
    decoder = ChunkDecoder()
    assert decoder.feed(b"".join(wire)) == b"".join(pieces)
    assert decoder.done


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n",
        b"-1\r\n",
        b"+1\r\n",
        b"0x1\r\n",
        b"1_0\r\n",
        b"g\r\n",
        b"1\nx\r\n",
        b"\nx",
        b"1\r\nxy\r\n",
        b"1\r\nx\ry",
        b"1" * 16 + b"\r\n",
        b"1;" + b"x" * MAX_LINE,
        b"0\r\n" + b"X: y\r\n" * 2000,
    ],
)
def test_what_is_no_chunk_is_refused(data: bytes) -> None:
    with pytest.raises(BadChunk):
        ChunkDecoder().feed(data)
    decoder = ChunkDecoder()
    with pytest.raises(BadChunk):
        for i in range(len(data)):
            decoder.feed(data[i : i + 1])
