"""Listening sockets: passed by systemd's protocol, bound by hand, stale and live files."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchd.kit import fds
from orchd.wire.errors import Kind, OrchError
from tests.fakes.peers import short_folder


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder short enough for sockets."""
    with short_folder() as found:
        yield found


def test_nothing_passed() -> None:
    assert fds.passed() == {}


SHOW = """
import os, socket
from orchd.kit import fds
found = fds.passed()
print({n: [(s.family.name, s.getblocking(), s.get_inheritable()) for s in l]
       for n, l in found.items()}, sorted(k for k in os.environ if k.startswith("LISTEN_")))
"""


@pytest.mark.parametrize("pid", ["$$", "1"])
def test_sockets_that_systemd_passed(folder: Path, pid: str) -> None:
    names = ("orchd.tcp", "orchd.unix", "orchd.tcp")
    passed = [fds.bind_tcp("127.0.0.1", 0), fds.bind_unix(folder / "s"), fds.bind_tcp("::1", 0)]
    command = f"LISTEN_PID={pid} exec {sys.executable} -c '{SHOW}'"

    def hand_over() -> None:
        high = [os.dup(sock.fileno()) for sock in passed]
        high = [os.dup2(fd, 100 + i) for i, fd in enumerate(high)]
        for i, fd in enumerate(high):
            os.dup2(fd, 3 + i)
            os.set_inheritable(3 + i, True)

    done = subprocess.run(
        ["/bin/sh", "-c", command],
        env={**os.environ, "LISTEN_FDS": "3", "LISTEN_FDNAMES": ":".join(names)},
        preexec_fn=hand_over,
        close_fds=False,
        check=True,
        capture_output=True,
        text=True,
    )
    for sock in passed:
        sock.close()
    seen = (
        "{'orchd.tcp': [('AF_INET', False, False), ('AF_INET6', False, False)],"
        " 'orchd.unix': [('AF_UNIX', False, False)]}"
    )
    assert done.stdout.strip() == f"{seen if pid == '$$' else '{}'} []"


def test_bind_tcp() -> None:
    with fds.bind_tcp("127.0.0.1", 0) as sock:
        assert not sock.getblocking()
        port = sock.getsockname()[1]
        with pytest.raises(OrchError, match=rf"127\.0\.0\.1:{port}: pid {os.getpid()} ") as got:
            fds.bind_tcp("127.0.0.1", port)
        assert got.value.kind is Kind.CONFIG_INVALID
    with pytest.raises(OrchError, match="cannot listen on"):
        fds.bind_tcp("256.0.0.1", 0)


def test_bind_unix_makes_the_folder_and_sets_the_mode(folder: Path) -> None:
    path = folder / "a" / "b" / "s"
    with fds.bind_unix(path, 0o600) as sock:
        assert not sock.getblocking()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_stale_socket_is_replaced_and_a_live_one_is_not(folder: Path) -> None:
    path = folder / "s"
    fds.bind_unix(path).close()
    assert path.exists()
    with fds.bind_unix(path) as sock:
        with pytest.raises(OrchError, match="another process does"):
            fds.bind_unix(path)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            sock.accept()[0].close()


def test_what_is_no_socket_is_left_alone(folder: Path) -> None:
    path = folder / "s"
    path.write_text("precious")
    with pytest.raises(OrchError, match="not a socket"):
        fds.bind_unix(path)
    assert path.read_text() == "precious"


def test_a_path_too_long_is_said(folder: Path) -> None:
    with pytest.raises(OrchError, match="AF_UNIX path too long"):
        fds.bind_unix(folder / ("x" * 120))
