"""Processes as /proc shows them: CPU time, memory, children, cores; starting and ending our own.

Linux only. What is started is said by house.py and baselines.py.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

START_S: Final = 30.0
STOP_S: Final = 30.0  # poolmgr and orchd drain for up to 15 s


def cpu_s(pid: int) -> float:
    """Return seconds of CPU time of a process, user and system, without its children.

    The sum of its threads' run time as the scheduler counts it: /proc/PID/stat has the same figure
    in steps of 10 ms.
    """
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def pss_kib(pid: int) -> int:
    """Return the proportional set size: memory of its own, and its share of what others map too."""
    return _rollup(pid, "Pss:")


def rss_kib(pid: int) -> int:
    """Return the resident set size."""
    return _rollup(pid, "Rss:")


def _rollup(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1])
    raise ValueError(f"/proc/{pid}/smaps_rollup has no {name}")


def children(pid: int) -> list[int]:
    """Return the pids of a process's children."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in text.split()]


def cores() -> tuple[int, int]:
    """Return the core of what is measured and the core of the load; the same when there is one."""
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[0], allowed[-1]


def pin(pid: int, core: int) -> None:
    """Let every thread of a process run on one core only."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), {core})


def roam(pids: Iterable[int]) -> None:
    """Let processes run wherever the scheduler likes: what is measured is time, not CPU."""
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), os.sched_getaffinity(0))


@contextmanager
def running(
    argv: Sequence[str],
    *,
    log: Path,
    env: Mapping[str, str] = {},
    listeners: Sequence[socket.socket] = (),
) -> Iterator[int]:
    """Run a program with its output in `log`, and end it by SIGTERM afterwards. Yields its pid.

    `listeners` are passed as systemd does it: from fd 3 on, LISTEN_FDS and LISTEN_PID.
    """
    pid = spawn(argv, log=log, env=env, listeners=listeners)
    try:
        yield pid
    finally:
        end(pid)


def spawn(
    argv: Sequence[str],
    *,
    log: Path,
    env: Mapping[str, str] = {},
    listeners: Sequence[socket.socket] = (),
) -> int:
    """Start a program; `end` ends it. Returns its pid.

    A bare fork and exec: LISTEN_PID is only known in the child, and a shell between would be timed.
    """
    environment = {**os.environ, **env}
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    pid = os.fork()
    if pid:
        os.close(out)
        return pid
    try:
        os.dup2(out, 1)
        os.dup2(out, 2)
        if listeners:
            # copied out of the way first: fd 3 may be one of them
            copies = [fcntl.fcntl(sock, fcntl.F_DUPFD_CLOEXEC, 100) for sock in listeners]
            for fd, copy in enumerate(copies, start=3):
                os.dup2(copy, fd)
            environment |= {"LISTEN_FDS": str(len(copies)), "LISTEN_PID": str(os.getpid())}
        os.execvpe(argv[0], list(argv), environment)
    finally:
        os._exit(127)


def end(pid: int) -> None:
    """End a child by SIGTERM, after STOP_S by SIGKILL, and wait for it."""
    deadline = time.monotonic() + STOP_S
    if _alive(pid):
        os.kill(pid, signal.SIGTERM)  # still our child, so the pid is still its own
    while _alive(pid):
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            deadline = float("inf")
        time.sleep(0.01)


def _alive(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG) == (0, 0)
    except ChildProcessError:
        return False


def check_alive(pid: int, log: Path) -> None:
    """Raise RuntimeError with the end of its log if a child has ended."""
    if not _alive(pid):
        raise RuntimeError(f"a program ended too early:\n{tail(log)}")


def tail(log: Path) -> str:
    """Return the last lines of a log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-15:])


def connect(address: str, timeout_s: float = 10.0) -> socket.socket:
    """Return a connected socket; `address` is the path of a unix socket, or IP:PORT."""
    if address.startswith("/"):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        target: str | tuple[str, int] = address
    else:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        host, _, port = address.rpartition(":")
        target = (host, int(port))
    sock.settimeout(timeout_s)
    try:
        sock.connect(target)
    except OSError:
        sock.close()
        raise
    return sock


def wait_listening(address: str, pid: int, log: Path) -> None:
    """Return once something accepts connections at `address`. Raises RuntimeError."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        try:
            connect(address).close()
            return
        except OSError:
            check_alive(pid, log)
            time.sleep(0.02)
    raise RuntimeError(f"nothing listens at {address} after {START_S:.0f} s:\n{tail(log)}")


def free_port() -> int:
    """Return a TCP port of loopback that nobody uses now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def run_quietly(argv: Sequence[str]) -> None:
    """Run a tool; what it printed is shown only when it fails. Raises RuntimeError."""
    done = subprocess.run(list(argv), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(argv)}\n{done.stdout}{done.stderr}")
