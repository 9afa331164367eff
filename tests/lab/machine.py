"""A booted Linux machine with a real systemd, for tests: what one does with it while it runs.

Here: running programs inside, files, sockets, units, the journal, waiting. Not here: booting and
clean-up (nspawn.py), what the machine consists of (rootfs.py, venv.py).
"""

from __future__ import annotations

import ctypes
import json
import os
import shlex
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from attrs import define, field

from tests.lab.cache import Cache
from tests.lab.nspawn import BOOT_DEADLINE_S, BootError, Container, kill_cgroup
from tests.lab.rootfs import ENV_INSIDE

T = TypeVar("T")
Command = str | Sequence[str]
CLONE_NEWNET = 0x40000000
POLL_S = 0.02
# In a cgroup of its own, so that a program which takes too long goes away with its children.
ENTER = 'echo $$ > "$1/cgroup.procs"; pid=$2; shift 2; exec nsenter --target "$pid" --all "$@"'
AS_USER = 'u=$1; shift; exec setpriv --reuid="$u" --regid="$(id -g "$u")" --init-groups "$@"'


class CommandFailedError(subprocess.CalledProcessError):
    """A program inside ended badly; unlike its base, it shows what the program said."""

    def __str__(self) -> str:
        return f"{super().__str__()}\n{self.stdout}{self.stderr}"


