"""Server-sent events: golden frames both ways, any split, and resuming by id."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchd.wire import codec, shapes, sse
from orchd.wire.errors import Envelope, Kind, OrchError
from tests.wire import golden

DATA: dict[str, type[Any]] = {
    "started": shapes.Started,
    "metrics": shapes.MetricsFrame,
    "narration": shapes.Narration,
    "end": shapes.Ended,
    "error": Envelope,
}


def events_of(data: bytes) -> list[sse.Event]:
    return sse.Decoder().feed(data)


@pytest.mark.req("OC-CTRL-2020")
@pytest.mark.parametrize("name", DATA)
def test_a_golden_frame_is_its_class_and_is_written_back_the_same(name):
    data = golden.sse_bytes(name)
    (event,) = events_of(data)
    assert event.name == name
    assert event.id is not None
    value = codec.loads(DATA[name], event.data.encode())
    assert sse.frame(int(event.id), name, codec.dumps(value)) == data


@pytest.mark.req("OC-CTRL-2020")
def test_the_golden_token_is_what_both_makers_make():
    data = golden.sse_bytes("token")
    assert sse.token_frames(2, 0, ["Hé"]) == data
    assert sse.token_frames(2, 0, ["Hé"]) == data
    assert sse.frame(2, "token", b'{"t":"H\xc3\xa9","i":0}') == data


@pytest.mark.req("SSE-1002", "ORCH-2002")
def test_the_full_stream_in_any_pieces():
    expected = [
        (name, frame_id, value) for name, frame_id, value in golden.load("sse/full.events.json")
    ]
    data = golden.sse_bytes("full")
    for how, events in golden.fed_in_every_way(lambda: sse.Decoder().feed, data):
        assert [(e.name, e.id, json.loads(e.data)) for e in events] == expected, how


@pytest.mark.req("SSE-1002")
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_every_newline_of_the_standard_in_any_pieces(newline):
    # The decoder reads engines too; the text itself has no carriage return.
    data = golden.sse_bytes("full").replace(b"\n", newline.encode())
    if newline == "\r":
        data += b": the last carriage return might be half of a CRLF"
    expected = events_of(golden.sse_bytes("full"))
    for how, events in golden.fed_in_every_way(lambda: sse.Decoder().feed, data):
        assert events == expected, how


@pytest.mark.req("ORCH-3404", "SSE-1002")
def test_a_comment_is_no_event():
    assert sse.comment("waiting") == golden.sse_bytes("comment")
    assert events_of(sse.comment("a\nb") + golden.sse_bytes("end"))[0].name == "end"


@pytest.mark.req("ORCH-3613")
def test_an_event_has_a_bound_even_without_a_line_end():
    decoder = sse.Decoder(limit=64)
    assert decoder.feed(b"data: " + b"x" * 40 + b"\n\n") != []
    with pytest.raises(OrchError) as raised:
        for _ in range(100):
            decoder.feed(b"data: y\n")
    assert raised.value.kind is Kind.ENGINE_PROTOCOL
    with pytest.raises(OrchError, match="more than 64 bytes"):
        sse.Decoder(limit=64).feed(b"x" * 65)
    with pytest.raises(OrchError, match="more than 64 bytes"):
        sse.Decoder(limit=64).feed(b"data:\n" * 65)  # lines without a value are kept too


@pytest.mark.parametrize(
    ("text", "events"),
    [
        ("data\n\n", [("message", "")]),
        ("data:a\ndata: b\n\n", [("message", "a\nb")]),
        ("event: x\n\ndata: a\n\n", [("message", "a")]),
        ("data:  two spaces\n\n", [("message", " two spaces")]),
        ("retry: 10\nunknown: y\nplain\ndata: a\n\n", [("message", "a")]),
        ("data: a", []),
        ("\n\n\n", []),
    ],
)
def test_the_corners_of_the_standard(text, events):
    assert [(e.name, e.data) for e in events_of(text.encode())] == events


def test_an_id_lasts_until_the_next_and_a_zero_byte_is_no_id():
    events = events_of(b"id: 7\ndata: a\n\ndata: b\n\nid: 8\0\ndata: c\n\n")
    assert [e.id for e in events] == ["7", "7", "7"]


# Text that looks like a frame's head, in case it reached the log unescaped
tricky = st.sampled_from(["\n\nid: 2\n", "\\n\\nid: 3\\n", "id: 1\n", "\n\nid: 10\n", '"}\n\n'])
texts = st.lists(
    st.one_of(tricky, st.text(), st.tuples(tricky, st.text()).map("".join)), max_size=30
)


@pytest.mark.req("ORCH-2002")
@given(texts)
def test_offset_after_finds_the_place_and_only_that(parts):
    """For every id that the log holds: what follows is exactly the frames with later ids."""
    frames = [sse.frame(1, "started", orjson.dumps({"human": "".join(parts)}))]
    frames += [sse.token_frames(n + 2, n, [text]) for n, text in enumerate(parts)]
    log = b"".join(frames)
    for last in range(len(frames) + 1):
        at = sse.offset_after(log, last)
        assert at is not None
        assert log[at:] == b"".join(frames[last:])
    assert sse.offset_after(log, len(frames) + 1) is None
    assert sse.offset_after(bytearray(log), 10**9) is None


@pytest.mark.req("ORCH-2002")
@given(st.lists(st.text(), max_size=12), st.integers(0, 20))
def test_token_frames_are_the_joined_token_frames(parts, first):
    joined = b"".join(sse.token_frames(first + 2 + n, first + n, [t]) for n, t in enumerate(parts))
    assert sse.token_frames(first + 2, first, parts) == joined
    got = [json.loads(event.data) for event in events_of(joined)]
    assert got == [{"t": text, "i": first + n} for n, text in enumerate(parts)]


@given(st.text(), st.data())
def test_utf8_may_be_cut_anywhere(text, data):
    whole = sse.token_frames(2, 0, ["é😀" + text])
    at = data.draw(st.integers(0, len(whole)))
    decoder = sse.Decoder()
    events = decoder.feed(whole[:at]) + decoder.feed(whole[at:])
    assert [json.loads(event.data)["t"] for event in events] == ["é😀" + text]


def test_a_broken_utf8_byte_is_shown_and_breaks_nothing():
    events = events_of(b"data: \xff\n\ndata: ok\n\n")
    assert [event.data for event in events] == ["\ufffd", "ok"]
