"""/proc: process trees, who answers a socket, memory."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

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


def test_there_is_memory_on_this_machine() -> None:
    assert procs.available_bytes() > 1 << 20
