"""What systemd makes of a suite that breaks: it comes back, ever more slowly, or rests and says so.

Here: kills, hangs, refusals, the circuit breaker and the way out of it. Not here: what clients of a
running task see of it (tests/edge, tests/poolmgr).
"""

from __future__ import annotations

import pytest

from tests.system.house import SIMULATED, House, mock_pool, names_of, pool, task

pytest_plugins = ("tests.lab.fixtures",)
pytestmark = [pytest.mark.system, pytest.mark.slow]

UNIT = pool("demo:0")
REFUSES = "faults = { refuse_load = true }"
QUICK_BREAKER = """
[Unit]
StartLimitIntervalSec=60s
StartLimitBurst=4
[Service]
RestartSec=100ms
RestartSteps=3
RestartMaxDelaySec=1500ms
"""


def ends_of(house: House, unit: str) -> list[float]:
    """When the daemon of a unit ended, each time, in seconds."""
    entries = house.journal(None, f"UNIT={unit}", "MESSAGE_ID=98e322203f7a4ed290d09fe03c09fe15")
    return [int(entry["__MONOTONIC_TIMESTAMP"]) / 1e6 for entry in entries]


def gaps(house: House, unit: str) -> list[float]:
    """From each end to the start that followed: the backoff as it was."""
    began = house.starts_of(unit)
    after = [[start for start in began if start > end] for end in ends_of(house, unit)]
    return [
        starts[0] - end for end, starts in zip(ends_of(house, unit), after, strict=True) if starts
    ]


def grew(delays: list[float], first_s: float, longest_s: float, steps: int) -> bool:
    """Whether each wait was at least what systemd's steps say; a busy machine makes it longer.

    RestartSec= times (RestartMaxDelaySec= / RestartSec=) ** (n / RestartSteps=): systemd.service(5)
    """
    wanted = [first_s * (longest_s / first_s) ** min(n / steps, 1) for n in range(len(delays))]
    return all(delay > 0.95 * least for delay, least in zip(delays, wanted, strict=True))


def started(house: House) -> None:
    house.configure(SIMULATED, mock_pool())
    house.start("demo:0")
    house.wait_ready()


@pytest.mark.req("OC-POOL-3010", "OC-POOL-3011", "SYSD-06")
def test_orchd_comes_back_each_time_a_little_later(house: House) -> None:
    started(house)
    for kills in range(1, 6):
        house.kill(house.main_pid("orchd.service"))
        house.wait(
            lambda: (
                house.property("orchd.service", "NRestarts") == str(kills)  # noqa: B023
                and house.property("orchd.service", "ActiveState") == "active"
            ),
            f"orchd came back {kills} times",
        )
    delays = gaps(house, "orchd.service")
    assert len(delays) == 5, delays
    assert 0.09 < delays[0] < 0.6, delays
    assert delays[4] > 1.5, delays
    assert grew(delays, 0.1, 10.0, 6), delays
    house.wait_ready()
    assert names_of(house.complete(task()))[-1] == "end"


@pytest.mark.req("HME-001", "SYSD-01")
def test_a_request_made_while_orchd_is_dead_is_answered(house: House) -> None:
    started(house)
    house.kill(house.main_pid("orchd.service"))
    assert house.ask("GET", "/health").status == 200


@pytest.mark.req("OC-POOL-3010", "ORCH-3001", "SYSD-09")
def test_a_killed_poolmgr_takes_its_engine_along_and_comes_back(house: House) -> None:
    started(house)
    (engine,) = house.engine_pids("demo:0")
    house.kill(house.main_pid(UNIT))
    house.wait(lambda: not house.alive(engine), "the engine is gone", 5.0)
    house.wait(lambda: house.health()["ready"] is False, "orchd sees it", 5.0)
    house.wait(lambda: house.property(UNIT, "ActiveState") == "active", "the pool came back")
    house.wait_ready()
    assert house.engine_pids("demo:0") not in ([], [engine])
    assert house.property(UNIT, "NRestarts") == "1"
    assert names_of(house.complete(task()))[-1] == "end"


@pytest.mark.req("ORCH-3001", "SYSD-09")
def test_an_engine_that_hides_from_its_parent_does_not_outlive_the_pool(house: House) -> None:
    """A process of the engine in a session of its own, deaf to SIGTERM, as helpers can be."""
    house.configure(SIMULATED, mock_pool())
    house.start("demo:0")
    house.wait_ready()
    cgroup = f"/sys/fs/cgroup/pools.slice/{UNIT}/engine"
    helper = f"trap '' TERM; echo 0 > {cgroup}/cgroup.procs; sleep 600"
    house.machine.run(["systemd-run", "--quiet", "--collect", "sh", "-c", helper])
    house.wait(lambda: len(house.engine_pids("demo:0")) >= 3, "the helper is in the cgroup")
    pids = house.engine_pids("demo:0")
    house.kill(house.main_pid(UNIT))
    house.wait(lambda: not any(map(house.alive, pids)), "nothing of the engine is left", 5.0)


@pytest.mark.req("OC-POOL-3010", "OC-POOL-3003", "SYSD-06")
def test_a_killed_engine_is_named_and_replaced(house: House) -> None:
    started(house)
    (engine,) = house.engine_pids("demo:0")
    house.kill(engine)
    house.wait(lambda: "SIGKILL" in str(house.health()["replicas"]), "health says why")
    house.wait(lambda: house.property(UNIT, "NRestarts") == "1", "the pool restarts")
    house.wait_ready()
    assert house.engine_pids("demo:0") not in ([], [engine])
    assert "SIGKILL" in house.said(UNIT)
    assert names_of(house.complete(task()))[-1] == "end"


