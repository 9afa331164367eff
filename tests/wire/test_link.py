"""orchd-link/1: every golden message whole, byte by byte and with trailing bytes; and bad ones."""

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchd.wire import codec, link, sse
from orchd.wire.errors import Kind, OrchError
from orchd.wire.snapshot import Snapshot
from tests.wire import golden

CLASSES: dict[link.Type, type[Any]] = {
    link.Type.HELLO: link.Hello,
    link.Type.OPEN: link.Open,
    link.Type.CREDIT: link.Credit,
    link.Type.WELCOME: link.Welcome,
    link.Type.STATE: Snapshot,
    link.Type.END: link.End,
    link.Type.FAIL: link.Fail,
    link.Type.FREED: link.Freed,
}
NAMES = [name for name in golden.names("link", ".hex") if name != "conversation"]


def head_of(name):
    return tuple(int(golden.comment(name, rf"length.*\b{key} (\d+).*")) for key in ("type", "job"))


def test_every_type_has_a_golden_message():
    assert {head_of(name)[0] for name in NAMES} == set(link.Type)


@pytest.mark.parametrize("name", NAMES)
def test_a_message_is_read_in_any_pieces(name):
    data = golden.hex_bytes(name)
    kind, job = head_of(name)
    for how, messages in golden.fed_in_every_way(lambda: link.Decoder().feed, data):
        assert messages == [(kind, job, data[9:])], how


@pytest.mark.parametrize("name", NAMES)
def test_trailing_bytes_wait_for_their_rest(name):
    data, other = golden.hex_bytes(name), golden.hex_bytes("cancel")
    decoder = link.Decoder()
    assert len(decoder.feed(data + other[:-1])) == 1
    assert decoder.feed(other[-1:]) == [(link.Type.CANCEL, 1, b"")]


@pytest.mark.parametrize("name", NAMES)
def test_a_body_is_its_class_and_is_written_back_the_same(name):
    data = golden.hex_bytes(name)
    kind, job = head_of(name)
    cls = CLASSES.get(link.Type(kind))
    if cls is None:
        assert kind in (link.Type.FRAMES, link.Type.RESULT) or data[9:] == b""
        assert link.encode(link.Type(kind), job, data[9:]) == data
        return
    assert golden.comment(name, "body (.*)").encode() == data[9:]
    value = link.body(cls, data[9:])
    assert link.encode_json(link.Type(kind), job, value) == data


@pytest.mark.req("ORCH-3400", "OC-CTRL-2026")
def test_frames_are_ready_made():
    data = golden.hex_bytes("frames")
    frames = sse.token_frames(2, 0, ["Hé", "llo\n\nid: 4\n", "😀"])
    assert link.encode_frames(1, 0, 3, frames) == data
    body = link.Decoder().feed(data)[0][2]
    assert link.FRAMES_HEAD.unpack_from(body) == (0, 3)
    assert body[link.FRAMES_HEAD.size :] == frames


def test_a_conversation_is_its_messages():
    parts = ["welcome", "state", "frames", "end"]
    data = golden.hex_bytes("conversation")
    assert data == b"".join(golden.hex_bytes(name) for name in parts)
    for how, messages in golden.fed_in_every_way(lambda: link.Decoder().feed, data):
        assert [kind for kind, _, _ in messages] == [head_of(name)[0] for name in parts], how


@pytest.mark.parametrize("kind", sorted(set(range(256)) - set(link.Type)))
def test_an_unknown_type_is_refused_at_its_head(kind):
    with pytest.raises(OrchError) as raised:
        link.Decoder().feed(struct.pack(">IBI", 0, kind, 1))
    assert raised.value.kind is Kind.ENGINE_PROTOCOL


def test_a_length_past_the_limit_is_refused_before_its_body():
    head = struct.pack(">IBI", link.MAX_BODY + 1, link.Type.FRAMES, 1)
    with pytest.raises(OrchError, match=str(link.MAX_BODY + 1)):
        link.Decoder().feed(head)
    assert link.Decoder().feed(struct.pack(">IBI", link.MAX_BODY, link.Type.FRAMES, 1)) == []


@pytest.mark.parametrize("length", range(link.FRAMES_HEAD.size))
def test_frames_without_their_head_are_refused(length):
    with pytest.raises(OrchError) as raised:
        link.Decoder().feed(link.encode(link.Type.FRAMES, 1, b"\0" * length))
    assert raised.value.kind is Kind.ENGINE_PROTOCOL


@pytest.mark.parametrize(
    ("cls", "body", "path"),
    [
        (link.Credit, b'{"bytes":0}', r"\$\.bytes: must be an integer of at least 1"),
        (link.Credit, b'{"bytes":1,"job":2}', r"\$\.job: is not a known key"),
        (link.Freed, b"", r"\$: is not JSON"),
        (link.Fail, b'{"kind":"sad","message":""}', r"\$\.kind: must be one of"),
        (link.Freed, b"[]", r"\$: must be an object"),
    ],
)
def test_a_wrong_body_is_the_peers_fault(cls, body, path):
    with pytest.raises(OrchError, match=path) as raised:
        link.body(cls, body)
    assert raised.value.kind is Kind.ENGINE_PROTOCOL


messages = st.lists(
    st.tuples(
        st.sampled_from(link.Type), st.integers(0, 2**32 - 1), st.binary(min_size=6, max_size=40)
    ),
    max_size=6,
)  # fmt: skip


@given(messages, st.data())
def test_any_cut_of_any_messages_gives_the_messages(sent, data):
    whole = b"".join(link.encode(kind, job, body) for kind, job, body in sent)
    decoder, got, at = link.Decoder(), [], 0
    while at < len(whole):
        step = data.draw(st.integers(1, len(whole) - at))
        got += decoder.feed(whole[at : at + step])
        at += step
    assert got == [(int(kind), job, body) for kind, job, body in sent]


def test_a_snapshot_says_nothing_of_what_it_does_not_know():
    body = link.Decoder().feed(golden.hex_bytes("state"))[0][2]
    snapshot = link.body(Snapshot, body)
    assert snapshot.last_error is None
    assert "last_error" not in codec.unstructure(snapshot)


@pytest.mark.parametrize("seed", [-(2**63), 2**63 - 1])
def test_whatever_seed_a_client_may_send_passes_the_link(seed):
    name = next(name for name in NAMES if head_of(name)[0] == link.Type.OPEN)
    ((_, _, body),) = link.Decoder().feed(golden.hex_bytes(name))
    golden_order = codec.unstructure(link.body(link.Open, body))
    order = link.body(link.Open, codec.dumps({**golden_order, "seed": seed}))
    assert order.seed == seed
