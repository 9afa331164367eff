"""The bridge before an engine that listens on TCP only: its network, its bytes, its end."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from poolmgr import bridge
from poolmgr.provision.starting.bridged import PROGRAM

WAIT_S = 15.0
NOBODY = 65534
PORT = 8080
# An engine: echoes, tells of ends on its output; `quit` ends it, `fork` leaves a child behind.
ENGINE = """
import os, socket, subprocess, sys, threading
listener = socket.create_server(("127.0.0.1", 8080))
print("network", os.readlink("/proc/self/ns/net"), flush=True)
caps = [line.split()[1] for line in open("/proc/self/status") if line.startswith("CapEff")]
print("capabilities", int(caps[0], 16), flush=True)
def serve(client):
    while True:
        try:
            data = client.recv(65536)
        except OSError:
            data = b""
        if not data:
            break
        if data == b"quit":
            os._exit(7)
        if data == b"fork":
            child = subprocess.Popen(["sleep", "60"], start_new_session=True)
            data = str(child.pid).encode()
        if data == b"over":
            break
        client.sendall(data)
    print("left", flush=True)
    client.close()
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""


class Bridged:
    """A bridge that runs."""

    def __init__(self, folder: Path, user: int, *more: str) -> None:
        python = shutil.which("python3", path="/usr/bin") or sys.executable
        shutil.copy2(PROGRAM, folder / "bridge.py")  # a user may not read the checkout
        (folder / "engine.py").write_text(ENGINE)
        (folder / "log").touch()
        folder.chmod(0o777)
        self.socket = folder / "e.sock"
        self.log = folder / "log"
        drop = (
            ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--no-new-privs"]
            if user != os.geteuid()
            else []
        )
        options = ["--socket", str(self.socket), "--port", str(PORT), "--slots", "2", *more]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*drop, python, "-IS", str(folder / "bridge.py"), *options, "--own-network", "must",
                 "--", python, str(folder / "engine.py")],
                stdout=log, stderr=log,
            )  # fmt: skip

    def said(self, word: str) -> list[str]:
        lines = [line.split(maxsplit=1) for line in self.log.read_text().splitlines()]
        return [(rest or [""])[0] for first, *rest in lines if first == word]

    def connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(WAIT_S)
        try:
            sock.connect(str(self.socket))
        except OSError:
            sock.close()
            raise
        return sock

    def answers(self) -> bool:
        """Whether the engine listens: until then connections end without a byte."""
        try:
            with self.connect() as sock:
                sock.sendall(b"x")
                return sock.recv(10) == b"x"
        except OSError:
            return False


