"""The engine as a child process: started, listened to, ended. It never outlives this process.

Three nets hold it: its cgroup (where delegated), its process group with a guard in it, and the
kernel's parent-death signal; the last two work on our kill -9 too. What the exit means for the
replica is core's business.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import trio

from orchd.kit import log
from orchd.wire.errors import Kind, OrchError
from poolmgr.edge import procs
from poolmgr.edge.cgroup import ENGINE, Cgroup, engine_cgroup
from poolmgr.edge.oom import OomKills, oom_kills

LINE_BYTES: Final = 2000  # journald's own limit is 48 KiB; an engine's honest lines are below 1 KiB
LINES_KEPT: Final = 20
TELLING_KEPT: Final = 20
LINES_PER_S: Final = 50
"""Lines of the engine that go to the log each second; the rest is counted. llama-server writes some
hundred lines while it loads and a few for each request."""
BURST_LINES: Final = 500
TERM_GRACE_S: Final = 5.0
"""From SIGTERM to the kill. All its connections are closed by then, so an engine has nothing to
finish; llama-server leaves within milliseconds."""
KILL_WAIT_S: Final = 5.0  # a process that holds a GPU may be long in the driver on its way out
_GUARD: Final = ("/bin/sh", "-c", 'read -r line; [ $# = 0 ] || "$@"; kill -KILL 0', "guard")
"""Leads the engine's process group and reads a pipe that we hold: when we are gone, however that
came, the pipe ends, and the guard kills the group. While it is not reaped, the group's number is
nobody else's, so killing by it never hits a stranger."""

# what is ours and would confuse or betray: the engine must not notify systemd or see the token
_NOT_PASSED: Final = (
    "NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES",
    "CREDENTIALS_DIRECTORY", "JOURNAL_STREAM", "FDSTORE",
)  # fmt: skip


class Child:
    """A running engine. Made by `start`."""

    def __init__(
        self,
        popen: subprocess.Popen[bytes],
        guard: subprocess.Popen[bytes],
        output: int,
        cgroup: Cgroup | None,
        telling: Callable[[str], bool],
        sweep: Sequence[str],
    ) -> None:
        self.pid = popen.pid
        self.telling_lines: deque[str] = deque(maxlen=TELLING_KEPT)
        """Lines that name a cause, however much was said since."""
        self.last_lines: deque[str] = deque(maxlen=LINES_KEPT)
        self._popen = popen
        self._guard = guard
        self._output = output
        self._cgroup = cgroup
        self._telling = telling
        self._sweep = sweep
        self._sweeper: subprocess.Popen[bytes] | None = None
        self._oom_kills = self._count_oom_kills()

    def _count_oom_kills(self) -> OomKills:
        return oom_kills(self._cgroup.unit if self._cgroup else None)

    def oom_kills(self) -> tuple[int | None, int]:
        """Return how many processes the kernel has killed for memory since the start, of our unit
        (None: it has no such count) and of the machine."""
        return self._count_oom_kills().since(self._oom_kills)

    @property
    def code(self) -> int:
        """The exit status once it has ended; of a signal, less than 0."""
        return int(self._popen.returncode)

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._popen.poll() is None

    def pids(self) -> frozenset[int]:
        """Return the engine's processes."""
        return self._cgroup.pids() if self._cgroup else procs.tree(self.pid)

    async def wait(self) -> str:
        """Return how it ended, in words, once it has: `exited with code 1`."""
        return ending(await _ended(self._popen))

    async def listen(self) -> None:
        """Copy its output into the log until it is closed. Bounded per line and per second."""
        rate = _Rate()
        rest = b""
        async with trio.lowlevel.FdStream(self._output) as stream:
            async for data in stream:
                *lines, rest = (rest + data).split(b"\n")
                if len(rest) > LINE_BYTES:
                    lines, rest = [*lines, rest], b""
                for line in lines:
                    self._line(line, rate)
            if rest:
                self._line(rest, rate)

    def _line(self, raw: bytes, rate: _Rate) -> None:
        line = raw[:LINE_BYTES].decode("utf-8", "replace").rstrip()
        if not line:
            return
        self.last_lines.append(line)
        if self._telling(line):
            self.telling_lines.append(line)
        if rate.may_log():
            skipped, rate.skipped = rate.skipped or None, 0
            log.event("engine_output", line, engine_pid=self.pid, lines_skipped=skipped)

    async def stop(self) -> str:
        """SIGTERM, then the kill; return how it ended, in words. Takes at most some 10 s.

        A cancellation does not wait: the kill comes at once.
        """
        try:
            if self.running:
                self._popen.terminate()
                with trio.move_on_after(TERM_GRACE_S):
                    await self.wait()
        finally:
            self.kill()
        with trio.move_on_after(KILL_WAIT_S):
            ending_ = await self.wait()
            await _ended(self._guard)
            assert self._guard.stdin is not None
            self._guard.stdin.close()
            if self._sweeper is not None:
                await _ended(self._sweeper)
            if self._cgroup is not None:
                self._cgroup.remove()
            return ending_
        return f"is stuck in the kernel (pid {self.pid})"

    def kill(self) -> None:
        """Kill it and whatever it started, now."""
        if self._cgroup is not None:
            with contextlib.suppress(OSError):
                self._cgroup.kill()
        elif self.running:
            # TGI's launcher gives each of its processes a group of its own; of one that has ended
            # they are no tree any more, and the bridge before it has killed them
            for pid in procs.tree(self.pid):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
        if self._guard.returncode is None:  # else all is over, and the number may be another's
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._guard.pid, signal.SIGKILL)
        if self._sweep and self._sweeper is None:
            with contextlib.suppress(OSError):
                self._sweeper = _swept(self._sweep)


