"""poolmgr as a process of its own, with a NOTIFY_SOCKET that is listened to."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio
from attrs import define, field

from orchd.kit.client import Client, PeerError, Target

HEAD = """
run_dir = "{0}"
state_dir = "{0}/state"
[devices]
backend = "simulated"
[[devices.simulated]]
name = "Simulated 24 GB"
vram_mb = 24576
[[devices.simulated]]
name = "Simulated 12 GB"
vram_mb = 12288
"""

AS_SYSTEMD = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="pool")
os.execv(sys.argv[2], sys.argv[2:])
"""
"""Passes a socket as systemd does: as descriptor 3, to this very process."""


@define
class Run:
    """One poolmgr."""

    folder: Path
    name: str
    process: subprocess.Popen[bytes]
    _notify: socket.socket
    said: list[str] = field(factory=list)
    """Datagrams to systemd, in order."""

    @property
    def socket(self) -> Path:
        return self.folder / "poolmgr" / f"{self.name}.sock"

    @property
    def log(self) -> list[dict[str, Any]]:
        """What it logged so far."""
        lines = (self.folder / "log").read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def hear(self) -> list[str]:
        """Return all datagrams until now."""
        while True:
            try:
                self.said.append(self._notify.recv(4096).decode())
            except BlockingIOError:
                return self.said

    async def get(self, path: str) -> tuple[int, Any]:
        """Ask its socket."""
        return await self._ask("GET", path, None)

    async def post(self, path: str, body: object) -> tuple[int, Any]:
        """Send it JSON."""
        return await self._ask("POST", path, json.dumps(body).encode())

    async def _ask(self, method: str, path: str, body: bytes | None) -> tuple[int, Any]:
        client = Client(Target.unix(self.socket))
        try:
            answer = await client.request(method, path, body)
        finally:
            client.close()
        is_json = "json" in answer.headers["content-type"]
        return answer.status, json.loads(answer.body) if is_json else answer.body.decode()

    async def until(self, wanted: int, deadline_s: float = 15.0) -> Any:
        """Wait until /health answers with this status; return its body."""
        with trio.fail_after(deadline_s):
            while True:
                try:
                    status, body = await self.get("/health")
                    if status == wanted:
                        return body
                except PeerError:
                    assert self.process.poll() is None, self.log
                self.hear()  # as systemd would: what finds a full queue is dropped
                await trio.sleep(0.01)

    async def exit_code(self, deadline_s: float = 15.0) -> int:
        """Wait for its end."""
        with trio.fail_after(deadline_s):
            while self.process.poll() is None:
                self.hear()
                await trio.sleep(0.01)
        code = self.process.returncode
        self.hear()
        return code

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)


@asynccontextmanager
async def poolmgr(
    folder: Path,
    name: str,
    pools: str,
    *,
    head: str = HEAD,
    env: Mapping[str, str] | None = None,
    listener: socket.socket | None = None,
    program: Sequence[str] = ("-m", "poolmgr"),
) -> AsyncIterator[Run]:
    """Run `poolmgr NAME` with this configuration; it is ended at the end."""
    config = folder / "orchd.toml"
    config.write_text(head.format(folder) + pools)
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notify.setblocking(False)
    notify.bind(str(folder / "notify"))
    command = [sys.executable, *program, name, "--config", str(config), "--log", "json"]
    if listener is not None:
        command = [sys.executable, "-c", AS_SYSTEMD, str(listener.fileno()), *command]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(  # noqa: ASYNC220 - it returns at once
            command,
            env={**os.environ, **(env or {}), "NOTIFY_SOCKET": str(folder / "notify")},
            stdout=log,
            stderr=log,
            pass_fds=[listener.fileno()] if listener is not None else [],
        )
    run = Run(folder, name, process, notify)
    try:
        yield run
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        notify.close()
