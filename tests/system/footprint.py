"""What a suite at rest holds of its machine, so that a test can say that a failure left nothing.

Here: file descriptors, processes, files, cgroups, slots and leases, counted from outside. Not here:
any failure. Everything is read through /proc and the public API; the daemons are not asked.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from attrs import frozen

from tests.system.house import House, pool

SETTLE_S = 15.0
"""Connections that are kept open for the next request, and worker threads, end by then."""
PLACES = ("/run/orchd", "/run/poolmgr", "/var/lib/orchd", "/var/lib/poolmgr", "/var/cache/orchd")
USERS = ("orchd", "poolmgr")
ARTIFACTS = "/var/lib/orchd/artifacts"
REPORTS_KEPT = 16
"""Self-test reports of one replica that orchd keeps (specs/06): each start leaves one."""
AT_REST = ("queue_depth", "active_leases")
_NUMBER = re.compile(r":\[\d+\]")
_PRIVATE_TMP = re.compile(r"(/systemd-private-\w+-.*\.service-)\w{6}")


@frozen
class Footprint:
    """Counts by what they are of: `orchd.service fd socket`, `file /run/...`."""

    held: Counter[str]

    @classmethod
    def of(cls, house: House, *replicas: str) -> Footprint:
        """Take it of orchd and these replicas, which are to run and to be idle."""
        units = ["orchd.service", *(pool(replica) for replica in replicas)]
        held: Counter[str] = Counter()
        for unit in units:
            held.update(f"{unit} fd {kind}" for kind in _fds(house, house.main_pid(unit)))
            held[f"{unit} fdstore"] = int(house.property(unit, "NFileDescriptorStore") or 0)
        held.update(_processes(house))
        held.update(_files(house))
        held["self-test reports over the bound"] = max(0, _artifacts(house) - REPORTS_KEPT)
        held.update(_cgroups(house))
        held.update(_busy(house))
        return cls(held)

    def more_than(self, before: Footprint) -> Counter[str]:
        """What is there now and was not."""
        return self.held - before.held


def nothing_leaked(house: House, before: Footprint, *replicas: str) -> None:
    """Raise AssertionError for what is there more than `before`, once all is at rest."""
    deadline = time.monotonic() + SETTLE_S
    while left := Footprint.of(house, *replicas).more_than(before):
        if time.monotonic() > deadline:
            raise AssertionError(f"left behind: {dict(left)}")
        time.sleep(0.1)


def _fds(house: House, pid: int) -> Iterator[str]:
    for entry in house.machine.path(f"/proc/{pid}/fd").iterdir():
        try:
            target = str(entry.readlink())
        except FileNotFoundError:
            continue  # closed meanwhile
        yield _NUMBER.sub("", target)


def _processes(house: House) -> Iterator[str]:
    """Every process of the suite's users, wherever it has gone."""
    uids = {_uid(house, user): user for user in USERS}
    for entry in house.machine.path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            user = uids.get(entry.stat().st_uid)
            if user is not None:
                yield f"process {user} {(entry / 'comm').read_text().strip()}"
        except (FileNotFoundError, ProcessLookupError):
            continue  # ended meanwhile


def _uid(house: House, user: str) -> int:
    for line in house.machine.path("/etc/passwd").read_text().splitlines():
        name, _, uid, *_ = line.split(":")
        if name == user:
            return int(uid)
    raise AssertionError(f"the machine has no user {user}")


def _files(house: House) -> Iterator[str]:
    root = str(house.machine.path("/")).rstrip("/")
    for place in (*PLACES, "/dev/shm", "/tmp"):
        for path in sorted(Path(root + place).rglob("*")):
            inside = str(path).removeprefix(root)
            if inside.startswith(f"{ARTIFACTS}/"):
                continue
            yield "file " + _PRIVATE_TMP.sub(r"\1", inside)


def _artifacts(house: House) -> int:
    return len(list(house.machine.path(f"{ARTIFACTS}/records").glob("*.json")))


def _cgroups(house: House) -> Iterator[str]:
    root = house.machine.path("/sys/fs/cgroup")
    for place in ("pools.slice", "system.slice/orchd.service"):
        for path in sorted((root / place).rglob("*/")):
            yield f"cgroup {path.relative_to(root)}"


def _busy(house: House) -> Counter[str]:
    """Slots, leases and queues that are not empty."""
    busy: Counter[str] = Counter()
    for line in house.ask("GET", "/metrics").body.decode().splitlines():
        name, _, value = line.rpartition(" ")
        if name.partition("{")[0] in AT_REST:
            assert float(value) >= 0, line
            busy[f"metric {name}"] = int(float(value))
    for each in house.ask("GET", "/v1/pools").json["pools"]:
        busy[f"slots of {each['pool_id']}"] = each["metrics"]["slots_active"]
    return busy