def until(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end, f"not within {WAIT_S} s: {what}"
        time.sleep(0.005)


@pytest.fixture(params=["as we are", "as nobody"])
def bridged(request: pytest.FixtureRequest) -> Iterator[Bridged]:
    """One as root makes it, and one of a user without any right."""
    user = os.geteuid() if request.param == "as we are" else NOBODY
    if user == NOBODY and os.geteuid() != 0:
        pytest.skip("needs root, to be another user")
    with TemporaryDirectory(prefix="bridge-") as folder:
        one = Bridged(Path(folder), user)
        try:
            until(lambda: one.answers() or one.process.poll() is not None, "it answers")
            assert one.process.poll() is None, one.log.read_text()
            yield one
        finally:
            one.process.kill()
            one.process.wait()


@pytest.mark.req("OC-ADAPT-5002", "OC-ADAPT-5021", "HME-001")
def test_the_engine_s_port_is_in_a_network_of_its_own(bridged: Bridged) -> None:
    assert bridged.said("network") != [str(Path("/proc/self/ns/net").readlink())]
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", PORT), 1)
    assert bridged.socket.stat().st_mode & 0o077 == 0
    if bridged.socket.stat().st_uid == NOBODY:
        assert bridged.said("capabilities") == ["0"]


@pytest.mark.req("OC-ADAPT-5011")
def test_leaving_is_seen_by_the_engine_and_its_end_by_the_client(bridged: Bridged) -> None:
    before = len(bridged.said("left"))
    with bridged.connect() as sock:
        sock.sendall(b"hello")
        assert sock.recv(10) == b"hello"
    # one more at the least: whoever asked whether it listens may leave only now
    until(lambda: len(bridged.said("left")) > before, "the engine sees that we left")
    with bridged.connect() as sock:
        sock.sendall(b"over")
        assert sock.recv(10) == b""


def test_many_bytes_arrive_whole_and_more_connections_than_places_wait(bridged: Bridged) -> None:
    data = os.urandom(1 << 20)
    many = [bridged.connect() for _ in range(2 + 8 + 3)]
    try:
        for sock in many[:10]:
            sock.sendall(b"y")
            assert sock.recv(1) == b"y"
        waiting = many[-1]
        waiting.sendall(b"z")
        waiting.settimeout(0.2)
        with pytest.raises(TimeoutError):
            waiting.recv(1)
        for sock in many[:3]:
            sock.close()
        waiting.settimeout(WAIT_S)
        assert waiting.recv(1) == b"z"
        sender = many[5]
        got = b""
        for at in range(0, len(data), 1 << 16):
            sender.sendall(data[at : at + (1 << 16)])
            while len(got) < at + (1 << 16):
                got += sender.recv(1 << 16)
        assert got == data
    finally:
        for sock in many:
            sock.close()


class Full:
    """A listener of a process that had no descriptor left, once."""

    def __init__(self, client: socket.socket) -> None:
        self._answers: list[socket.socket | OSError] = [client, OSError(errno.EMFILE, "full")]
        self.over = threading.Event()

    def accept(self) -> tuple[socket.socket, str]:
        if not self._answers:
            self.over.wait()
            raise SystemExit
        answer = self._answers.pop()
        if isinstance(answer, OSError):
            raise answer
        return answer, ""


def test_out_of_descriptors_it_takes_connections_again_when_there_are_some() -> None:
    ours, theirs = socket.socketpair()
    listener = Full(theirs)
    with socket.create_server(("127.0.0.1", 0)) as engine, ours:
        port = engine.getsockname()[1]

        def run() -> None:
            with suppress(SystemExit):
                bridge.serve(listener, port, 1)

        serve = threading.Thread(target=run)
        serve.start()
        engine.settimeout(WAIT_S)
        carried, _ = engine.accept()
        with carried:
            ours.sendall(b"hello")
            assert carried.recv(10) == b"hello"
        listener.over.set()
        serve.join(WAIT_S)
    assert not serve.is_alive()


@pytest.mark.req("ORCH-3001")
def test_it_ends_as_the_engine_ends_and_takes_what_that_left_along(bridged: Bridged) -> None:
    with bridged.connect() as sock:
        sock.sendall(b"fork")
        orphan = Path(f"/proc/{int(sock.recv(20))}")
        assert orphan.exists()
        sock.sendall(b"quit")
        assert sock.recv(1) == b""
    assert bridged.process.wait(WAIT_S) == 7
    assert not orphan.exists()


@pytest.mark.req("ORCH-3001")
def test_a_stop_reaches_the_engine_and_is_told_as_its_end(bridged: Bridged) -> None:
    bridged.process.terminate()
    assert bridged.process.wait(WAIT_S) == -15


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-IS", str(PROGRAM), "--socket", str(tmp_path / "s"), "--port", "1",
         "--slots", "1", "--", "/nowhere/engine"],
        capture_output=True, text=True, timeout=WAIT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 127
    assert "/nowhere/engine cannot be started: No such file or directory" in done.stderr


# What stands for machines without user namespaces, and for those where a security module lets them
# be made and not be used.
CLOSED = {
    "none": "echo 0 > /proc/sys/user/max_user_namespaces",
    "useless": "mount --bind /proc /proc && mount -o remount,bind,ro /proc",
}


def closed(how: str, *bridge: str) -> subprocess.CompletedProcess[str]:
    """Run the bridge on such a machine, without a capability of its own."""
    return subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c",
         f'{CLOSED[how]}; exec setpriv --bounding-set=-all "$@"', "sh",
         sys.executable, "-IS", str(PROGRAM), *bridge],
        capture_output=True, text=True, timeout=WAIT_S, check=False,
    )  # fmt: skip


@pytest.mark.req("OC-ADAPT-5002")
@pytest.mark.parametrize("how", CLOSED)
def test_without_a_network_of_its_own_nothing_is_started_that_needs_one(
    tmp_path: Path, how: str
) -> None:
    never = tmp_path / "never"
    place = ("--socket", str(tmp_path / "s"), "--port", "1", "--slots", "1")
    done = closed(how, *place, "--own-network", "must", "--", "touch", str(never))
    assert done.returncode == 78, done
    assert "user namespaces are closed here" in done.stderr
    assert "mode external" in done.stderr
    assert not never.exists()


@pytest.mark.req("OC-ADAPT-5002")
@pytest.mark.parametrize("how", CLOSED)
def test_what_would_only_like_a_network_of_its_own_is_started_and_told(how: str) -> None:
    done = closed(how, "--own-network", "may", "--", "readlink", "/proc/self/ns/net")
    assert done.returncode == 0, done
    assert "user namespaces are closed here" in done.stderr
    assert done.stdout.strip() == str(Path("/proc/self/ns/net").readlink())


@pytest.mark.req("OC-ADAPT-5002")
def test_one_that_has_a_socket_of_its_own_gets_the_network_alone() -> None:
    look = "readlink /proc/self/ns/net; cat /proc/net/dev"
    bridge = [sys.executable, "-IS", str(PROGRAM), "--own-network", "may", "--", "sh", "-c", look]
    done = subprocess.run(bridge, capture_output=True, text=True, timeout=WAIT_S, check=True)
    network, *devices = done.stdout.splitlines()
    assert network != str(Path("/proc/self/ns/net").readlink())
    assert [line.split(":")[0].strip() for line in devices if ":" in line] == ["lo"]
