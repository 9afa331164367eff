"""/proc: process trees, who answers a socket, memory."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from orchd.kit.client import Target
from poolmgr.edge import procs


def test_a_tree_is_a_process_and_all_it_started() -> None:
    child = subprocess.Popen(
        ["/bin/sh", "-c", "sleep 30 & echo $!; wait"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout is not None
        grandchild = int(child.stdout.readline())
        assert procs.tree(child.pid) == {child.pid, grandchild}
        assert procs.tree(os.getpid()) >= {os.getpid(), child.pid, grandchild}
        assert procs.resident_bytes(procs.tree(child.pid)) > 100_000
    finally:
        os.kill(grandchild, 9)
        child.kill()
        child.communicate()
    assert procs.tree(child.pid) == frozenset()
    assert procs.resident_bytes(frozenset({child.pid})) == 0


def test_the_server_of_a_unix_socket_is_known_by_its_credentials(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        assert procs.server_pid(Target.unix(path)) == os.getpid()
    assert procs.server_pid(Target.unix(path)) is None


def test_the_server_of_a_loopback_port_is_found_among_open_files() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert procs.server_pid(Target(host="127.0.0.1", port=port)) == os.getpid()
    assert procs.server_pid(Target(host="127.0.0.1", port=port)) is None
    assert procs.server_pid(Target(host="192.0.2.1", port=port)) is None


@pytest.mark.slow
@pytest.mark.req("OC-POOL-3012")
def test_a_supervisor_that_made_the_socket_is_not_the_engine(tmp_path: Path) -> None:
    """Its process tree would make every process of the machine one of the engine."""
    path = tmp_path / "s.sock"
    with socket.socket(socket.AF_UNIX) as unix, socket.create_server(("127.0.0.1", 0)) as tcp:
        unix.bind(str(path))
        unix.listen()
        port = tcp.getsockname()[1]
        ask = (
            "import sys; from pathlib import Path; from orchd.kit.client import Target\n"
            "from poolmgr.edge.procs import server_pid\n"
            f"print(server_pid(Target.unix(Path({str(path)!r}))),"
            f" server_pid(Target(host='127.0.0.1', port={port})))"
        )
        asked = [sys.executable, "-c", ask]
        assert subprocess.check_output(asked, text=True) == "None None\n"
        # the engine that was given the port is found behind the one that made it
        engine = subprocess.Popen(["sleep", "30"], pass_fds=[tcp.fileno()])
        try:
            assert subprocess.check_output(asked, text=True) == f"None {engine.pid}\n"
        finally:
            engine.kill()
            engine.wait()


def test_the_same_port_of_another_address_is_another_server() -> None:
    with socket.create_server(("127.0.0.2", 0)) as other:
        port = other.getsockname()[1]
        assert procs.server_pid(Target(host="127.0.0.1", port=port)) is None


def test_there_is_memory_on_this_machine() -> None:
    assert procs.available_bytes() > 1 << 20
