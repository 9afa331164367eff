"""The suite under `systemctl --user`: a user's own file, sockets and pools, beside the system's.

Here: that it comes up, takes a change and serves. What the generator writes is in tests/generator.
"""

from __future__ import annotations

import http.client
import json
from pathlib import Path

import pytest

from tests.system.house import SIMULATED, House, connect_unix, mock_pool

pytest_plugins = ("tests.lab.fixtures",)
pytestmark = [pytest.mark.system, pytest.mark.slow]

UID = 4321
RUN = f"/run/user/{UID}"
HOME = "/home/lin"
# The machine has no libpam-systemd, which would say where the runtime folder is.
NO_PAM = f"[Service]\nPAMName=\nEnvironment=XDG_RUNTIME_DIR={RUN}\n"


def systemctl(house: House, *words: str, check: bool = True) -> str:
    """The user's own systemctl."""
    env = ["env", f"HOME={HOME}", f"XDG_RUNTIME_DIR={RUN}"]
    argv = [*env, "systemctl", "--user", *words]
    return house.machine.run(argv, user="lin", check=check).stdout


def is_active(house: House, unit: str) -> bool:
    return systemctl(house, "is-active", unit, check=False) == "active\n"


def ready(house: House, pool: str) -> bool:
    """Whether the user's orchd would place tasks on a pool."""
    connection = http.client.HTTPConnection("localhost")
    connection.sock = connect_unix(house.machine.path(Path(RUN, "orchd/orchd.sock")))
    try:
        connection.request("GET", f"/v1/pools/{pool}/health")
        return bool(json.loads(connection.getresponse().read()).get("ready"))
    finally:
        connection.close()


@pytest.mark.req("SYSD-22")
def test_a_user_s_file_is_a_user_s_suite(house: House) -> None:
    machine = house.machine
    machine.run(f"id lin >/dev/null 2>&1 || useradd --create-home --uid {UID} lin")
    house.drop_in("user@.service", NO_PAM)
    house.configure(SIMULATED, mock_pool("system-s"))  # and is none of a user's business
    own = f"{HOME}/.config/orchd/orchd.toml"
    machine.put(own, "\n".join([SIMULATED, mock_pool("mine")]))
    machine.run(f"chown -R lin: {HOME}")
    machine.systemctl("start", f"user@{UID}.service")
    try:
        systemctl(house, "start", "orchd.target")
        house.wait(lambda: is_active(house, "poolmgr@mine:0.service"), "the user's pool is up")
        house.wait(lambda: ready(house, "mine"), "orchd places on it")
        assert "system-s" not in systemctl(house, "list-units", "--all", "poolmgr@*")
        assert house.property("poolmgr@mine:0.service", "ActiveState") == "inactive"
        socket = machine.path(Path(RUN, "poolmgr/mine:0.sock"))
        assert (socket.stat().st_mode & 0o777, socket.stat().st_uid) == (0o600, UID)
        machine.put(own, "\n".join([SIMULATED, mock_pool("other")]))
        systemctl(house, "daemon-reload")
        systemctl(house, "start", "orchd.target")
        house.wait(lambda: is_active(house, "poolmgr@other:0.service"), "the new pool is up")
        house.wait(lambda: not is_active(house, "poolmgr@mine:0.service"), "the old one is gone")
        machine.put(own, "bad = 1")
        systemctl(house, "daemon-reload")
        assert is_active(house, "poolmgr@other:0.service")
        found = house.journal(None, "SYSLOG_IDENTIFIER=orchd-generator", f"_UID={UID}")
        (line,) = [str(entry["MESSAGE"]) for entry in found]
        assert f"No new units from {own}, the last good ones stay" in line
    finally:
        machine.systemctl("stop", f"user@{UID}.service")