@pytest.mark.req("SYSD-08")
@pytest.mark.parametrize("unit", ["orchd.service", UNIT])
def test_a_hung_daemon_is_restarted_by_the_watchdog(house: House, unit: str) -> None:
    house.drop_in(unit, "[Service]\nWatchdogSec=1s\nTimeoutAbortSec=2s\n")
    started(house)
    house.kill(house.main_pid(unit), "STOP")
    house.wait(lambda: house.property(unit, "NRestarts") == "1", "the watchdog restarts it")
    house.wait(lambda: house.property(unit, "ActiveState") == "active", "it is back")
    house.wait_ready()
    assert "Watchdog timeout" in house.said(unit)


@pytest.mark.req("OC-POOL-3011", "OC-POOL-3002", "OC-POOL-3003", "SYSD-07")
def test_a_pool_that_cannot_load_rests_in_the_end_and_the_way_out(house: House) -> None:
    house.configure(SIMULATED, mock_pool(engine=REFUSES))
    house.drop_in(UNIT, QUICK_BREAKER)
    house.start("demo:0", check=False)

    # orchd runs, and tries the pool's socket all the time
    assert house.ask("GET", "/health").status == 200
    house.wait(lambda: house.property(UNIT, "ActiveState") == "failed", "the breaker is open")
    # while it tried, each wait was longer than the one before
    delays = gaps(house, UNIT)
    assert len(delays) == 3, delays
    assert grew(delays, 0.1, 1.5, 3), delays
    # the cause, and what to do, where an operator looks
    shown = house.machine.systemctl("status", UNIT, check=False).stdout
    assert "Start request repeated too quickly" in house.said(UNIT)
    cause = "refused to load the model"
    assert cause in shown
    assert "Read the engine's last lines in the pool's journal" in house.property(
        UNIT, "StatusText"
    )
    # the client's and the program's view
    refused = house.ask("POST", "/v1/tasks", task())
    assert (refused.status, refused.json["code"]) == (503, "POOL_UNREADY")
    health = house.health()
    assert (health["ready"], health["live"]) == (False, False)
    assert health["last_error"]["message"], health
    # and who rests is told apart from who is tried again, with the way out
    house.wait(
        lambda: house.health()["last_error"]["kind"] == "breaker_open",
        "health says that the breaker is open",
    )
    error = house.health()["last_error"]
    assert "systemd does not start demo:0 any more, after 4 tries" in error["message"]
    assert cause in error["message"]
    assert error["advice"] == "Mend the cause, then orchctl pools reset demo."
    assert "breaker_open" in house.machine.run(["orchctl", "pools"]).stdout
    # it stays so: nothing starts it behind the operator's back
    assert len(house.starts_of(UNIT)) == 4
    assert house.property("poolmgr@demo:0.socket", "ActiveState") in ("inactive", "failed")
    # specs/12-systemd.md, Procedures: correct the cause, then
    house.configure(SIMULATED, mock_pool())
    assert (
        "demo:0: starting again" in house.machine.run(["orchctl", "pools", "reset", "demo"]).stderr
    )
    house.wait_ready()
    assert house.property(UNIT, "NRestarts") == "0"
    assert "last_error" not in house.health()
    unknown = house.machine.run(["orchctl", "pools", "reset", "other"], check=False)
    assert "systemd has no replica of pool other" in unknown.stderr
    assert names_of(house.complete(task()))[-1] == "end"


@pytest.mark.req("OC-POOL-3002", "SYSD-06")
def test_a_corrected_cause_needs_no_command(house: House) -> None:
    """Before the breaker opens, the next attempt finds the corrected file by itself."""
    house.configure(SIMULATED, "[[pools]]\nid = 7\n")
    house.start("demo:0", check=False)
    house.wait(lambda: house.property(UNIT, "SubState") == "auto-restart", "it will try again")
    said = house.said(UNIT)
    assert "/etc/orchd/orchd.toml:" in said, said
    assert house.property(UNIT, "ExecMainStatus") == "78"
    house.configure(SIMULATED, mock_pool())
    house.wait(lambda: house.property(UNIT, "ActiveState") == "active", "the pool started")
    house.wait_ready()


@pytest.mark.req("SYSD-06")
def test_orchd_with_a_wrong_file_says_so_and_recovers(house: House) -> None:
    house.configure("bind_adr = 1\n")
    house.start()
    house.machine.systemctl("start", "orchd.service", check=False)
    house.wait(
        lambda: house.property("orchd.service", "SubState") == "auto-restart", "it will try again"
    )
    assert "bind_addr" in house.said("orchd.service")  # "did you mean"
    house.configure(SIMULATED, mock_pool())
    assert house.ask("GET", "/health").status == 200


@pytest.mark.req("OC-POOL-3003", "SYSD-04")
def test_a_failure_is_an_event_with_fields(house: House) -> None:
    house.configure(SIMULATED, mock_pool(engine=REFUSES))
    house.start("demo:0", check=False)
    house.wait(lambda: house.journal(UNIT, "PRIORITY=3"), "an error is logged")
    ended, failed = house.wait(
        lambda: house.journal(UNIT, "PRIORITY=3", "SYSLOG_IDENTIFIER=poolmgr")[:2], "two errors"
    )
    assert (ended["EVENT"], ended["REPLICA_ID"]) == ("engine_ended", "demo:0")
    assert {"MESSAGE", "ENGINE_PID", "LAST_LINES"} <= set(ended)
    assert (failed["EVENT"], failed["KIND"]) == ("failed", "engine_start_failed")
    assert failed["EXIT_CODE"] == house.property(UNIT, "ExecMainStatus") == "69"
