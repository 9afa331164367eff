"""Stands before an engine that uses TCP: gives it a network of its own, and a unix socket.

A program, started by its path: the engine is its child, in a network namespace that nobody else is
in. Where it can listen on TCP only, what comes to the socket goes to its port there. One file and
the standard library alone: in a container, which has a network of its own, the Python of the image
runs it (provision/starting/bridged.py). Not here: what the engine is, and what is said to it.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import fcntl
import os
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

CHUNK = 65536
BACKLOG = 128
CONNECT_S = 5.0  # to the port beside us: it is there or refuses
FULL_S = 0.05  # before it is tried again
STACK_BYTES = 256 * 1024
SPARE = 8
"""Connections beside those of jobs: health, metrics, tokens of a text."""
REFUSED = 78
"""EX_CONFIG: this machine does not let it have a network of its own."""
MUST = "it listens on TCP, where all could reach it. Open them, or run it, mode external"
MAY = "every program of this machine reaches the ports at which its processes meet"
_NEWUSER, _NEWNET = 0x1000_0000, 0x4000_0000  # sched.h
_GETFLAGS, _SETFLAGS, _UP = 0x8913, 0x8914, 1  # sockios.h, if.h
_PDEATHSIG, _SUBREAPER = 1, 36  # prctl.h


def main() -> int:
    """Run the engine behind the socket until it ends; return its exit status."""
    asked = _parser().parse_args()
    if asked.own_network is not None:
        closed = closed_here()
        if closed is None:
            own_network()
        else:
            must = asked.own_network == "must"
            print(f"{closed} {MUST if must else MAY}", file=sys.stderr, flush=True)
            if must:
                return REFUSED
        _die_with_parent()
        # what the engine forks and leaves behind becomes our child, not init's
        _libc().prctl(_SUBREAPER, 1, 0, 0, 0)
    listener = None if asked.socket is None else _listen(asked.socket)
    program, *arguments = asked.program
    if asked.entry is not None and os.access(asked.entry, os.X_OK):
        program = asked.entry
    engine = _start(program, arguments)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: _send(engine, signal.SIGTERM))
    if listener is not None:
        threading.stack_size(STACK_BYTES)
        most = asked.slots + SPARE
        threading.Thread(target=serve, args=(listener, asked.port, most), daemon=True).start()
    status = _reaped(engine)
    _kill_the_rest()
    if os.WIFSIGNALED(status) and os.getpid() != 1:  # told as it was, for whoever reads our end
        signal.signal(os.WTERMSIG(status), signal.SIG_DFL)
        _send(os.getpid(), os.WTERMSIG(status))
    return os.waitstatus_to_exitcode(status) % 256


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bridge")
    parser.add_argument("--socket", help="where to listen for the engine")
    parser.add_argument("--port", type=int, help="where the engine listens, for --socket")
    parser.add_argument("--slots", type=int, help="jobs at the same time, for --socket")
    parser.add_argument(
        "--own-network", choices=("must", "may"), help="make one; a container has its own"
    )
    parser.add_argument("--entry", help="run in the program's place, where it is there")
    parser.add_argument("program", nargs="+", help="the engine and its arguments, after --")
    return parser


def _listen(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    Path(path).chmod(0o600)
    listener.listen(BACKLOG)
    return listener


def closed_here() -> str | None:
    """Return why no network of its own can be had; None: it can.

    Tried in a process that ends: where a security module lets a namespace be made and not be used,
    half of one would be worse than none.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            own_network()
        except OSError as exc:
            os.write(writing, (exc.strerror or "refused").encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as said:
        why = said.read().decode()
    os.waitpid(pid, 0)
    words = f"user namespaces are closed here ({why}, sysctl user.max_user_namespaces):"
    return words if why else None


def own_network() -> None:
    """Move into a new network namespace, with nothing but a loopback. Raises OSError.

    Without the right to make one, a user namespace brings it: in that nobody gains a right over
    anything but what was made in it, and the engine is executed without even these.
    """
    uid, gid = os.geteuid(), os.getegid()
    if _unshare(_NEWNET):
        if error := _unshare(_NEWUSER | _NEWNET):
            raise OSError(error, os.strerror(error))
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        _, flags, _ = struct.unpack("16sH14s", fcntl.ioctl(control, _GETFLAGS, _request(0)))
        fcntl.ioctl(control, _SETFLAGS, _request(flags | _UP))


def _unshare(namespaces: int) -> int:
    """Return 0, or the number of the error."""
    return 0 if _libc().unshare(namespaces) == 0 else ctypes.get_errno()


def _request(flags: int) -> bytes:
    """Return an ifreq of the loopback."""
    return struct.pack("16sH14s", b"lo", flags, b"")


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _die_with_parent() -> None:
    _libc().prctl(_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _start(program: str, arguments: Sequence[str]) -> int:
    """Return the pid of the engine; before the first thread, as a fork copies one only."""
    pid = os.fork()
    if pid:
        return pid
    try:
        _die_with_parent()
        os.execvpe(program, [program, *arguments], _environment(program))
    except OSError as exc:
        print(f"{program} cannot be started: {exc.strerror}", file=sys.stderr, flush=True)
    finally:
        os._exit(127)


def _environment(program: str) -> dict[str, str]:
    """Return ours; an engine at a path finds the programs that it starts by name beside itself."""
    folder = os.path.dirname(program)  # noqa: PTH120 a bare name has none, and no "."
    path = os.environ.get("PATH", os.defpath)
    return {**os.environ, "PATH": f"{folder}{os.pathsep}{path}" if folder else path}


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _reaped(pid: int) -> int:
    """Return the wait status of the engine once it has ended; others are reaped on the way."""
    while True:
        ended, status = os.wait()
        if ended == pid:
            return status


def _kill_the_rest() -> None:
    """Kill what the engine has left behind, generation by generation. Kernels end pid 1's."""
    while left := _children():
        for pid in left:
            _send(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.wait()


def _children() -> set[int]:
    found: set[int] = set()
    for listing in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found |= {int(pid) for pid in listing.read_text().split()}
    return found


class Listener(Protocol):
    """What connections come from: a socket that listens."""

    def accept(self) -> tuple[socket.socket, object]:
        """Return the next one. Raises OSError."""


def serve(listener: Listener, port: int, most: int) -> None:
    """Take connections, so many at a time; more wait in the kernel's queue."""
    places = threading.BoundedSemaphore(most)
    while True:
        places.acquire()
        try:
            client, _ = listener.accept()
        except OSError:  # out of descriptors or memory: others end, and give back
            places.release()
            time.sleep(FULL_S)
            continue
        try:
            threading.Thread(target=_carry, args=(client, port, places), daemon=True).start()
        except RuntimeError:  # no thread is to be had
            client.close()
            places.release()


def _carry(client: socket.socket, port: int, places: threading.BoundedSemaphore) -> None:
    """Carry bytes both ways until one side ends, which ends the other: leaving cancels."""
    try:
        with client:
            try:
                engine = socket.create_connection(("127.0.0.1", port), CONNECT_S)
            except OSError:
                return  # it does not listen yet
            with engine:
                engine.settimeout(None)
                engine.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                asking = threading.Thread(target=_pump, args=(client, engine), daemon=True)
                asking.start()
                _pump(engine, client)
                asking.join()
    finally:
        places.release()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(CHUNK):
            sink.sendall(data)
    for each in (source, sink):
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


if __name__ == "__main__":
    sys.exit(main())
