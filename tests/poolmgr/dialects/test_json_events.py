"""Streams of JSON events: the fast form and the tolerant one read the same, cut anywhere."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchd.wire.sse import MAX_EVENT_BYTES
from poolmgr.dialects.json_events import DONE, Garbage, JsonEvents

VALUES = st.lists(
    st.dictionaries(st.text(max_size=4), st.text(max_size=8) | st.integers() | st.none()),
    max_size=8,
)


def read(data, cuts=()):
    events, at, found = JsonEvents(), 0, []
    for end in (*sorted(cuts), len(data)):
        found += events.feed(data[at:end])
        at = end
    return found + events.last()


@pytest.mark.req("ADAPT-3101", "ORCH-3275")
@given(
    values=VALUES,
    form=st.sampled_from(["data: %s\n\n", "data:%s\n\n", "data: %s\r\n\r\n",
                          ": ping\n\ndata: %s\n\n", "event: token\ndata: %s\n\n",
                          "id: 1\ndata: %s\n\n"]),
    done=st.booleans(),
    cuts=st.lists(st.integers(0, 400), max_size=6),
)  # fmt: skip
def test_every_form_is_read_cut_anywhere(values, form, done, cuts):
    text = "".join(form % json.dumps(value, ensure_ascii=False) for value in values)
    text += "data: [DONE]\n\ndata: ignored\n\n" if done else ""
    data = text.encode()
    assert read(data, [cut for cut in cuts if cut < len(data)]) == values + [DONE] * done


def test_a_last_event_may_lack_its_empty_line():
    assert read(b'data: {"a":1}\n\ndata: {"a":2}') == [{"a": 1}, {"a": 2}]
    assert read(b"data: [DONE]") == [DONE]


def test_a_string_that_reads_like_the_end_is_none():
    assert read(b'data: "[DONE]"\n\ndata: 1\n\n') == ["[DONE]", 1]


@pytest.mark.req("ORCH-3276")
@pytest.mark.parametrize(
    "bad",
    [
        b"<html>502 Bad Gateway</html>\n\n",
        b"data: {\n\n",
        b'data: {"a":1},{"b":2}\n\n',
        b"HTTP/1.1 500\n\n",
        b'data: {"a":\ndata: \ndata: 1\n\n',
    ],
)
@pytest.mark.parametrize("cut", [1, 7, 1000])
def test_what_is_no_json_comes_after_what_was(bad, cut):
    data = b'data: {"a":1}\n\n' + bad + b'data: {"a":2}\n\n'
    events, found = JsonEvents(), []
    for at in range(0, len(data), cut):
        found += events.feed(data[at : at + cut])
    found += events.last()
    assert found[0] == {"a": 1}
    assert len(found) == 2
    assert isinstance(found[1], Garbage)


def test_two_halves_are_no_two_events():
    """Joined they would be JSON; each by itself is not."""
    (found,) = read(b'data: {"a":[1\n\ndata: 2]}\n\n')
    assert isinstance(found, Garbage)


@pytest.mark.req("ORCH-3275")
def test_an_event_has_a_bound():
    events = JsonEvents()
    found = events.feed(b"data: " + b"x" * (MAX_EVENT_BYTES + 1))
    assert [type(one) for one in found] == [Garbage]
    assert events.feed(b"\n\n") == [] == events.last()
