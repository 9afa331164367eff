"""A real forward proxy, tinyproxy, which alone knows some hosts: who reaches them came through it.

Here: starting it with an /etc/hosts of its own (a mount namespace), and what it was asked for. Not
here: the servers behind it.
"""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from attrs import frozen

START_S = 10.0
CONF = """
Port {port}
Listen 127.0.0.1
Timeout 60
MaxClients 50
LogFile "{folder}/tinyproxy.log"
LogLevel Connect
"""
_ASKED = re.compile(r"Request \(file descriptor \d+\): (\w+) (\S+)")


@frozen
class ForwardProxy:
    """One that runs."""

    url: str
    folder: Path

    def asked(self) -> list[str]:
        """`CONNECT host:port` for each connection, in order."""
        text = (self.folder / "tinyproxy.log").read_text()
        return [f"{method} {target}" for method, target in _ASKED.findall(text)]


@contextlib.contextmanager
def forward_proxy(folder: Path, *hosts: str, password: str = "") -> Iterator[ForwardProxy]:
    """Run it; it finds `hosts` on this machine, as nobody else does. `password`: of user `u`."""
    port = free_port()
    conf, known = folder / "tinyproxy.conf", folder / "hosts"
    conf.write_text(
        CONF.format(port=port, folder=folder) + (f"BasicAuth u {password}\n" if password else "")
    )
    known.write_text("127.0.0.1 localhost\n" + "".join(f"127.0.0.1 {host}\n" for host in hosts))
    inside = f'mount --bind "{known}" /etc/hosts && exec tinyproxy -d -c "{conf}"'
    argv = ["unshare", "--mount", "--propagation", "private", "sh", "-c", inside]
    with (folder / "tinyproxy.out").open("wb") as out:
        process = subprocess.Popen(argv, stdout=out, stderr=out)
    try:
        until = time.monotonic() + START_S
        while not answers(port):
            assert process.poll() is None, (folder / "tinyproxy.out").read_text()
            assert time.monotonic() < until, "tinyproxy does not listen"
            time.sleep(0.02)
        yield ForwardProxy(f"http://127.0.0.1:{port}", folder)
    finally:
        process.terminate()
        process.wait(10)


def free_port() -> int:
    """A port that was free just now: tinyproxy cannot choose one."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def answers(port: int) -> bool:
    """Whether somebody listens there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
