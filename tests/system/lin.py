"""A user with a systemd of his own in a booted machine, who is logged in for a while.

Here: his files, his units, programs of his. Not here: any assertion about them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from attrs import frozen

from tests.lab.machine import Machine

UID = 4321
RUN = f"/run/user/{UID}"
HOME = Path("/home/lin")
# The machine has no libpam-systemd, which would say where the runtime folder is.
NO_PAM = f"[Service]\nPAMName=\nEnvironment=XDG_RUNTIME_DIR={RUN}\n"
ENVIRONMENT = (f"HOME={HOME}", f"XDG_RUNTIME_DIR={RUN}")


@frozen
class Lin:
    """The user."""

    machine: Machine

    @contextmanager
    def logged_in(self) -> Iterator[None]:
        """Run his systemd for as long as the body takes."""
        self.machine.put("/etc/systemd/system/user@.service.d/no-pam.conf", NO_PAM)
        self.machine.systemctl("daemon-reload")
        self.machine.systemctl("start", f"user@{UID}.service")
        try:
            yield
        finally:
            self.machine.systemctl("stop", f"user@{UID}.service")

    def make(self) -> None:
        """Make the user, unless he is there; with subordinate ids, as every user has them."""
        self.machine.run(f"id lin 2>/dev/null || useradd --create-home --uid {UID} lin")

    def put(self, name: str, data: bytes) -> None:
        """Write a file below his home."""
        path = HOME / name
        self.machine.put(path, "")
        self.machine.path(path).write_bytes(data)
        self.machine.run(f"chown -R lin: {HOME}")

    def systemctl(self, *words: str) -> str:
        """His own systemctl."""
        argv = ["env", *ENVIRONMENT, "systemctl", "--user", *words]
        return self.machine.run(argv, user="lin", timeout_s=60.0).stdout

    def run(self, *argv: str) -> str:
        """Run a program of his, in a cgroup of its own as after a login."""
        unit = ["systemd-run", "--quiet", "--pipe", "--wait", "--collect", "--uid=lin"]
        env = [f"--setenv={setting}" for setting in ENVIRONMENT]
        return self.machine.run([*unit, *env, *argv], timeout_s=120.0).stdout