@define
class Machine:
    """A throw-away machine on overlay `layers`, top first: `with Machine(layers) as machine: ...`.

    `binds` maps host paths to inside paths, read-only unless named in `writable` too. The network
    is private: a loopback of its own, so that ports never collide (`connect_tcp` reaches it).
    """

    layers: Sequence[Path]
    binds: Mapping[Path, Path] = field(factory=dict)
    writable: Mapping[Path, Path] = field(factory=dict)
    private_network: bool = True
    options: Sequence[str] = ()
    cache: Cache = field(factory=Cache.default)
    boot_s: float = field(default=0.0, init=False)
    _container: Container | None = field(default=None, init=False)
    _runs: count[int] = field(factory=count, init=False)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop(orderly=kind is None)

    def start(self) -> None:
        """Boot, and wait until systemd has nothing left to start (`running` or `degraded`)."""
        options = ["--private-network"] if self.private_network else []
        options += [f"--bind-ro={host}:{inside}" for host, inside in self.binds.items()]
        options += [f"--bind={host}:{inside}" for host, inside in self.writable.items()]
        began = time.monotonic()
        parent = self.cache.root / "machines"
        self._container = Container.launch(self.layers, parent, [*options, *self.options])
        try:
            self._await_boot(began + BOOT_DEADLINE_S)
        except BaseException:
            self.stop(orderly=False)
            raise
        self.boot_s = time.monotonic() - began

    def _await_boot(self, deadline: float) -> None:
        container = self.container
        container.await_private_socket(deadline)
        while time.monotonic() < deadline:
            container.check_alive()
            left_s = max(1.0, deadline - time.monotonic())
            state = self.systemctl("is-system-running", "--wait", check=False, timeout_s=left_s)
            if state.stdout.strip() in ("running", "degraded"):
                return
            time.sleep(POLL_S)
        raise BootError(f"{container.name} did not finish booting\n{container.console()}")

    def stop(self, *, orderly: bool = True) -> None:
        """Power off (hard when it takes too long, or not `orderly`) and remove every trace."""
        if self._container is not None:
            self._container.end(orderly=orderly)

    @property
    def container(self) -> Container:
        """The process underneath; only a started machine has one."""
        assert self._container is not None, "the machine was not started"
        return self._container

    @property
    def pid(self) -> int:
        """The host's PID of the machine's PID 1."""
        leader = self.container.leader()
        if leader is None:
            raise BootError(f"the machine is gone\n{self.container.console()}")
        return leader

    def path(self, inside: str | Path) -> Path:
        """The host's name of an inside path, good for connecting to unix sockets.

        An absolute symlink on the way would lead to the host's own files: say /run, not /var/run.
        """
        return Path(f"/proc/{self.pid}/root{inside}")

    def run(
        self,
        cmd: Command,
        *,
        check: bool = True,
        timeout_s: float = 30.0,
        stdin: str | None = None,
        user: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program inside (a string goes to sh), outside of every unit, and wait for it.

        Raises CommandFailedError when `check` and it fails, subprocess.TimeoutExpired when it
        takes too long; it and its children are killed then.
        """
        argv = ["sh", "-c", cmd] if isinstance(cmd, str) else list(cmd)
        if user is not None:
            argv = ["sh", "-c", AS_USER, "sh", user, *argv]
        cgroup = self.container.cgroup / "exec" / str(next(self._runs))
        cgroup.mkdir()
        enter = ["sh", "-c", ENTER, "sh", str(cgroup), str(self.pid), "env", "-i", *ENV_INSIDE]
        try:
            done = subprocess.run(
                [*enter, *argv],
                input=stdin or "",
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout_s,
                check=False,
            )
        finally:
            kill_cgroup(cgroup)
            remove_cgroup(cgroup)
        if check and done.returncode != 0:
            shown = cmd if isinstance(cmd, str) else shlex.join(argv)
            raise CommandFailedError(done.returncode, shown, done.stdout, done.stderr)
        return done

    def put(self, path: str | Path, text: str, mode: int = 0o644) -> None:
        """Write a file inside, folders included, in one step."""
        script = 'mkdir -p "${1%/*}" && cat > "$1.put" && chmod "$2" "$1.put" && mv "$1.put" "$1"'
        self.run(["sh", "-c", script, "sh", str(path), f"{mode:o}"], stdin=text)

    def systemctl(
        self, *arguments: str, check: bool = True, timeout_s: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """Run the machine's systemctl."""
        return self.run(["systemctl", *arguments], check=check, timeout_s=timeout_s)

    def show(self, unit: str, *properties: str) -> dict[str, str]:
        """Properties of a unit as `systemctl show` prints them."""
        wanted = [f"--property={name}" for name in properties]
        lines = self.systemctl("show", unit, *wanted).stdout.splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    def journal(self, unit: str | None = None, *matches: str) -> list[dict[str, Any]]:
        """Journal entries, oldest first, of a unit (or all), narrowed by `FIELD=value` matches."""
        self.run(["journalctl", "--sync"])
        chosen = ["--unit", unit] if unit else []
        # --all: without it a long field is null.
        argv = ["journalctl", "--output=json", "--no-pager", "--quiet", "--all", *chosen, *matches]
        return [json.loads(line) for line in self.run(argv).stdout.splitlines()]

    def messages(self, unit: str | None = None) -> list[str]:
        """The journal's texts only."""
        return [str(entry.get("MESSAGE", "")) for entry in self.journal(unit)]

    def wait_for(self, predicate: Callable[[], T], deadline_s: float, what: str) -> T:
        """Ask until the answer is true, and return it; on failure the journal's end is shown."""
        try:
            return wait_for(predicate, deadline_s, what)
        except TimeoutError as error:
            tail = "\n".join(self.messages()[-40:])
            raise TimeoutError(f"{error}; the journal ends with:\n{tail}") from None

    def connect_tcp(self, port: int, host: str = "127.0.0.1") -> socket.socket:
        """A blocking TCP connection to a port of the machine's own loopback, held on the host."""

        def connect() -> socket.socket:
            enter_network(self.pid)
            return socket.create_connection((host, port), timeout=10.0)

        # A thread changes its network namespace for itself only, and is not used again.
        with ThreadPoolExecutor(1) as once:
            return once.submit(connect).result()


def wait_for(predicate: Callable[[], T], deadline_s: float, what: str) -> T:
    """Ask every 20 ms until the answer is true, and return it; TimeoutError names `what`."""
    deadline = time.monotonic() + deadline_s
    while True:
        answer = predicate()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {deadline_s} s: {what} (last answer: {answer!r})")
        time.sleep(POLL_S)


def enter_network(pid: int) -> None:
    """Move the calling thread into the network namespace of `pid` (os.setns is 3.12 and later)."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path(f"/proc/{pid}/ns/net").open() as namespace:
        if libc.setns(namespace.fileno(), CLONE_NEWNET) != 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error), "setns")


def remove_cgroup(cgroup: Path) -> None:
    """Remove a cgroup whose processes were just killed; busy until the last one is reaped."""
    for _ in range(100):
        try:
            cgroup.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(0.005)
