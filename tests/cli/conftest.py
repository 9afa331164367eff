"""A peer to talk to, and the tool run in this process."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from attrs import frozen

from orchd.cli.main import main
from tests.cli.peer import Peer


@frozen
class Ran:
    """What one run of orchctl left."""

    code: int
    out: str
    err: str


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a path short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="o-", dir="/tmp") as path:
        yield Path(path)


@pytest.fixture
def peer(folder: Path) -> Iterator[Peer]:
    with Peer(folder / "o.sock") as peer:
        yield peer


@pytest.fixture
def orchctl(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], folder: Path
) -> Callable[..., Ran]:
    """Run orchctl with nothing of this machine's environment."""
    for name in ("ORCHD_URL", "ORCHD_CONFIG", "ORCHD_AUTH_TOKEN", "ORCHD_ADDR", "ORCHD_LOG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ORCHD_RUN_DIR", str(folder / "run"))
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str) -> Ran:
        capfd.readouterr()
        code = main(list(arguments))
        out, err = capfd.readouterr()
        return Ran(code, out, err)

    return run
