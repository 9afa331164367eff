"""What is killed, stopped or taken away under a suite that streams, and what becomes of it.

Here: processes, sockets, disk, clock, storms, with the mock engine. After each: what clients and
operators read, that the suite serves again, and that nothing is left behind (footprint.py). Not
here: GPUs and drivers (test_chaos_gpus.py), backoff and watchdog by themselves (test_failures.py).
"""

from __future__ import annotations

import http.client
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path

import pytest

from tests.lab.cache import Cache
from tests.lab.clock import DROP_IN, FakeClock
from tests.lab.machine import CommandFailedError, Machine
from tests.lab.needs import FAKE_NVML, require
from tests.system.footprint import Footprint
from tests.system.house import FRONT, House, task
from tests.system.scene import REPLICA, UNIT, Scene, last_of, long_task

pytest_plugins = ("tests.lab.fixtures",)
pytestmark = [pytest.mark.system, pytest.mark.slow]

SOCKET = f"/run/poolmgr/{REPLICA}.sock"
KILLS = 100
STORMS = 4
RESTS = -1
AT_ONCE = "[Service]\nRestartSec=1ms\nRestartSteps=0\nRestartMaxDelaySec=infinity\n"
DAY_S = 86_400
NOTE = {"kind": "other", "content": "x" * 20_000}
HUNG_S = 40.0
STOP_S = 15.0
"""A hung engine is known in 12 s (specs/08), and the pool comes back."""


@pytest.fixture(scope="module")
def clock(lab_cache: Cache, tmp_path_factory: pytest.TempPathFactory) -> FakeClock:
    require(FAKE_NVML)  # it is compiled, too
    return FakeClock.create(lab_cache, tmp_path_factory.mktemp("clock"))


@pytest.fixture(scope="module")
def booted(house_layers: list[Path], lab_cache: Cache, clock: FakeClock) -> Iterator[House]:
    """One machine for all cases."""
    with Machine(house_layers, binds=clock.binds, cache=lab_cache) as machine:
        yield House(machine)


@pytest.fixture(scope="module")
def stage(booted: House) -> Scene:
    return Scene(booted)


@pytest.fixture
def scene(stage: Scene) -> Scene:
    stage.ready()
    return stage


def test_what_is_left_behind_is_seen(scene: Scene) -> None:
    """The check of every case below, by its own leaks."""
    house, machine = scene.house, scene.house.machine
    (engine,) = house.engine_pids(REPLICA)
    command = ["systemd-run", "--quiet", "--unit=leak", "--uid=poolmgr", "sleep", "600"]
    machine.run(command)
    machine.run("touch /var/lib/poolmgr/leak; mkdir /sys/fs/cgroup/pools.slice/leak")
    wish = long_task()
    assert house.ask("POST", "/v1/tasks", wish).status == 202
    with house.stream(wish["task_id"]):
        left = Footprint.of(house, REPLICA).more_than(scene.before)
    kinds = {line.split(" ")[0] for line in left}
    assert {"process", "file", "cgroup", "metric", "slots"} <= kinds, left
    assert left["orchd.service fd socket"] >= 1, left
    machine.run(
        "systemctl stop leak; rm /var/lib/poolmgr/leak; rmdir /sys/fs/cgroup/pools.slice/leak"
    )
    assert house.alive(engine)
    scene.over()


@pytest.mark.req("ORCH-3051", "OC-POOL-3010")
def test_engine_killed_while_it_streams(scene: Scene) -> None:
    house = scene.house
    (engine,) = house.engine_pids(REPLICA)
    with scene.streaming() as events:
        house.kill(engine)
        name, said = last_of(events)
    assert (name, said["code"], said["retriable"]) == ("error", "WORKER_RESET", True)
    error = scene.last_error()
    assert (error["kind"], "SIGKILL" in error["message"]) == ("engine_died", True), error
    scene.over(restarts=1)


@pytest.mark.req("ORCH-3051", "OC-POOL-3010")
def test_engine_hangs_while_it_streams(scene: Scene) -> None:
    house = scene.house
    (engine,) = house.engine_pids(REPLICA)
    with scene.streaming() as events:
        house.kill(engine, "STOP")
        name, said = last_of(events)
    assert (name, said["code"], said["retriable"]) == ("error", "DECODE_TIMEOUT", True)
    error = scene.last_error(HUNG_S)
    assert error["kind"] == "engine_hung", error
    # it cannot take SIGTERM while it is stopped: SIGKILL follows within what a stop may take
    house.wait(lambda: not house.alive(engine), "the engine is gone", STOP_S)
    scene.over(restarts=1)


