"""The process of one engine: ours, started and ended here, or another's, which is only watched.

How a child is held is child.py's, how an end is judged core/ending.py's.
"""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from typing import Final

import trio

from orchd.kit import log
from orchd.kit.client import Target
from orchd.wire.errors import Kind, OrchError
from orchd.wire.ids import ReplicaId
from poolmgr.core.ending import Ending, cuda_error, judge
from poolmgr.core.orphans import MARK
from poolmgr.edge import child as children
from poolmgr.edge import procs
from poolmgr.edge.cgroup import ENGINE
from poolmgr.edge.child import Child
from poolmgr.edge.devices import Devices
from poolmgr.edge.orphans import own_mark
from poolmgr.edge.room import Room
from poolmgr.engines.base import Adapter
from poolmgr.provision.starting.plan import Plan

LAST_BYTES_S: Final = 0.2
"""After the engine's end: its last lines are still in the pipe, and its jobs see for themselves."""
LAST_LINE: Final = 160  # characters of it in a status line, which has to hold the advice too


class Process:
    """The process of one engine. `seat`, 0 or 1: which of two that run during a reload."""

    def __init__(self, replica_id: ReplicaId, adapter: Adapter, room: Room, seat: int) -> None:
        self.was_ready = False
        """Whether it passed the self-test in this life."""
        self.child: Child | None = None
        self.external_pid: int | None = None
        """Of an engine that is no child of ours: another's, or one in a container."""
        self._replica_id = replica_id
        self._adapter = adapter
        self._room = room
        self._seat = seat

    def pids(self) -> frozenset[int]:
        """Return the engine's processes; empty when there is none or it cannot be found."""
        child = self.child  # once: ram_bytes runs in a thread
        own = child.pids() if child is not None else frozenset()
        pid = self.external_pid
        return own | procs.tree(pid) if pid is not None else own

    def ram_bytes(self) -> int:
        """Return the resident memory of the engine's processes."""
        return procs.resident_bytes(self.pids())

    def telling_lines(self) -> tuple[str, ...]:
        """Return the lines of our engine that may explain a failure."""
        return tuple(self.child.telling_lines) if self.child else ()

    def start(self, plan: Plan) -> Child | None:
        """Start the engine; None when it is external. Raises ENGINE_START_FAILED."""
        if plan.argv is None or plan.socket is None:
            return None
        try:
            plan.socket.parent.mkdir(parents=True, exist_ok=True)
            for folder in plan.folders:
                _make_private(folder)
            for socket in (plan.socket, *plan.sockets):
                socket.unlink(missing_ok=True)  # a stale file makes llama-server's bind fail
        except OSError as exc:
            words = f"the engine cannot have its socket {plan.socket}: {exc.strerror}"
            raise OrchError(Kind.ENGINE_START_FAILED, words) from exc
        name = f"{ENGINE}{self._seat or ''}"
        env = {**plan.env, MARK: str(own_mark(plan.socket))}
        telling = self._adapter.telling
        self.child = children.start(plan.argv, env, name, telling, plan.sweep)
        self.was_ready = False
        log.event(
            "engine_started",
            f"Started the engine as process {self.child.pid}.",
            replica_id=self._replica_id,
            engine_pid=self.child.pid,
            argv=" ".join(plan.argv),
        )
        return self.child

    async def ended(self, devices: Devices) -> OrchError:
        """Wait for the end of our engine; return what it means: any end is a failure, also with
        code 0. What running out of VRAM teaches is remembered."""
        child = self.child
        assert child is not None
        words = await child.wait()
        await trio.sleep(LAST_BYTES_S)
        oom_line = self._adapter.out_of_vram(tuple(child.telling_lines))
        cuda_line = cuda_error((*child.telling_lines, *child.last_lines))
        own, machine = child.oom_kills()
        ending = Ending(
            words=words,
            code=child.code,
            was_ready=self.was_ready,
            oom_line=None if oom_line is None else oom_line[-LAST_LINE:],
            cuda_line=None if cuda_line is None else cuda_line[-LAST_LINE:],
            own_oom_kills=own,
            machine_oom_kills=machine,
            ram_free_bytes=procs.available_bytes(),
        )
        kind, said = judge(ending)
        last = ""
        if oom_line is not None:
            await self._room.ran_out(devices, oom_line, (child.pid,))
        elif child.last_lines and kind is not Kind.CUDA_ERROR:
            last = f"; its last line: {child.last_lines[-1][:LAST_LINE]}"
        log.event(
            "engine_ended",
            f"The engine {said}.",
            level="error",
            replica_id=self._replica_id,
            engine_pid=child.pid,
            last_lines="\n".join(child.last_lines) or None,
        )
        return OrchError(kind, f"the engine {said}{last}")

    async def find_external(self, target: Target) -> int | None:
        """Find the process that answers at `target`; None where it cannot be seen."""
        self.external_pid = await trio.to_thread.run_sync(procs.server_pid, target)
        return self.external_pid

    async def external_end(self) -> str:
        """Return, in words, that the external engine's process has ended; never if it is unseen."""
        pid = self.external_pid
        if pid is None:
            await trio.sleep_forever()
        await procs.wait_gone(pid)
        await trio.sleep(LAST_BYTES_S)
        return f"the engine's process {pid} has ended"

    async def stop(self) -> frozenset[int]:
        """End our engine; return the processes that it had. Takes at most some 10 seconds."""
        child = self.child
        if child is None:
            return frozenset()
        was_running, pids = child.running, child.pids()
        ending = await child.stop()
        self.child = self.external_pid = None
        if was_running:  # else `ended` has told it
            log.event(
                "engine_stopped",
                f"The engine {ending}.",
                replica_id=self._replica_id,
                engine_pid=child.pid,
            )
        return pids | {child.pid}

    def leave_nothing(self, plan: Plan | None) -> None:
        """Leave nothing of the engine behind, however poolmgr ends: a bug and a second SIGTERM come
        without stop()."""
        if self.child is not None:
            self.child.kill()
        if plan is not None and plan.socket is not None:
            for socket in (plan.socket, *plan.sockets):
                with contextlib.suppress(OSError):
                    socket.unlink()
            if plan.sweep:  # its socket has a folder of its own
                with contextlib.suppress(OSError):
                    plan.socket.parent.rmdir()


def _make_private(folder: Path) -> None:
    """Make a folder for this user alone. Raises OSError, also where it is somebody else's."""
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.lstat().st_uid != os.geteuid() or folder.is_symlink():
        raise PermissionError(errno.EPERM, f"{folder} is not ours")