def start(
    argv: Sequence[str],
    env: Mapping[str, str],
    cgroup_name: str = ENGINE,
    telling: Callable[[str], bool] = lambda _line: False,
    sweep: Sequence[str] = (),
) -> Child:
    """Start `argv` with `env` added to ours. Raises OrchError(ENGINE_MISSING, ENGINE_START_FAILED).

    Of the lines that it prints, those that are `telling` are kept longer. `sweep` is a command that
    ends what is no process of ours, a container: it is run when the rest has been killed, by the
    guard where we cannot any more.

    On the loop's own thread and not in a worker: the parent-death signal is sent when the *thread*
    that forked ends (prctl(2)), and trio's worker threads end after ten idle seconds. It costs the
    loop a few milliseconds, once.
    """
    cgroup = engine_cgroup(name=cgroup_name)
    prefix = ["setpriv", "--pdeathsig", "KILL", "--"]
    if cgroup is not None:
        # it moves itself before it becomes the engine: no fork of the engine is ever outside
        prefix += ["/bin/sh", "-c", 'echo 0 >"$0" && exec "$@"', str(cgroup.procs)]
    guard: subprocess.Popen[bytes] | None = None
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    try:
        guard = subprocess.Popen(
            [*_GUARD, *sweep],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment({}) if sweep else {},
            process_group=0,
        )
        popen = subprocess.Popen(
            [*prefix, *argv],
            env=environment(env),
            stdin=subprocess.DEVNULL,
            stdout=write_end,
            stderr=write_end,
            process_group=guard.pid,
        )
    except OSError as exc:
        os.close(read_end)
        if guard is not None:
            guard.communicate()  # its pipe ends, and so does it
        if isinstance(exc, FileNotFoundError):
            raise OrchError(
                Kind.ENGINE_MISSING, f"{exc.filename} is not installed (it is part of util-linux)"
            ) from exc
        raise OrchError(Kind.ENGINE_START_FAILED, f"cannot start {argv[0]}: {exc}") from exc
    finally:
        os.close(write_end)
    return Child(popen, guard, read_end, cgroup, telling, sweep)


def _swept(sweep: Sequence[str]) -> subprocess.Popen[bytes]:
    """Begin to end a container; it ends also when we do not live to see it."""
    return subprocess.Popen(
        sweep,
        env=environment({}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


async def _ended(popen: subprocess.Popen[bytes]) -> int:
    """Return the exit status of a child once it has ended."""
    while popen.poll() is None:
        pidfd = os.pidfd_open(popen.pid)  # one for each waiter: trio allows one on a descriptor
        try:
            await trio.lowlevel.wait_readable(pidfd)
        finally:
            os.close(pidfd)
    return int(popen.returncode)


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Return the engine's environment: ours without what is for us alone, and `extra`."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in _NOT_PASSED and not name.startswith("ORCHD_")
    }
    return {**kept, **extra}


def ending(returncode: int) -> str:
    """Return an exit status in words."""
    if returncode >= 0:
        return f"exited with code {returncode}"
    try:
        name = signal.Signals(-returncode).name
    except ValueError:
        name = f"signal {-returncode}"
    return f"was killed by {name}"


class _Rate:
    """A token bucket over seconds of trio's clock."""

    def __init__(self) -> None:
        self.skipped = 0
        self._left = float(BURST_LINES)
        self._at = trio.current_time()

    def may_log(self) -> bool:
        """Whether one more line may be logged now; counts it as skipped if not."""
        now = trio.current_time()
        self._left = min(BURST_LINES, self._left + (now - self._at) * LINES_PER_S)
        self._at = now
        if self._left < 1:
            self.skipped += 1
            return False
        self._left -= 1
        return True