@pytest.mark.req("ORCH-3051", "OC-POOL-3010")
def test_poolmgr_killed_while_it_streams(scene: Scene) -> None:
    house = scene.house
    (engine,) = house.engine_pids(REPLICA)
    with scene.streaming() as events:
        house.kill(house.main_pid(UNIT))
        name, said = last_of(events)
    assert (name, said["code"], said["retriable"]) == ("error", "WORKER_RESET", True)
    house.wait(lambda: not house.alive(engine), "the engine is gone", 5.0)
    scene.over(restarts=1)


@pytest.mark.req("ORCH-3051", "OC-POOL-3010", "SYSD-01")
def test_orchd_killed_while_it_streams(scene: Scene) -> None:
    """Tasks are in memory: the client's connection breaks, its id is unknown, and free to send."""
    house = scene.house
    wish = long_task()
    with scene.streaming(wish) as events:
        house.kill(house.main_pid("orchd.service"))
        with pytest.raises((ConnectionError, http.client.IncompleteRead)):
            list(events)
    gone = house.ask("GET", f"/v1/tasks/{wish['task_id']}")
    assert (gone.status, gone.json["code"]) == (404, "INVALID_PARAMS")
    assert house.ask("POST", "/v1/tasks", wish | {"max_tokens": 4}).status == 202
    scene.over()


@pytest.mark.req("ORCH-3051")
def test_socket_file_of_a_pool_removed(scene: Scene) -> None:
    """What streams goes on. When the link ends the pool restarts, and systemd makes the file."""
    house = scene.house
    with scene.streaming(long_task(300)) as events:
        house.machine.run(f"rm {SOCKET}")
        name, said = last_of(events)
    assert (name, said["finish_reason"]) == ("end", "length")
    house.wait(lambda: house.journal(UNIT, "EVENT=socket_removed"), "the pool says it")
    scene.served()
    house.machine.systemctl("restart", "orchd.service")
    house.wait(lambda: house.journal(UNIT, "KIND=socket_removed"), "the pool restarts for it")
    scene.over(restarts=1)


@pytest.mark.req("ORCH-3051")
def test_socket_file_of_orchd_removed(scene: Scene) -> None:
    """What streams, and TCP, go on. The file is systemd's to make, so the way out is a command."""
    house = scene.house
    with scene.streaming(long_task(300)) as events:
        house.machine.run(f"rm {FRONT}")
        name, said = last_of(events)
    assert (name, said["finish_reason"]) == ("end", "length")
    with pytest.raises(FileNotFoundError):
        house.connect()
    assert house.ask("GET", "/health", tcp=True).status == 200
    way_out = "systemctl restart orchd.socket"
    house.wait(lambda: way_out in house.property("orchd.service", "StatusText"), "it says so")
    (told,) = house.journal("orchd.service", "EVENT=socket_removed")
    assert (told["PRIORITY"], way_out in told["MESSAGE"]) == ("3", True)
    house.machine.run(way_out)
    scene.over()


@pytest.mark.req("ORCH-3051")
def test_disk_full_under_orchd(scene: Scene) -> None:
    """Tasks are served; what is to be stored is refused with the cause until there is room."""
    house = scene.house
    with small_disk(house, "/var/lib/orchd", "orchd.service"):
        house.wait_ready()
        scene.served()
        files = files_in(house, "/var/lib/orchd")
        full = house.ask("POST", "/v1/artifacts", NOTE)
        assert (full.status, full.json["code"]) == (507, "REPLICA_EXHAUSTED"), full
        assert "No space left on device" in full.json["message"]
        assert files_in(house, "/var/lib/orchd") == files
        house.machine.run("rm /var/lib/orchd/ballast")
        stored = house.ask("POST", "/v1/artifacts", NOTE)
        assert stored.status == 201, stored
        scene.served()
    scene.over()


@pytest.mark.req("ORCH-3051")
def test_disk_full_under_a_pool(scene: Scene) -> None:
    """It serves, and says what it could not keep."""
    house = scene.house
    with small_disk(house, "/var/lib/poolmgr", UNIT):
        house.wait_ready()
        scene.served()
        house.wait(lambda: house.journal(UNIT, "EVENT=self_test_not_kept"), "it says so")
        assert files_in(house, "/var/lib/poolmgr") == ["ballast"]
    scene.restarts = 0  # the operator's restart counts anew
    scene.over()


@pytest.mark.req("ORCH-3051")
@pytest.mark.parametrize("jump", [DAY_S, -10 * 365 * DAY_S], ids=["a-day-on", "ten-years-back"])
def test_wall_clock_jumps(stage: Scene, clock: FakeClock, jump: int) -> None:
    """No deadline, lease, heartbeat or session reads it: they are of the monotonic clock."""
    house = stage.house
    stage.ready(DROP_IN)
    wish = long_task(400)
    with stage.streaming(wish) as events:
        clock.jump(jump)
        date = parsedate_to_datetime(house.ask("GET", "/health").headers["date"])
        assert abs(date.timestamp() - (time.time() + jump)) < 60, "the daemons see the jump"
        left = house.ask("GET", f"/v1/sessions/{wish['session_id']}").json["ttl_ms_remaining"]
        assert 500_000 < left <= 600_000
        name, said = last_of(events)
    assert (name, said["finish_reason"], said["tokens_out"]) == ("end", "length", 400)
    assert 3000 < said["decode_time_ms"] < 60_000, "four seconds by its pace"
    assert house.health()["live"] is True
    assert house.property("orchd.service", "NRestarts") == "0"
    stage.over()


