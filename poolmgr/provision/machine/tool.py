"""Running one external tool: bounded in time, ended as a whole, its words in a log.

Which tools and why is bring.py's and look.py's. A tool never asks questions: it has no terminal,
and its stdin is empty.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shlex
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Final

import trio
from attrs import frozen

from orchd.kit.redact import redact
from orchd.wire.errors import Kind, OrchError

ASK_S: Final = 20.0
"""For `--version` and the like. podman's first start after a boot takes several seconds."""
MAX_ANSWER: Final = 4 << 20
"""Bytes of what `ask` hears; the rest is read and dropped."""
MAX_LOG: Final = 64 << 20
"""Bytes of one log; of what a tool says beyond, its last lines are told when it fails."""
LINE: Final = 2000
LAST: Final = 15
TERM_S: Final = 5.0
_PASSED: Final = frozenset(
    {"PATH", "HOME", "USER", "LOGNAME", "LANG", "TMPDIR", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME",
     "XDG_CACHE_HOME", "XDG_DATA_HOME", "CUDA_HOME", "CUDA_PATH", "CUDACXX", "CC", "CXX",
     "CUDAHOSTCXX", "NVCC_CCBIN", "CCACHE_DIR", "SSL_CERT_FILE", "SSL_CERT_DIR", "LD_LIBRARY_PATH",
     "DBUS_SESSION_BUS_ADDRESS", "SUDO_ASKPASS", "CONTAINERS_CONF", "CONTAINERS_STORAGE_CONF"}
)  # fmt: skip
"""What tools may know of our environment: no token, no credential, no proxy that nobody named."""


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of a tool."""
    kept = {name: value for name, value in os.environ.items() if name in _PASSED}
    return {**kept, "LC_ALL": "C.UTF-8", "GIT_TERMINAL_PROMPT": "0", **(more or {})}


@frozen
class Answer:
    """What a tool said, and how it ended."""

    code: int
    text: str
    """stdout and stderr, as they came."""


async def ask(argv: Sequence[str], deadline_s: float = ASK_S) -> Answer | None:
    """Return what a tool says; None: it cannot be run, or did not end in time."""
    try:
        with trio.fail_after(deadline_s):
            heard = _Heard()
            code = await _run(argv, None, environment(), heard.take)
    except (OSError, trio.TooSlowError):
        return None
    return Answer(code, "\n".join(heard.lines))


class _Heard:
    """The lines of an answer, up to MAX_ANSWER bytes with their ends."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._left = MAX_ANSWER

    def take(self, line: str) -> None:
        self._left -= len(line.encode()) + 1
        if self._left >= 0:
            self.lines.append(line)


class Log:
    """The file that keeps what the tools said."""

    def __init__(self, path: Path) -> None:
        """Make it, and its folder. Raises OSError."""
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
        self._file: IO[bytes] = os.fdopen(descriptor, "wb")
        self._left = MAX_LOG

    @property
    def size(self) -> int:
        """Return how many bytes it has."""
        return MAX_LOG - self._left

    def write(self, line: str) -> None:
        """Add one line, without what looks like a secret."""
        data = redact(line).encode("utf-8", "backslashreplace") + b"\n"
        if len(data) > self._left:
            return
        self._left -= len(data)
        self._file.write(data)
        self._file.flush()

    def close(self) -> None:
        """Close it."""
        self._file.close()


async def run(
    argv: Sequence[str],
    log: Log,
    *,
    deadline_s: float,
    failed: Kind,
    say: Callable[[str], None] = lambda _line: None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    root: bool = False,
) -> None:
    """Run a tool to its end; `say` gets each line. Cancelled, it ends the tool with its children.

    `root`: as root where we still can be (owner.py), else as who we are.
    Raises OrchError(failed) with the tool's last lines.
    """
    log.write(f"$ {shlex.join(argv)}")
    last: deque[str] = deque(maxlen=LAST)

    def take(line: str) -> None:
        log.write(line)
        if line.strip():
            last.append(line.strip())
            say(line.strip())

    name = Path(argv[0]).name
    try:
        with trio.fail_after(deadline_s):
            code = await _run(argv, cwd, environment(env), take, root=root)
    except trio.TooSlowError:
        why = f"{name} did not end within {deadline_s:.0f} s"
        raise OrchError(failed, f"{why}; its log: {log.path}") from None
    except OSError as exc:
        raise OrchError(failed, f"{name} cannot be run: {exc.strerror}") from exc
    if code:
        said = redact(" | ".join(list(last)[-3:]))[-400:] or "nothing"
        raise OrchError(failed, f"{name} failed ({code}): {said}; its log: {log.path}")


async def _run(
    argv: Sequence[str],
    cwd: Path | None,
    env: Mapping[str, str],
    take: Callable[[str], None],
    *,
    root: bool = False,
) -> int:
    """Return how it ended; `take` gets its lines as they come, the first LINE bytes of each."""
    user = group = None
    if os.getuid() != os.geteuid():  # root that has become another
        user, group = (0, 0) if root else (os.geteuid(), os.getegid())
        if root:  # it believes nothing that is in that user's home
            own = pwd.getpwuid(0)
            env = {**env, "HOME": own.pw_dir, "USER": own.pw_name, "LOGNAME": own.pw_name}
    process = await trio.lowlevel.open_process(
        list(argv),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=cwd,
        env=env,
        start_new_session=True,
        user=user,
        group=group,
    )
    assert process.stdout is not None, "it was asked for"
    try:
        rest = b""
        async for data in process.stdout:
            # progress bars begin their line anew with a carriage return
            *lines, rest = (rest + data).replace(b"\r", b"\n").split(b"\n")
            for line in lines:
                take(line[:LINE].decode("utf-8", "replace"))
            rest = rest[:LINE]
        if rest:
            take(rest.decode("utf-8", "replace"))
        return await process.wait()
    finally:
        # a cancellation waits for its end, at most some seconds
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 3 * TERM_S):
            await _end(process)


async def _end(process: trio.Process) -> None:
    """See it and what it started ended."""
    if process.returncode is None:
        _signal(process, signal.SIGTERM)
        with trio.move_on_after(TERM_S):
            await process.wait()
    _signal(process, signal.SIGKILL)  # whatever of its group is left
    with trio.move_on_after(TERM_S):
        await process.wait()
    if process.stdout is not None:
        await process.stdout.aclose()


def _signal(process: trio.Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
