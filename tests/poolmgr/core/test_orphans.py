"""The mark of an engine: read back as it was written, and never taken for another's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolmgr.core.orphans import MARK, Mark, mark_in, parsed


@given(
    st.integers(1, 1 << 22),
    st.integers(0, 1 << 40),
    st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), min_size=1),
)
def test_a_mark_is_read_back_from_an_environment(pid: int, started: int, socket: str) -> None:
    mark = Mark(socket, pid, started)
    environ = f"PATH=/bin\0{MARK}={mark}\0{MARK}S=2 2 /x\0".encode()
    assert mark_in(environ) == mark


@pytest.mark.parametrize("text", ["", "1", "1 2", "1 2 ", "x 2 /s", "1 y /s", "-1 2 /s", "1  /s"])
def test_what_is_no_mark_is_nobodys(text: str) -> None:
    assert parsed(text) is None


def test_a_process_without_a_mark_is_nobodys() -> None:
    assert mark_in(b"PATH=/bin\0HOME=/root\0") is None
    assert mark_in(b"") is None