@pytest.mark.req("ORCH-3051", "OC-POOL-3011", "SYSD-07")
def test_storm_of_kills_on_a_pool(scene: Scene) -> None:
    """Killed as soon as it is there: systemd starts it 30 times, then it rests and says so; and so
    again after each reset, over a hundred starts in all."""
    house = scene.house
    house.machine.systemctl("reset-failed", UNIT)
    house.drop_in(UNIT, AT_ONCE)
    kills = storm(house, UNIT)
    assert (kills, len(house.starts_of(UNIT))) == (31, 30)  # the first was there before
    for _ in range(STORMS - 1):
        house.machine.run(["orchctl", "pools", "reset", "demo"])
        house.wait_ready()
        assert storm(house, UNIT) == 30  # the operator's start counts too
    assert len(house.starts_of(UNIT)) > 100
    assert house.property(UNIT, "ActiveState") == "failed"
    assert "Start request repeated too quickly" in house.said(UNIT)
    house.wait(lambda: house.health()["last_error"]["kind"] == "breaker_open", "health says it")
    error = house.health()["last_error"]
    assert error["advice"] == "Mend the cause, then orchctl pools reset demo."
    refused = house.ask("POST", "/v1/tasks", task())
    assert (refused.status, refused.json["code"]) == (503, "POOL_UNREADY")
    house.machine.run(["orchctl", "pools", "reset", "demo"])
    house.wait_ready()
    scene.restarts = 0  # counted anew
    scene.over()


@pytest.mark.req("ORCH-3051", "OC-POOL-3011", "SYSD-07")
def test_storm_of_kills_on_orchd(scene: Scene) -> None:
    """Twenty starts, then clients are refused at once; the pool waits Ready, its model loaded."""
    house = scene.house
    (engine,) = house.engine_pids(REPLICA)
    house.machine.systemctl("reset-failed", "orchd.service")
    house.drop_in("orchd.service", AT_ONCE)
    kills = storm(house, "orchd.service")
    assert (kills, len(house.starts_of("orchd.service"))) == (21, 20)
    house.wait(
        lambda: house.property("orchd.socket", "ActiveState") == "failed", "the socket rests too"
    )
    with pytest.raises((FileNotFoundError, ConnectionRefusedError)):
        house.connect()
    assert "Start request repeated too quickly" in house.said("orchd.service")
    # specs/12-systemd.md, Procedures
    house.machine.systemctl("reset-failed", "orchd.service", "orchd.socket")
    house.machine.systemctl("start", "orchd.target")
    house.wait_ready()
    assert house.engine_pids(REPLICA) == [engine]
    scene.over()


@contextmanager
def small_disk(house: House, folder: str, unit: str) -> Iterator[None]:
    """A unit whose state folder is a file system of its own, with not a byte left on it."""
    house.machine.systemctl("stop", unit)
    house.machine.run(f"mount -t tmpfs -o size=64k tmpfs {folder}")
    house.machine.run(f"cat /dev/zero > {folder}/ballast", check=False)
    house.machine.systemctl("start", unit)
    yield
    house.machine.systemctl("stop", unit)
    house.machine.run(f"umount {folder}")
    house.machine.systemctl("start", unit)


def files_in(house: House, folder: str) -> list[str]:
    """All files below it, by their names."""
    return sorted(path.name for path in house.machine.path(folder).rglob("*") if path.is_file())


def storm(house: House, unit: str) -> int:
    """Kill the daemon of a unit each time it is there, until it comes no more; how often that was.

    Raises AssertionError when it still comes after KILLS times.
    """
    last = 0
    for kills in range(KILLS):
        pid = house.wait(partial(_next_pid, house, unit, last), f"{unit} comes again or rests")
        if pid is None or pid == RESTS:
            return kills
        with suppress(CommandFailedError):
            house.kill(pid)
        last = pid
    raise AssertionError(f"{unit} comes again after {KILLS} kills")


def _next_pid(house: House, unit: str, last: int) -> int | None:
    """The PID of the daemon's next life; RESTS: there is none; None: not yet."""
    shown = house.machine.show(unit, "ActiveState", "MainPID")
    if shown["ActiveState"] == "failed":
        return RESTS
    pid = int(shown["MainPID"])
    return pid if pid not in (0, last) else None
