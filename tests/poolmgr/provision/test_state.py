"""Small files of poolmgr's state: whole or not at all, on a full disk too."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from poolmgr.provision.state import write_whole


@contextmanager
def no_room(most_bytes: int) -> Iterator[None]:
    """Files of this process may not grow beyond it (Python ignores SIGXFSZ: write says EFBIG)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.req("ORCH-3051")
def test_what_does_not_fit_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "state"
    write_whole(path, b"old")
    with no_room(4), pytest.raises(OSError, match="File too large"):
        write_whole(path, b"much larger")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    write_whole(path, b"much larger")
    assert path.read_bytes() == b"much larger"
